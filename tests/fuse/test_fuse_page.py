"""The report as text: escaped, complete in itself, and whole where parts of the summary are missing."""

import math
import random
import re
from html.parser import HTMLParser

import pytest

from fuse.report import plots
from fuse.report.measures import MISSING, Measure, decimals, p_text, short
from fuse.report.page import Shown, page
from tests.fuse.summary_example import HANDLER, LONG, SCRIPT, UNICODE, example, picture, samples

VOID = {"meta", "link", "img", "br", "input", "hr"}
PARTS = (
    *("data", "protocol", "baseline", "unimodal", "rows", "majority", "controls", "closer", "near_duplicates"),
    *("left_out", "conclusions", "provenance"),
)
ROW_PARTS = (
    *("metrics", "recall", "confusion", "reliability", "learning"),
    *("cost", "params", "knockout", "versus", "formula"),
)


class Read(HTMLParser):
    """Elements in balance, their attributes, ids and texts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.attributes, self.texts = [], [], [], [], []
        self.rows = {}
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not set(self.open) & {"style", "script"}:
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def hostile():
    summary = example()
    return page(summary, samples(summary))


@pytest.fixture(scope="module")
def read(hostile):
    return Read(hostile)


def test_what_others_wrote_stands_as_text(hostile, read):
    assert read.tags.count("script") == 1
    assert {name for name, _ in read.attributes if name.startswith("on")} == set()
    assert SCRIPT in read.text
    assert HANDLER in read.text
    assert "{{ 7 * 7 }} {% raw %}" in read.text
    assert "\N{GRINNING FACE}" in read.text
    assert hostile.count(LONG) == 2  # the two texts that say it; a name or an id is cut short


def test_ids_are_unique_and_references_meet_one(hostile, read):
    assert len(read.ids) == len(set(read.ids)) > 50
    wanted = set(re.findall(r"url\(#([^)]+)\)", hostile)) | set(re.findall(r'href="#([^"]+)"', hostile))
    assert wanted <= set(read.ids)
    assert any(one.startswith("forest-") for one in wanted)


def test_nothing_is_loaded(hostile, read):
    assert set(re.findall(r"https?://[^\"'\s<]*", hostile)) == {"http://www.w3.org/2000/svg"}
    loaded = [value for name, value in read.attributes if name in ("src", "href", "action", "data", "srcset")]
    outside = {value.partition(",")[0] for value in loaded if not value.startswith("#")}
    assert outside == {"data:", "data:image/jpeg;base64"}
    assert "@import" not in hostile
    assert "default-src 'none'" in hostile


def test_the_same_summary_makes_the_same_page(hostile):
    summary = example()
    assert page(summary, samples(summary)) == hostile


def test_colours_of_plots_follow_the_page(hostile):
    drawn = "".join(re.findall(r"<svg.*?</svg>", hostile, flags=re.DOTALL))
    assert "var(--accent)" in drawn
    assert re.findall(r"(?:fill|stroke|color): *(?:#|rgb)[^;\"]*", drawn) == []


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("regression", [False, True])
def test_both_tasks_are_shown(regression, modalities):
    summary = example(regression, modalities, hostile=False)
    read = Read(page(summary, samples(summary, hostile=False)))
    first = "mlp-aux on text + image + audio" if modalities == 3 else "mlp-aux on text + image"
    assert f"A closer look at {first}" in read.text
    assert ("MAE" in read.text, "Recall" in read.text) == (regression, not regression)
    assert "MAE , percent" not in read.text
    assert "McNemar" in read.text
    for said in ("Near-duplicates", "Controls", "Trained anew", "Provenance", "pipeline.py ablate posts"):
        assert said in read.text


def test_less_is_better_for_an_error():
    summary = example(regression=True, hostile=False)
    html = page(summary, {})
    body = html[html.index('id="configurations"') :]
    values = [float(one) for one in re.findall(r'data-v="([\d.]+)"><span class="pair"', body)]
    assert len(values) == len(summary["rows"])
    assert values == sorted(values)
    assert re.search(r'data-first="ascending" aria-sort="ascending"[^>]*><span class="word">MAE', body)


@pytest.mark.parametrize("empty", [None, "gone"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_may_be_missing(part, empty):
    summary = quick()
    if empty == "gone":
        del summary[part]
    else:
        summary[part] = empty
    read = Read(page(summary, {}))
    assert read.tags.count("h1") == 1
    assert "None" not in read.text
    assert "Undefined" not in read.text


def quick(regression=False):
    """A summary of few rows and curves, whose page is soon made."""
    summary = example(regression, hostile=False)
    summary["rows"] = summary["rows"][:4]
    for row in summary["rows"][1:]:
        row["reliability"] = row["learning"] = None
    return summary


def test_an_empty_summary_says_so():
    read = Read(page({}, {}))
    assert "No head was judged." in read.text
    assert "None" not in read.text


@pytest.mark.parametrize("empty", [None, {}])
@pytest.mark.parametrize("part", ROW_PARTS)
def test_a_part_of_the_rows_may_be_missing(part, empty):
    summary = quick()
    for row in summary["rows"]:
        row[part] = empty
    read = Read(page(summary, {}))
    assert "None" not in read.text
    assert "mlp-aux" in read.text


@pytest.mark.parametrize("regression", [False, True])
def test_any_value_may_be_missing(regression):
    """All numbers of the summary, and some of the words, become None or a number that is none."""
    chance = random.Random(3)  # noqa: S311
    for wrong in (None, math.nan, math.inf, ""):
        summary = quick(regression)
        _spoil(summary, wrong, chance)
        read = Read(page(summary, {}))
        assert re.search(r"\b(nan|inf|None)\b", read.text) is None


def _spoil(value, wrong, chance):
    places = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(places):
        if isinstance(one, dict | list):
            _spoil(one, wrong, chance)
        elif isinstance(one, float) or (key not in ("head", "task", "primary") and chance.random() < 0.2):
            value[key] = wrong


def test_joined_runs_are_told_apart():
    one, two = example(hostile=False), example(hostile=False, runs=("first", "second"))
    heads = [re.findall(r'<span class="word">run</span></th>', page(summary, {})) for summary in (one, two)]
    assert [len(found) for found in heads] == [0, 1]
    assert "mlp-aux on text + image (second)" in Read(page(two, {})).text


def test_text_that_no_file_can_hold_is_replaced():
    summary = example(hostile=False)
    summary["data"]["name"] = "a\ud800b\x00c\x1bd"
    html = page(summary, {})
    assert html.encode()
    assert "<bdi>a\N{REPLACEMENT CHARACTER}b" in html
    assert "\x00" not in html


def test_a_sample_shows_its_picture_and_its_text():
    summary = example(hostile=False)
    one = summary["closer"]["mistakes"][0]["id"]
    plain = page(summary, {})
    shown = page(summary, {one: Shown({"text": "so it was"}, {"image": picture(1), "scan": b""})})
    assert (plain.count("<img"), shown.count("<img")) == (0, 1)
    assert "so it was" in shown


def test_what_a_modality_adds_has_a_sign():
    summary = example(hostile=False)
    html = page(summary, {})
    card = html[html.index('id="mistakes"') :]
    assert re.search(r'<i style="width:100.0%"></i></span><span class="value">\+0.31<', card)
    assert re.search(r'<i class="against" style="width:19.4%"></i></span><span class="value">\N{MINUS SIGN}0.06<', card)


def test_a_look_without_labels_says_none():
    summary = example(hostile=False)
    summary["closer"]["mistakes"] = []
    for look in summary["closer"]["attention"]:
        del look["true"], look["label"]
    html = page(summary, {})
    assert "look-0" in html
    assert 'class="verdict"' not in html


def test_tests_that_were_not_made_have_no_column():
    summary = example(hostile=False)
    read = Read(page(summary, {}))
    assert "p rows Holm" in read.text
    assert "Nadeau and Bengio" in read.text
    for row in summary["rows"]:
        for one in filter(None, row["versus"].values()):
            one["test"], one["p_rows"], one["p_rows_holm"] = "rows", None, None
    read = Read(page(summary, {}))
    assert "p rows Holm" not in read.text
    assert "Nadeau and Bengio" not in read.text
    assert "12.9" in read.text  # percent of the rows that are discordant


def test_words_are_tinted_where_tokens_are_named():
    summary = example(hostile=False)
    look = summary["closer"]["attention"][0]
    look["weights"] = {"text": [0.1, 0.4]}
    look["tokens"] = {"text": ["<b>", "day"]}
    assert re.search(r'<span style="--a:25%">&lt;b&gt;</span>\s*<span style="--a:100%">day</span>', page(summary, {}))


def test_many_configurations_stay_light():
    summary = example(hostile=False, modalities=3)
    row = summary["rows"][0]
    summary["rows"] += [{**row, "head": f"head-{k}"} for k in range(500)]
    html = page(summary, {})
    assert html.count('data-subset="') > 500
    assert len(html.encode()) < 2_000_000
    assert "the best 12 of 534" in Read(html).text


def test_many_classes_become_pairs():
    summary = example(hostile=False)
    names = [f"class {k}" for k in range(40)]
    summary["data"] |= {"classes": names, "counts": dict.fromkeys(names, 80)}
    matrix = [[50.0 if t == p else 0.0 for p in range(40)] for t in range(40)]
    matrix[3][7] = 29
    for row in summary["rows"]:
        row["confusion"], row["recall"] = matrix, dict.fromkeys(names, 0.5)
    read = Read(page(summary, {}))
    assert "class 3 class 7 29" in read.text
    assert "the 20 most frequent of 40 classes" in read.text


def test_a_name_never_is_mathematics():
    svg = plots.forest([plots.Interval("$\\frac{1$ <b>" + UNICODE, 1.0, 0.5)], [plots.Line("a & b", 0.7)], "$x", "one")
    assert "$\\frac{1$ &lt;b&gt;" in svg
    assert "a &amp; b" in svg
    assert "$x</text>" in svg
    assert "clip" not in svg or 'id="one-' in svg


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.71234, "71.2"), (-0.004, "\N{MINUS SIGN}0.4"), (-0.0001, "0.0"), (None, MISSING), (math.nan, MISSING)],
)
def test_numbers_are_written_one_way(value, text):
    assert Measure("accuracy", "accuracy", percent=True).text(value) == text


def test_small_numbers_and_long_names():
    assert [p_text(p) for p in (0.0004, 0.05, None)] == ["<0.001", "0.050", MISSING]
    assert decimals(True, 1) == MISSING
    assert short("a\n b\u202ec", 10) == "a bc"
    assert len(short("x" * 99, 12)) == 12
