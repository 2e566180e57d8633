"""The report as a reader has it: in a headless Chromium, at a desk and on a phone, in the light and in the dark."""

import re

import pytest

from fuse.report.page import page as report
from tests.fuse.summary_example import example, samples

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZES = {"desk": (1280, 900), "phone": (390, 844)}
BODY = "#configurations tbody tr"
CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const known = new Map();
    const numbers = (colour) => {
        if (!known.has(colour)) {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            known.set(colour, Array.from(canvas.getImageData(0, 0, 1, 1).data));
        }
        return known.get(colour);
    };
    const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = numbers(getComputedStyle(one).backgroundColor);
            if (colour[3] === 255) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
        if (element.closest('script, .words')) continue;
        const style = getComputedStyle(element);
        const ink = numbers(element.closest('svg') ? style.fill : style.color);
        const [a, b] = [light(ink), light(behind(element.closest('svg') || element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        found.push([ratio, element.tagName, walker.currentNode.data.trim().slice(0, 40)]);
    }
    return found.sort((one, other) => one[0] - other[0]);
}"""


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The hostile page of both tasks, and one of joined runs."""
    folder = tmp_path_factory.mktemp("report")
    cases = {
        "classes": example(),
        "numbers": example(regression=True, modalities=3),
        "runs": example(hostile=False, modalities=3, runs=("first", "second")),
    }
    for name, summary in cases.items():
        (folder / f"{name}.html").write_text(report(summary, samples(summary)), encoding="utf-8")
    return folder


@pytest.fixture
def visit(browser, files):
    """Opens a page; on leaving, nothing may have been said on the console and nothing else asked for."""
    said, asked, contexts = [], [], []

    def opened(name="classes", size="desk", scheme="light", script=True):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=script
        )
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        own = (files / f"{name}.html").as_uri()

        def route(one):
            if one.request.url == own or one.request.url.startswith("data:"):
                one.continue_()
            else:
                asked.append(one.request.url)
                one.abort()

        tab.route("**/*", route)
        tab.goto(own)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert asked == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["classes", "numbers", "runs"])
def test_the_page_never_scrolls_sideways(visit, name, size):
    tab = visit(name, size)
    wide, room = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= room == SIZES[size][0]
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= room


def test_no_script_of_others_runs(visit):
    tab = visit()
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("script").count() == 1
    assert "<script>window.hacked = 1</script>" in tab.locator("h1").inner_text()
    assert 'onerror="window.hacked' in tab.locator("#mistakes").inner_text()
    pictures = tab.evaluate("Array.from(document.images, (one) => [one.naturalWidth, one.src.slice(0, 23)])")
    assert len(pictures) > 4
    assert all(width > 0 and source == "data:image/jpeg;base64," for width, source in pictures)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["classes", "numbers", "runs"])
def test_cells_are_neither_cut_nor_on_top_of_each_other(visit, name, size):
    found = visit(name, size).evaluate(
        """() => Array.from(document.querySelectorAll('.scroll th, .scroll td')).map((head) => {
            const box = head.getBoundingClientRect();
            const words = document.createRange();
            words.selectNodeContents(head);
            const text = words.getBoundingClientRect();
            const next = head.nextElementSibling;
            return {
                title: head.textContent,
                inside: text.left >= box.left - 1 && text.right <= box.right + 1 && text.bottom <= box.bottom + 1,
                whole: head.scrollWidth <= head.clientWidth + 1,
                apart: next === null || getComputedStyle(head).position === 'sticky'
                    || next.getBoundingClientRect().left >= box.right - 1,
            };
        })"""
    )
    assert len(found) > 200
    found = [one for one in found if one["title"].strip()]
    assert [one for one in found if not (one["inside"] and one["whole"] and one["apart"])] == []


def columns_of(tab):
    return tab.evaluate(
        """() => Array.from(document.querySelectorAll('#configurations thead th'),
            (head) => ({ number: head.classList.contains('number'), first: head.dataset.first }))"""
    )


def column(tab, place):
    """Texts and sort values of a column, and the text of the row that stays last."""
    return tab.evaluate(
        """(place) => {
            const rows = Array.from(document.querySelectorAll('#configurations tbody tr'));
            const values = rows.map((row) => row.cells[place].dataset.v);
            return [rows.map((row) => row.cells[place].textContent.trim()),
                values.map((one) => one === undefined ? null : Number(one)),
                document.querySelector('#configurations').rows[rows.length + 1].textContent.trim().slice(0, 8)];
        }""",
        place,
    )


@pytest.mark.parametrize("name", ["classes", "numbers", "runs"])
def test_every_column_sorts_both_ways(visit, name):
    tab = visit(name)
    for place, kind in enumerate(columns_of(tab)):
        head = tab.locator("#configurations thead th").nth(place)
        before = head.get_attribute("aria-sort")
        other = {"ascending": "descending", "descending": "ascending"}
        order = kind["first"] if before is None else other[before]
        for wanted in (order, other[order]):
            head.locator("button").dispatch_event("click")
            assert head.get_attribute("aria-sort") == wanted
            assert tab.locator("#configurations [aria-sort]").count() == 1
            texts, values, last = column(tab, place)
            assert last.startswith("mean" if name == "numbers" else "majority")
            if kind["number"]:
                known = [value for value in values if value is not None]
                assert known == sorted(known, reverse=wanted == "descending")
                assert values[: len(known)] == known, "what is missing comes last"
                assert len(known) > 1
            elif name == "runs":  # plain words, which Python orders alike
                assert texts == sorted(texts, reverse=wanted == "descending")


def test_sorting_works_by_keyboard(visit):
    tab = visit()
    head = tab.locator("#configurations thead th").nth(3)
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "ascending"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2


def test_filters_keep_what_fits(visit):
    tab = visit("runs")
    rows = tab.locator(f"{BODY}:visible")
    every = rows.count()
    tab.fill("#find", "  MLP second ")
    assert 0 < rows.count() < every
    assert all("mlp" in text and "second" in text for text in rows.all_inner_texts())
    assert tab.locator("#found").inner_text() == f"{rows.count()} of {every} rows"
    assert tab.locator("#configurations tfoot tr").is_visible()
    tab.select_option("#subset", label="text + image")
    assert {re.sub(r"\s+", " ", one) for one in tab.locator(f"{BODY}:visible td:nth-child(2)").all_inner_texts()} == {
        "text + image"
    }
    tab.fill("#find", "nothing has this name")
    assert rows.count() == 0
    tab.fill("#find", "")
    tab.select_option("#subset", "")
    assert rows.count() == every
    tab.keyboard.press("Enter")
    assert tab.url.endswith("runs.html")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(visit, scheme, size):
    tab = visit("classes", size, scheme)
    found = tab.evaluate(CONTRAST)
    assert len(found) > 300
    assert [one for one in found if one[0] < 4.5] == []
    red, green, blue = map(int, re.findall(r"\d+", tab.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert (red + green + blue < 120) == (scheme == "dark")


def test_the_first_column_stays_in_sight_on_a_phone(visit):
    tab = visit("classes", "phone")
    place = "document.querySelector('#configurations tbody th').getBoundingClientRect().left"
    before = tab.evaluate(place)
    tab.evaluate("document.querySelector('#configurations').parentElement.scrollLeft = 400")
    assert tab.evaluate("document.querySelector('#configurations').parentElement.scrollLeft") > 100
    assert abs(tab.evaluate(place) - before) < 1


def test_one_forest_plot_is_shown_at_a_time(visit):
    for size, seen in (("desk", [True, False]), ("phone", [False, True])):
        tab = visit("classes", size)
        plots = [tab.locator("#intervals .wide svg"), tab.locator("#intervals .narrow svg")]
        assert [plot.is_visible() for plot in plots] == seen
        smallest = tab.evaluate(
            """() => Math.min(...Array.from(document.querySelectorAll('svg text'))
                .filter((one) => one.checkVisibility())
                .map((one) => parseFloat(getComputedStyle(one).fontSize)
                    * one.ownerSVGElement.getScreenCTM().a))"""
        )
        assert smallest >= 10


def test_it_is_a_plain_table_without_scripts(visit):
    tab = visit(script=False)
    assert tab.locator(BODY).count() == len(example()["rows"])
    assert not tab.locator("#find").is_visible()
    assert tab.locator("thead button").count() == 0


def test_it_prints_dark_on_white(visit):
    tab = visit("classes", scheme="dark")
    assert tab.pdf(format="A4")[:5] == b"%PDF-"
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page').trim()") == "#ffffff"
    assert not tab.locator(".controls").is_visible()
    assert [tab.locator(f"#intervals .{one} svg").is_visible() for one in ("wide", "narrow")] == [True, False]
    tab.set_viewport_size({"width": 680, "height": 960})  # what A4 leaves between margins
    assert tab.evaluate("document.documentElement.scrollWidth") <= 680
    assert tab.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert tab.evaluate("Array.from(document.querySelectorAll('details')).every((one) => one.open)")
