"""A check as files: JSON, all rows concerned as CSV, and a page with examples that needs nothing beside itself."""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import StoreError, make_folder, new_folder, spare, write_json
from extract.check.findings import worst
from extract.check.lines import modality_texts
from extract.check.run import Checked
from extract.originals import Original, shown_of

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
SIDE = 240
"""Pixels of the longer side of an example."""
NOT_IN_HTML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that a page must not hold, or that no file can."""

TURNS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
THIN = "\N{NARROW NO-BREAK SPACE}"


def write_check(checked: Checked, folder: Path | None = None) -> Path:
    """Writes `check.json`, `rows.csv` and `check.html`; those of an earlier check are replaced.

    Args:
        checked: what was found.
        folder: a new one under `runs/` by default.

    Raises:
        StoreError: the folder cannot be made or written to.
        UsageError: it holds such files that are no check's.
    """
    if folder:
        spare(folder, "check.json", ("rows.csv", "check.html"))
    folder = folder or new_folder(f"{checked.summary['name']}-check")
    try:
        make_folder(folder)
        write_json(folder / "check.json", checked.summary)
        with (folder / "rows.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(["what", "modality", "group", "id", "label", "split", "reason"])
            writer.writerows(_rows(checked))
        (folder / "check.html").write_text(check_page(checked.summary, examples(checked)), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
    return folder


def _rows(checked: Checked) -> Iterator[tuple[str, ...]]:
    """Every row concerned. Rows of one group have the same value in `group`."""
    samples = checked.manifest.samples
    place = {sample.id: sample for sample in samples}
    for (kind, modality), groups in checked.groups.items():
        for number, group in enumerate(groups, 1):
            for one in (samples[row] for row in group):
                yield kind, modality, f"{kind}-{modality}-{number}".replace("--", "-"), one.id, one.label, one.split, ""
    for modality, failures in checked.failures.items():
        for failure in failures:
            one = place[failure.id]
            yield "broken", modality, "", one.id, one.label, one.split, failure.reason
    for modality, missing in checked.missing.items():
        for one in (samples[row] for row in missing):
            yield "missing", modality, "", one.id, one.label, one.split, ""


def examples(checked: Checked) -> dict[str, Original]:
    """Texts and small pictures of the rows that the summary names, by id."""
    found = checked.summary["duplicates"]
    groups = [*found["equal"].values(), *found["near"].values(), *([found["sample"]] if found["sample"] else [])]
    named = {row["id"] for group in groups for example in group["examples"] for row in example["rows"]}
    inputs = {sample.id: sample.inputs for sample in checked.manifest.samples if sample.id in named}
    return {name: shown_of(held, SIDE) for name, held in inputs.items()}


def check_page(summary: Mapping[str, Any], shown: Mapping[str, Original]) -> str:
    """The page as HTML: one file, no network, no script.

    Args:
        summary: what `check.json` holds.
        shown: texts and pictures by id, of the rows that the summary names.
    """
    style = _markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    html = (
        _environment()
        .get_template("check.html")
        .render(
            summary=summary,
            shown=shown,
            style=style,
            counts=worst(summary["findings"]),
            classes=_bars(_classes(summary)),
            sections=list(_sections(summary)),
            modalities={name: modality_texts(one) for name, one in summary["modalities"].items()},
        )
    )
    return NOT_IN_HTML.sub("\N{REPLACEMENT CHARACTER}", html)


def _classes(summary: Mapping[str, Any]) -> dict[str, int]:
    counts = (summary["labels"] or {}).get("classes", {})
    return dict(sorted(counts.items(), key=lambda one: -one[1])[:30])


def _bars(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    most = max(counts.values(), default=1)
    return [{"name": name, "count": count, "width": round(100 * count / most, 1)} for name, count in counts.items()]


def _sections(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Groups of rows by what they share, where there are any."""
    found = summary["duplicates"]
    if found["sample"] and found["sample"]["groups"]:
        yield {"title": "Rows that are the same in every modality", "of": found["sample"], "only": ""}
    for name, one in found["equal"].items():
        if one["groups"]:
            yield {"title": f"Equal {name}", "of": one, "only": name}
    for name, one in found["near"].items():
        if one["groups"]:
            yield {"title": f"Nearly equal {name}", "of": one, "only": name}


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"count": _grouped, "jpeg": _jpeg, "short": _short}
    return environment


def _grouped(value: float) -> str:
    """A number with thin spaces between thousands, and no more decimals than it has."""
    return (f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}").replace(",", THIN)


def _short(text: str, most: int) -> str:
    """On one line, at most so many characters; marks that turn the direction of writing are left out."""
    plain = " ".join(TURNS.sub("", str(text)).split())
    return plain if len(plain) <= most else f"{plain[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def _markup(text: str) -> str:
    """A file of ours, to go into the page as it stands."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704  # nosec B704


def _jpeg(content: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
