"""The page of a check as a reader has it: in a headless Chromium, at a desk and on a phone, light and dark."""

import pytest

from extract import check_data, read_manifest, write_check
from tests.extract.check_data import write_bad_posts
from tests.fuse.test_fuse_browser import CONTRAST, SIZES

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    posts = write_bad_posts(folder / "posts")
    table = posts / "posts.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("p4,", f"{'long' * 40},"), encoding="utf-8")
    return (write_check(check_data(read_manifest(posts)), folder / "out") / "check.html").as_uri()


@pytest.fixture
def visit(browser, address):
    """Opens the page; on leaving, nothing may have been said on the console and nothing else asked for."""
    said, asked, contexts = [], [], []

    def opened(size="desk", scheme="light"):
        width, height = SIZES[size]
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda one: asked.append(one.url) if not one.url.startswith(("data:", address)) else None)
        tab.goto(address)
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert asked == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(visit, size, scheme):
    tab = visit(size, scheme)
    wide, room = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= room == SIZES[size][0]
    found = tab.evaluate(CONTRAST)
    assert len(found) > 100
    assert [one for one in found if one[0] < 4.5] == []
    cards = tab.evaluate("Array.from(document.querySelectorAll('.card'), (one) => [one.scrollWidth, one.clientWidth])")
    assert len(cards) > 8
    assert [one for one in cards if one[0] > one[1]] == []


def test_no_script_of_others_runs_and_all_pictures_are_there(visit):
    tab = visit()
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("script").count() == 0
    pictures = tab.evaluate("Array.from(document.images, (one) => one.naturalWidth)")
    assert len(pictures) == 5
    assert min(pictures) > 0
    assert "<script>window.hacked = 1</script>" in tab.locator("#duplicates").inner_text()


def test_it_prints_dark_on_white(visit):
    tab = visit(scheme="dark")
    assert tab.pdf(format="A4")[:5] == b"%PDF-"
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page').trim()") == "#ffffff"
