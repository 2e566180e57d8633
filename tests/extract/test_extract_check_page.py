"""The page of a check: what it says, and that nothing in the data can speak for itself there."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from extract import check_data, read_manifest, write_check
from tests.conftest import ROOT
from tests.extract.check_data import HOSTILE, write_bad_posts


class Reader(HTMLParser):
    """Tags, links and pictures of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.anchors, self.ids, self.pictures, self.said = [], set(), set(), set(), [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.anchors |= {found["href"]} if tag == "a" else set()
        self.pictures += [found] if tag == "img" else []
        assert not [name for name in found if name.startswith("on")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    checked = check_data(read_manifest(write_bad_posts(folder / "posts")))
    return (write_check(checked, folder / "out") / "check.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_nothing_in_the_data_becomes_markup(page, read):
    assert "script" not in read.tags
    assert HOSTILE not in page
    assert "\u202e" not in page
    assert "<script>window.hacked = 1</script>" in "".join(read.said), "it stands there as text"
    assert "default-src 'none'" in page


def test_it_needs_nothing_beside_itself(page, read):
    assert {one["src"][:23] for one in read.pictures} == {"data:image/jpeg;base64,"}
    assert all(one["alt"] for one in read.pictures)
    assert {one for one in read.anchors if not one.startswith("#")} == set()
    assert {one.removeprefix("#") for one in read.anchors} <= read.ids
    assert "url(" not in page


def test_it_shows_what_was_found(read):
    said = re.sub(r"\s+", " ", " ".join(read.said))
    for words in ("gives the label away", "Equal text", "Nearly equal image", "it is a web page", "test"):
        assert words in said
    assert len(read.pictures) == 2 + 3, "two equal ones, and three that are nearly so"
    assert "None" not in said
    assert "nan" not in said.split()


def test_a_page_of_little(tmp_path):
    (tmp_path / "texts.csv").write_text("text\nonly this\n")
    folder = write_check(check_data(read_manifest(tmp_path)), tmp_path / "out")
    page = (folder / "check.html").read_text(encoding="utf-8")
    assert "No row has a label." in page
    assert "Without labels there are none." in page
    assert "<img" not in page


def test_it_looks_like_the_page_of_an_ablation():
    """The two packages may not import each other; what their pages share is held here."""
    ours, theirs = (
        (ROOT / package / "templates" / "style.css").read_text(encoding="utf-8")
        for package in (Path("extract") / "check", Path("fuse") / "report")
    )
    start = ours.index("* { box-sizing")
    assert theirs.startswith(ours[:start]), "colours and fonts"
    for rule in (".facts {", ".scroll {", ".card {", ".track i {", "nav {", ".kind {", "body {", ".terms > div {"):
        own, other = (style[style.index(f"\n{rule}") :].partition("}")[0] for style in (ours, theirs))
        assert own.replace("0.8rem", "0.9rem") == other.replace("0.8rem", "0.9rem"), rule
