"""The main table as Markdown, CSV and LaTeX."""

import csv
import io
import re

import pytest

from fuse.report.tables import csv_table, latex_table, markdown_table
from tests.fuse.summary_example import LONG, PIPES, SCRIPT, example

CASES = [(regression, runs) for regression in (False, True) for runs in (("",), ("first", "se|co&nd"))]


def best_head(summary):
    sign, key = (1, "mae") if summary["task"] == "regression" else (-1, "accuracy")
    return min(summary["rows"], key=lambda row: sign * row["metrics"][key]["mean"])


@pytest.mark.parametrize(("regression", "runs"), CASES)
def test_markdown_has_as_many_cells_in_every_line(regression, runs):
    summary = example(regression, runs=runs)
    lines = markdown_table(summary).splitlines()
    assert len(lines) == len(summary["rows"]) + 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert ("| run |" in lines[0]) == (runs != ("",))
    assert lines[-1].startswith("| mean |" if regression else "| majority |")


def test_markdown_escapes_names():
    text = markdown_table(example())
    assert r"a\|b;c,d =1+1" in text
    assert "&lt;script&gt;" in text
    assert "<" not in text


def test_markdown_bold_is_the_best():
    summary = example(hostile=False)
    line = markdown_table(summary).splitlines()[2]
    top = best_head(summary)
    assert line.startswith(f"| {top['head']} | text + image | **{100 * top['metrics']['accuracy']['mean']:.1f}** \\[")


@pytest.mark.parametrize(("regression", "runs"), CASES)
def test_latex_has_as_many_cells_in_every_line(regression, runs):
    summary = example(regression, runs=runs)
    text = latex_table(summary)
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text).group(1)
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == len(summary["rows"]) + 2
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}
    for one in ("toprule", "midrule", "bottomrule"):
        assert rf"\{one}" in text


def test_latex_escapes_specials_and_balances():
    text = latex_table(example())
    bare = re.sub(r"\\[{}$&%#_\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    names = [line for line in text.splitlines() if "7 * 7" in line]
    assert len(names) == 1
    assert r"it's ''quoted'' \& \{\{ 7 * 7 \}\} \{\% raw" in names[0]
    assert r"\_" not in SCRIPT
    assert "$<$script$>$" in text


def test_latex_escapes_every_special():
    summary = example(hostile=False)
    summary["rows"][0]["head"] = "\\{}$&%#_~^<>|\n"
    escaped = r"\textbackslash{}\{\}\$\&\%\#\_\textasciitilde{}\textasciicircum{}$<$$>$$|$"
    assert f"\n{escaped} & text" in latex_table(summary)


def test_latex_name_in_brackets_is_no_argument():
    summary = example(hostile=False)
    summary["rows"][0]["head"] = "[3pt]"
    assert "\n{}[3pt] &" in latex_table(summary)


def test_latex_caption_says_how_it_was_measured():
    text = latex_table(example(hostile=False))
    for said in (r"n = 3\,200", r"5 folds $\times$ 3 seeds", r"95\,\%", "logreg on text + image", "Holm"):
        assert said in text
    assert text.count(r"\textbf") >= 5


@pytest.mark.parametrize(("regression", "runs"), CASES)
def test_csv_reads_back(regression, runs):
    summary = example(regression, runs=runs)
    rows = list(csv.DictReader(io.StringIO(csv_table(summary))))
    key = "mae" if regression else "accuracy"
    assert len(rows) == len(summary["rows"]) + 1
    assert {None} not in [set(row) for row in rows]
    told = {(row["run"], row["head"], row["modalities"]): row for row in rows}
    for row in summary["rows"]:
        head = row["head"].replace("\n", " ")
        one = told[row["run"], head, "+".join(row["modalities"])]
        assert float(one[key]) == row["metrics"][key]["mean"]
        assert float(one[f"{key}_low"]) == row["metrics"][key]["low"]
        versus = row["versus"]["baseline"]
        assert one["baseline_p_holm"] == ("" if versus is None else str(versus["p_holm"]))
    assert (LONG in {row["head"] for row in rows}, PIPES.replace("\n", " ") in {row["head"] for row in rows}) == (
        True,
        True,
    )


@pytest.mark.parametrize("write", [markdown_table, latex_table, csv_table])
def test_little_is_needed(write):
    bare = write({"rows": [{"head": "logreg"}], "majority": None})
    assert "logreg" in bare
    assert "None" not in bare + write({})
