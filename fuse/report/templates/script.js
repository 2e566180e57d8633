"use strict";
(() => {
  const all = (within, what) => Array.from(within.querySelectorAll(what));
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // A value that a row lacks comes last in both directions; equal rows keep the order they were given in.
  const compare = (column, numeric, sign) => (one, other) => {
    const [a, b] = [one.cells[column], other.cells[column]];
    if (!numeric) return sign * words.compare(a.textContent, b.textContent) || one.place - other.place;
    const [x, y] = [a.dataset.v, b.dataset.v];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || one.place - other.place;
    return sign * (Number(x) - Number(y)) || one.place - other.place;
  };

  const sortBy = (table, column) => {
    const heads = all(table.tHead, "th");
    const head = heads[column];
    const was = head.getAttribute("aria-sort");
    const order = was === null ? head.dataset.first : was === "ascending" ? "descending" : "ascending";
    heads.forEach((one) => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    rows.sort(compare(column, head.classList.contains("number"), order === "ascending" ? 1 : -1));
    body.append(...rows);
  };

  all(document, "table.sortable").forEach((table) => {
    Array.from(table.tBodies[0].rows).forEach((row, place) => { row.place = place; });
    all(table.tHead, "th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sortBy(table, column));
    });
  });

  const table = document.getElementById("configurations");
  if (table) {
    const [find, subset, found] = ["find", "subset", "found"].map((id) => document.getElementById(id));
    const rows = Array.from(table.tBodies[0].rows);
    const filter = () => {
      const wanted = find.value.trim().toLowerCase().split(/\s+/);
      let kept = 0;
      rows.forEach((row) => {
        const said = row.textContent.toLowerCase();
        const fits = subset.value === "" || row.dataset.subset === subset.value;
        row.hidden = !(fits && wanted.every((word) => said.includes(word)));
        kept += row.hidden ? 0 : 1;
      });
      found.textContent = kept === rows.length ? `${kept} rows` : `${kept} of ${rows.length} rows`;
    };
    find.form.hidden = false;
    find.form.addEventListener("submit", (event) => event.preventDefault());
    find.addEventListener("input", filter);
    subset.addEventListener("change", filter);
    filter();
  }

  window.addEventListener("beforeprint", () => all(document, "details").forEach((one) => { one.open = true; }));
})();
