import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache import DataError, UsageError
from fuse import Asked, Shown, ablate, ablation_result, ablation_text, load_run, make_classifier, read_summary, report
from fuse.ablation.conclusions import conclusions
from fuse.ablation.engine import FITS
from fuse.ablation.results import read_results, read_rows
from fuse.heads.vote import LateVotingClassifier
from tests.fuse.ablation_data import CLASSES, csv_rows, gaps, make_numbers, make_posts, quick, settings  # noqa: F401
from tests.fuse.summary_example import picture

FILES = "results.csv summary.json report.html table.md table.tex metrics.json predictions.csv run.json model fits"
SEVERAL = ("logreg", "vote", "ridge")


def run(table, root, *, out=None, show=None, progress=lambda *_: None, **given):
    """An ablation under `root` on one core."""
    asked = Asked("features", "pipeline.py ablate --name posts")
    given = {"folds": 2, "seeds": (0,), **given}
    return ablate(table, settings(**given), asked, root=root, out=out, jobs=1, show=show, progress=progress)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_posts(tmp_path_factory.mktemp("run") / "posts", present=gaps())


@pytest.fixture(scope="module")
def ablated(table, tmp_path_factory):
    return run(table, tmp_path_factory.mktemp("runs"), heads=SEVERAL, controls=None, seeds=(0, 1))


@pytest.fixture
def finished(ablated, tmp_path):
    """A finished ablation of one's own in `runs/posts-ablation-1`."""
    shutil.copytree(ablated.folder, tmp_path / "runs" / "posts-ablation-1")
    return tmp_path / "runs" / "posts-ablation-1"


def timeless(value):
    """A summary without what two equal runs differ in."""
    if isinstance(value, dict):
        return {
            key: timeless(one)
            for key, one in value.items()
            if not key.endswith("seconds") and key not in ("created", "cost", "command")
        }
    return [timeless(one) for one in value] if isinstance(value, list) else value


def strict(path):
    """JSON that holds neither NaN nor infinity."""

    def refuse(name):
        raise AssertionError(f"{path} holds {name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_every_file_is_there_and_agrees_with_the_others(table, ablated):
    folder, summary = ablated.folder, ablated.summary
    assert {name for name in FILES.split() if not (folder / name).exists()} == set()
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    stored = strict(folder / "summary.json")
    assert stored == json.loads(json.dumps(summary))
    for name in ("metrics.json", "run.json", "ablation.json"):
        strict(folder / name)
    assert len(csv_rows(folder / "results.csv")) == 3 * 3 * 4
    assert len(summary["rows"]) == 9
    assert len(summary["controls"]) == 4
    assert summary["data"] | {"digest": ""} == {
        "name": "posts",
        "view": "posts",
        "rows": 60,
        "classes": list(CLASSES),
        "counts": dict.fromkeys(CLASSES, 20),
        "modalities": ["text", "image"],
        "present": {"text": 54, "image": 54},
        "kept_together": 0,
        "digest": "",
    }
    assert summary["protocol"]["seeds"] == [0, 1]
    assert summary["protocol"]["folds"] == 2
    assert summary["provenance"]["command"] == "pipeline.py ablate --name posts"
    assert summary["provenance"]["settings"]["heads"] == list(SEVERAL)
    assert summary["conclusions"] == conclusions(summary)
    assert summary["closer"]["head"] in SEVERAL
    html = (folder / "report.html").read_text(encoding="utf-8")
    for head in SEVERAL:
        assert head in html
    assert (ablated.fitted, ablated.reused, ablated.failed) == (36 + 16, 0, [])


def test_the_best_is_kept_as_a_run_that_predicts(table, ablated):
    folder, best = ablated.folder, ablated.summary["rows"][0]
    kept = load_run(folder)
    assert kept.settings["head"] == best["head"]
    assert set(kept.encoders) == set(best["modalities"])
    metrics = strict(folder / "metrics.json")
    own = [one for one in csv_rows(folder / "results.csv") if one["head"] == best["head"] and one["seed"] == "0"]
    own = [one for one in own if one["modalities"] == "+".join(best["modalities"])]
    shares = [float(one["accuracy"]) * int(one["n_test"]) for one in own]
    assert metrics["accuracy"] == pytest.approx(sum(shares) / 60)
    assert metrics["chosen_from"] >= 9
    assert [one["fold"] for one in metrics["folds"]] == ["0", "1"]
    rows = csv_rows(folder / "predictions.csv")
    assert sorted(row["id"] for row in rows) == sorted(table.ids.tolist())
    assert np.mean([row["label"] == row["true"] for row in rows]) == pytest.approx(metrics["accuracy"])
    truth = dict(zip(table.ids.tolist(), table.y.tolist(), strict=True))
    assert all(row["true"] == truth[row["id"]] for row in rows)
    part = table.select(best["modalities"])
    again = make_classifier(best["head"]).fit(part, table.y)
    np.testing.assert_allclose(kept.model.predict_proba(part), again.predict_proba(part), atol=1e-6)


def test_what_is_said_of_it_on_the_screen_and_as_json(ablated):
    text = ablation_text(ablated.summary)
    best = ablated.summary["rows"][0]
    assert f"{100 * best['metrics']['accuracy']['mean']:.1f} [" in text
    assert all(head in text for head in SEVERAL)
    assert "always " in text
    result = ablation_result(ablated)
    json.dumps(result, allow_nan=False)
    assert result["best"]["head"] == best["head"]
    assert result["best"]["accuracy"] == best["metrics"]["accuracy"]["mean"]
    assert (result["configurations"], result["fitted"], result["failed"]) == (9, 52, [])


@pytest.mark.slow
def test_a_stopped_one_ends_as_if_it_had_not_been(table, tmp_path):
    def stop(what, count, total):
        raise KeyboardInterrupt

    given = {"heads": ("logreg", "vote"), "controls": ("logreg",)}
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path / "runs", progress=stop, **given)
    with pytest.raises(UsageError, match="posts-ablation-1 holds no ablation"):
        read_summary(tmp_path / "runs" / "posts-ablation-1")
    done = run(table, tmp_path / "runs", **given)
    assert done.folder == tmp_path / "runs" / "posts-ablation-1"
    assert done.reused > 0
    whole = run(table, tmp_path / "other", **given)
    assert whole.reused == 0
    assert done.fitted + done.reused == whole.fitted
    assert timeless(done.summary) == timeless(whole.summary)
    for name in ("predictions.csv", "metrics.json"):
        assert (done.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    another = run(table, tmp_path / "runs", **given)
    assert another.folder == tmp_path / "runs" / "posts-ablation-2"
    assert (another.fitted, another.reused) == (0, whole.fitted)
    assert timeless(another.summary) == timeless(whole.summary)


@pytest.mark.slow
def test_out_again_with_more_heads_fits_these_alone(table, finished):
    done = run(table, None, out=finished, heads=(*SEVERAL, "text"), controls=None, seeds=(0, 1))
    assert (done.fitted, done.reused) == (4, 52)
    assert done.folder == finished
    assert len(read_summary(finished)["rows"]) == 10


@pytest.mark.slow
def test_other_settings_of_a_head_are_looked_at_anew(table, tmp_path):
    """What the closer look shows is of the very heads that judged, whatever was looked at before."""
    strong = {"params": {"ridge": {"alpha": 1e4}}, "heads": ("ridge",)}
    run(table, None, out=tmp_path / "a", heads=("ridge",))
    again = run(table, None, out=tmp_path / "a", **strong)
    fresh = run(table, None, out=tmp_path / "elsewhere" / "b", **strong)
    assert timeless(again.summary)["closer"] == timeless(fresh.summary)["closer"]


@pytest.mark.parametrize("given", [{"heads": ("mpl",)}, {"params": {"logreg": {"D": 1}}}, {"seeds": ()}])
def test_a_slip_of_the_pen_costs_nothing(table, finished, given):
    with pytest.raises(UsageError):
        run(table, None, out=finished, **given)
    assert read_summary(finished)
    with pytest.raises(UsageError):
        run(table, finished.parent, **given)
    assert [path.name for path in finished.parent.iterdir()] == [finished.name]


@pytest.mark.slow
def test_heads_that_fail_are_named_and_the_others_reported(table, tmp_path, monkeypatch):
    def fail(self, X, y, *args, **kwargs):
        raise UsageError("votes are off today")

    monkeypatch.setattr(LateVotingClassifier, "fit", fail)
    done = run(table, tmp_path, heads=("vote", "logreg"))
    assert len(done.failed) == 6
    assert "vote on text + image, seed 0, fold 1: votes are off today" in done.failed
    assert "vote on text + image: votes are off today" in done.summary["left_out"]
    assert {row["head"] for row in done.summary["rows"]} == {"logreg"}
    assert "votes are off today" in (done.folder / "report.html").read_text(encoding="utf-8")
    assert load_run(done.folder).settings["head"] == "logreg"


# Data of all kinds.


def test_numbers_of_three_modalities_with_gaps(tmp_path):
    names = ("text", "image", "sound")
    table = make_numbers(tmp_path / "numbers", names, present=gaps(names))
    done = run(table, tmp_path / "runs", heads=("ridge", "mlp"), controls=None, params={"mlp": {"epochs": 3}})
    summary = strict(done.folder / "summary.json")
    assert (summary["task"], summary["primary"]) == ("regression", "mae")
    assert len(summary["rows"]) == 2 * 7
    assert {one["control"] for one in summary["controls"]} == {
        f"{name} {how}" for name in names for how in ("shuffled", "replaced by noise")
    }
    values = [row["metrics"]["mae"]["mean"] for row in summary["rows"]]
    assert values == sorted(values)
    assert values[0] < summary["majority"]["metrics"]["mae"]
    assert "MAE" in ablation_text(done.summary)
    assert f"MAE {values[0]:.3f}" in summary["conclusions"][0]
    assert summary["baseline"]["head"] == "ridge"
    rows = csv_rows(done.folder / "predictions.csv")
    errors = [abs(float(row["label"]) - float(row["true"])) for row in rows]
    assert np.mean(errors) == pytest.approx(strict(done.folder / "metrics.json")["mae"], rel=1e-4)
    kept = load_run(done.folder)
    assert kept.model.predict(table.select(list(kept.encoders))).shape == (60,)
    mistakes = summary["closer"]["mistakes"]
    assert all(one["confidence"] is None for one in mistakes)


HOSTILE = ('<b>"x"</b>', "=cmd|' /C calc'!A0", "naïve, 新\u202e", "line\nbreak & {{7*7}} \\input{x}")


@pytest.mark.slow
def test_labels_that_mean_harm_are_labels(tmp_path):
    table = make_posts(tmp_path / "posts", classes=HOSTILE)
    done = run(table, tmp_path / "runs", seeds=(3,))
    summary = strict(done.folder / "summary.json")
    assert summary["data"]["counts"] == dict.fromkeys(sorted(HOSTILE), 15)
    assert set(summary["rows"][0]["recall"]) == set(HOSTILE)
    html = (done.folder / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in html
    assert all(bad not in html for bad in ('<b>"x', "<b>&#34;x", "<b>&quot;x"))
    rows = csv_rows(done.folder / "results.csv")
    assert {name for name in rows[0] if name.startswith("recall_")} == {f"recall_{one}" for one in HOSTILE}
    assert "\\input{x}" not in (done.folder / "table.tex").read_text(encoding="utf-8")
    assert load_run(done.folder).model.classes_.tolist() == sorted(HOSTILE)


@pytest.mark.slow
def test_two_classes_two_folds_one_head_one_modality(tmp_path):
    table = make_posts(tmp_path / "posts", classes=("no", "yes"), modalities=("text",))
    done = run(table, tmp_path / "runs", controls=None)
    summary = strict(done.folder / "summary.json")
    assert [(row["head"], row["modalities"]) for row in summary["rows"]] == [("logreg", ["text"])]
    assert (summary["unimodal"], summary["closer"], summary["controls"]) == (None, None, [])
    assert summary["rows"][0]["versus"] == {"baseline": None, "unimodal": None}
    assert len(summary["conclusions"]) >= 1
    assert ablation_text(done.summary)
    assert report([done.folder], None).summary["rows"] == summary["rows"]


def test_given_splits_train_the_model_that_is_kept(tmp_path):
    split = np.repeat(["train", "val", "test"], [30, 12, 18])
    table = make_posts(tmp_path / "posts", split=split)
    done = run(table, tmp_path / "runs", seeds=(0, 1))
    summary, kept = done.summary, load_run(done.folder)
    assert done.fitted == 3
    assert summary["protocol"]["folds"] == 1
    assert len(csv_rows(done.folder / "predictions.csv")) == 18
    part = table.select(list(kept.encoders))
    train = np.flatnonzero(split == "train")
    again = make_classifier("logreg").fit(part[train], table.y[train])
    np.testing.assert_allclose(kept.model.predict_proba(part), again.predict_proba(part), atol=1e-6)
    assert all(
        row["versus"]["baseline"] is None or row["versus"]["baseline"]["test"] == "rows" for row in summary["rows"]
    )
    json.dumps(summary, allow_nan=False)


@pytest.mark.slow
def test_settings_that_were_searched_stand_in_the_record(tmp_path):
    table = make_posts(tmp_path / "posts")
    done = run(table, tmp_path / "runs", grid="small")
    rows = csv_rows(done.folder / "results.csv")
    assert all(json.loads(row["params"])["C"] in (0.1, 1.0, 10.0) for row in rows)
    for row in done.summary["rows"]:
        chosen = [json.loads(one["params"])["C"] for one in rows if one["modalities"] == "+".join(row["modalities"])]
        expected = {f"C={one}": chosen.count(one) for one in set(chosen)}
        assert row["params"] == expected
    kept = load_run(done.folder)
    assert kept.settings["params"]["C"] == kept.model.C


# Pictures and texts of the mistakes.


def test_texts_and_pictures_of_mistakes_are_shown(table, tmp_path):
    asked = []

    def show(ids):
        asked.extend(ids)
        return {one: Shown({"text": f"words of {one}"}, {"image": picture(0)}) for one in ids}

    done = run(table, tmp_path, show=show)
    named = [one["id"] for one in done.summary["closer"]["mistakes"]]
    assert named
    assert asked == named
    html = (done.folder / "report.html").read_text(encoding="utf-8")
    assert all(f"words of {one}" in html for one in named)
    assert "data:image/jpeg;base64," in html


@pytest.mark.slow
def test_where_the_data_is_gone_the_report_says_so_once(table, tmp_path):
    def gone(ids):
        raise DataError("the data at posts cannot be read")

    said = "pictures and texts of the mistakes: the data at posts cannot be read"
    done = run(table, tmp_path, show=gone)
    assert done.failed == []
    for _ in range(2):
        assert read_summary(done.folder)["left_out"].count(said) == 1
        assert said in (done.folder / "report.html").read_text(encoding="utf-8")
        report([done.folder], None, gone)
    report([done.folder], None, lambda ids: {})
    assert said not in read_summary(done.folder)["left_out"]


# Reports.


def test_a_report_is_built_again_from_the_folder_alone(finished):
    before = {name: (finished / name).read_bytes() for name in ("summary.json", "report.html", "table.md", "table.tex")}
    for name in ("report.html", "table.md", "table.tex"):
        (finished / name).unlink()
    done = report([finished], None)
    assert done.folder == finished
    after = {name: (finished / name).read_bytes() for name in before}
    assert {name for name in before if after[name] != before[name]} == set()
    elsewhere = report([finished], finished.parent / "elsewhere")
    assert (elsewhere.folder / "report.html").read_bytes() == before["report.html"]
    assert not (elsewhere.folder / "run.json").exists()


@pytest.fixture
def other(tmp_path):
    """An ablation of the same rows by another encoder, of one more seed and one head less."""
    table = make_posts(tmp_path / "posts2", seed=5, present=gaps())
    return run(table, tmp_path / "runs2", out=tmp_path / "runs" / "other", heads=("logreg",), seeds=(1, 2)).folder


def test_runs_on_the_same_rows_are_joined(finished, other, tmp_path):
    done = report([finished, other], tmp_path / "joined")
    summary = strict(tmp_path / "joined" / "summary.json")
    assert done.folder == tmp_path / "joined"
    assert {(row["run"], row["head"]) for row in summary["rows"]} == {
        *(("posts-ablation-1", head) for head in SEVERAL),
        ("other", "logreg"),
    }
    assert len(summary["rows"]) == 9 + 3
    for folder in (finished, other):
        own = [one for one in csv_rows(folder / "results.csv") if one["seed"] == "1"]  # the seed of both
        for row in (row for row in summary["rows"] if row["run"] == folder.name):
            folds = [
                one for one in own if (one["head"], one["modalities"]) == (row["head"], "+".join(row["modalities"]))
            ]
            right = sum(float(one["accuracy"]) * int(one["n_test"]) for one in folds)
            assert row["metrics"]["accuracy"]["mean"] == pytest.approx(right / 60)
            assert row["fits"] == 2
    values = [row["metrics"]["accuracy"]["mean"] for row in summary["rows"]]
    assert values == sorted(values, reverse=True)
    assert "other" in (tmp_path / "joined" / "report.html").read_text(encoding="utf-8")
    assert {name.partition(": ")[0] for name in summary["provenance"]["encoders"]} == {"posts-ablation-1", "other"}
    assert ablation_text(done.summary)


@pytest.mark.slow
def test_the_seeds_that_are_named_are_those_that_all_runs_have(finished, other, tmp_path):
    assert report([finished, other], tmp_path / "joined").summary["protocol"]["seeds"] == [1]


@pytest.mark.slow
def test_runs_on_some_of_the_rows_are_joined_on_those(finished, tmp_path):
    fewer = make_posts(tmp_path / "posts3", rows=57)
    done = run(fewer, None, out=tmp_path / "fewer")
    joined = report([finished, done.folder], tmp_path / "joined")
    assert joined.summary["data"]["rows"] == 57
    json.dumps(joined.summary, allow_nan=False)
    ids = set(read_rows(done.folder).ids.tolist())
    state = strict(finished / "ablation.json")
    (column,) = [
        one
        for one in read_results(finished, state, FITS).columns
        if (one.cell.head, one.cell.modalities, one.cell.control) == ("logreg", ("text", "image"), "")
    ]
    assert joined.summary["protocol"]["seeds"] == [0]
    losses, rights = [], []
    for number in np.unique(column.rows.fold[0]):
        kept = [n for n, one in enumerate(column.rows.ids) if column.rows.fold[0][n] == number and one in ids]
        right = column.proba[0, kept, column.rows.true[kept]]
        losses.append(-np.log(right.astype(float)).mean())
        rights.append((column.label[0, kept] == column.rows.true[kept]).mean())
    (row,) = [
        one
        for one in joined.summary["rows"]
        if (one["run"], one["head"], one["modalities"]) == (finished.name, "logreg", ["text", "image"])
    ]
    assert row["metrics"]["nll"]["mean"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["metrics"]["accuracy"]["sd"] == pytest.approx(np.std(rights, ddof=1))


@pytest.mark.slow
def test_what_cannot_be_joined_is_refused(finished, other, tmp_path):
    for out in (None, finished):
        with pytest.raises(UsageError, match="a report of several runs needs a folder of its own: give --out"):
            report([finished, other], out)
    with pytest.raises(UsageError, match="a run is named twice; give each once"):
        report([finished, finished], tmp_path / "joined")
    (other / "run.json").unlink()
    with pytest.raises(UsageError, match="other holds an unfinished ablation; go on by ablate --out"):
        report([finished, other], tmp_path / "joined")
    with pytest.raises(UsageError, match=r"posts2 holds no ablation \(looked for summary.json\)"):
        report([tmp_path / "posts2"], None)
    (finished / "summary.json").write_text('{"schema": 0}')
    with pytest.raises(UsageError, match="is of another version; run ablate again with --out"):
        report([finished], None)
    (finished / "summary.json").write_text("{")
    with pytest.raises(UsageError, match=r"cannot be read: .*; run ablate again with --out"):
        report([finished], None)
    assert not (tmp_path / "joined").exists()


@pytest.mark.slow
def test_the_same_run_by_two_paths_is_one_run(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.parent)
    with pytest.raises(UsageError, match="twice"):
        report([Path(finished.name), finished], tmp_path / "joined")


@pytest.mark.slow
def test_other_rows_are_refused(finished, tmp_path):
    others = make_posts(tmp_path / "more", classes=("no", "yes"))
    folder = run(others, None, out=tmp_path / "others").folder
    with pytest.raises(DataError, match="the runs have other classes"):
        report([finished, folder], tmp_path / "joined")
    relabelled = np.arange(60) % 3
    relabelled[0] = 1
    from tests.fuse.ablation_data import vectors
    from tests.fuse.conftest import _write_table

    table = _write_table(tmp_path / "changed", vectors(relabelled), np.array(CLASSES, dtype=object)[relabelled])
    folder = run(table, None, out=tmp_path / "relabelled").folder
    with pytest.raises(DataError, match=r"1 rows have another label in another run: \['id0'\]"):
        report([finished, folder], tmp_path / "joined")
    folder = run(table, None, out=tmp_path / "seeds", seeds=(9,)).folder
    with pytest.raises(DataError, match="60 judged rows and 0 seeds in common"):
        report([finished, folder], tmp_path / "joined")


@pytest.mark.slow
def test_a_lost_fit_is_missed(finished, other, tmp_path):
    for path in list((other / "fits").glob("*.fit")):
        path.unlink()
    with pytest.raises(UsageError, match="other lacks fits of logreg on text; run ablate again with --out"):
        report([finished, other], tmp_path / "joined")


def test_summaries_are_not_changed_by_their_report(finished):
    summary = read_summary(finished)
    before = copy.deepcopy(summary)
    conclusions(summary)
    ablation_text(summary)
    assert summary == before


@pytest.mark.slow
def test_attention_of_aligned_modalities_is_shown_on_the_words(make_table, signal, tmp_path):
    vectors, labels = signal(2)
    rng, lengths = np.random.default_rng(0), 2 + np.arange(len(labels)) % 3
    tokens = {name: [rng.normal(size=(length, 3)) for length in lengths] for name in vectors}
    given = {"heads": ("cmbert",), "params": {"cmbert": {"epochs": 1}}, "controls": ()}
    done = run(make_table(vectors, labels, tokens=tokens), tmp_path, **given)
    shown = done.summary["closer"]["attention"]
    assert done.summary["closer"]["modalities"] == ["text", "image"]
    assert shown
    for one in shown:
        assert list(one["weights"]) == ["text"]
        assert len(one["weights"]["text"]) == lengths[int(one["id"].removeprefix("id"))]
        assert sum(one["weights"]["text"]) == pytest.approx(1)
