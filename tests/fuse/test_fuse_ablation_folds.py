"""An ablation of a cross-fitted data set: every round by the encoders of its own fold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

import cache
from cache import DataError
from fuse import Asked, ablate, ablation_text, load_run, make_classifier, read_summary, report, run_head
from fuse.ablation.engine import open_folder, prepare, read_data
from fuse.ablation.plan import plan_ablation
from fuse.ablation.summary import Comparison
from fuse.compare import corrected_resampled_t
from tests.fuse.ablation_data import column_of, csv_rows, fitted, quick, settings  # noqa: F401
from tests.fuse.families import FOLDS, Family

C = "classification"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return Family(tmp_path_factory.mktemp("family") / "features")


@pytest.fixture(scope="module")
def done(family, tmp_path_factory):
    heads = ("logreg", "vote", "mlp")
    params = {"mlp": {"epochs": 3, "hidden_sizes": (8,)}}
    return fitted(family.load(), tmp_path_factory.mktemp("runs") / "a", heads=heads, params=params)


@pytest.fixture(scope="module")
def ablated(family, tmp_path_factory):
    asked = Asked(str(family.root), "pipeline.py ablate --name posts")
    return ablate(
        *(family.load(), settings(heads=("logreg", "vote"), controls=None), asked),
        root=tmp_path_factory.mktemp("ablated"),
        jobs=1,
    )


def by_hand(family, head, modalities):
    """Labels of the rows in their order, by a loop over plain data sets that knows nothing of families."""
    label = {}
    for number in range(FOLDS):
        table = cache.load(family.root, f"posts.fold{number}", modalities)
        train, test = table[table.split == "train"], table[table.split == "test"]
        label |= dict(zip(test.ids.tolist(), clone(head).fit(train, train.y).predict(test).tolist(), strict=True))
    return [label[f"id{row}"] for row in family.labelled]


@pytest.mark.parametrize("modalities", [("text",), ("image",), ("text", "image")])
@pytest.mark.parametrize("head", ["logreg", "vote", "mlp"])
def test_each_row_is_labelled_by_the_head_and_the_encoders_of_its_fold(family, done, head, modalities):
    column = column_of(done, head, modalities)
    np.testing.assert_array_equal(column.rows.ids, [f"id{row}" for row in family.labelled])
    np.testing.assert_array_equal(column.rows.fold, [family.fold[family.labelled]] * 2)
    for place, seed in enumerate((0, 1)):
        own = {"epochs": 3, "hidden_sizes": (8,), "random_state": seed} if head == "mlp" else {}
        expected = by_hand(family, make_classifier(head, **own), modalities)
        assert column.rows.classes[column.label[place]].tolist() == expected


def test_it_agrees_with_fuse(family, done):
    evaluation, _ = run_head(family.load(), "logreg")
    found = column_of(done, "logreg")
    order = np.argsort(evaluation.predictions.rows)
    np.testing.assert_allclose(found.proba[0], evaluation.predictions.proba[order], atol=1e-5)
    assert found.metrics[0]["accuracy"] == pytest.approx(evaluation.metrics["accuracy"])


def test_seeds_repeat_on_the_same_folds_and_seed_the_heads_alone(done):
    rows = csv_rows(done.folder / "results.csv")
    assert [(row["seed"], row["fold"]) for row in rows if row["head"] == "mlp"][:6] == [
        (seed, fold) for seed in "01" for fold in "012"
    ]
    plan = done.plan
    for one, two in zip(plan.rounds[:FOLDS], plan.rounds[FOLDS:], strict=True):
        np.testing.assert_array_equal(one.fold.test, two.fold.test)
    again, drawn = column_of(done, "logreg"), column_of(done, "mlp")
    np.testing.assert_array_equal(again.proba[0], again.proba[1])
    assert np.abs(drawn.proba[0] - drawn.proba[1]).max() > 0
    # 2 heads without chance x 3 subsets x 3 folds, once for both seeds; the MLP for each.
    assert done.fitted == 2 * 3 * 3 + 3 * 3 * 2


def test_repeats_on_the_same_folds_are_no_further_evidence(done, family, tmp_path):
    """Two seeds of heads without chance say just what one says."""
    once = fitted(family.load(), tmp_path / "runs" / "b", heads=("logreg", "vote"), seeds=(0,))
    differences = []
    for one in (done, once):
        comparison = Comparison(one.results())
        pair = [
            next(c for c in comparison.table if str(c.cell) == f"{name} on text + image") for name in ("vote", "logreg")
        ]
        assert len(pair[0].by_fold) == FOLDS
        differences.append(comparison.versus(*pair))
    assert differences[0]["test"] == "folds"
    assert differences[0]["p"] == pytest.approx(differences[1]["p"])
    score = [
        (column_of(once, name).label[0] == column_of(once, name).rows.true).astype(float) for name in ("vote", "logreg")
    ]
    fold = family.fold[family.labelled]
    by_fold = np.array([(score[0] - score[1])[fold == number].mean() for number in range(FOLDS)])
    assert differences[0]["p"] == pytest.approx(corrected_resampled_t(by_fold, once.results().rows.test_share).p)


def test_what_no_fold_tuned_is_held_once(family):
    data = read_data(family.load())
    assert len(data.folds) == FOLDS
    images, texts = ([part.inputs.values[name] for part in data.folds] for name in ("image", "text"))
    assert all(one is images[0] for one in images)
    for number, text in enumerate(texts):
        np.testing.assert_array_equal(text, family.vectors[number]["text"][family.labelled])
    assert data.inputs.values["text"] is texts[0]
    assert (data.source.name, data.table.name) == ("posts", "posts.fold0")


def keys_of(source, **given):
    """Keys of the fits by modalities and fold."""
    data = read_data(source)
    plan, wanted = prepare(data, settings(seeds=(0,), **given))
    return {(cell.modalities, plan.rounds[place].fold.name): one.key for (cell, place), one in wanted.items()}


def test_a_fit_is_named_by_the_encoders_of_its_own_fold(family, tmp_path):
    before = keys_of(family.load())
    assert len(set(before.values())) == 3 * FOLDS
    view = cache.read_view(family.store, "posts.fold1")
    other = Family(tmp_path / "features")
    block = view.blocks["text"]
    moved = replace(block, encoder=cache.read_view(other.store, "posts.fold2").blocks["text"].encoder, segments=())
    cache.write_view(other.store, replace(view, blocks={**view.blocks, "text": moved}))
    after = keys_of(other.load())
    changed = {place for place in before if before[place] != after[place]}
    assert changed == {(("text",), "1"), (("text", "image"), "1")}


def test_fits_of_a_single_view_are_those_of_its_fold(family):
    whole = keys_of(family.load())
    for number in range(FOLDS):
        alone = keys_of(cache.load(family.root, f"posts.fold{number}"))
        assert alone == {
            (names, "test"): whole[names, str(number)] for names in (("text",), ("image",), ("text", "image"))
        }


def test_fits_that_were_made_of_a_single_view_are_taken_over_under_the_fold_s_name(family, tmp_path):
    runs = tmp_path / "runs"
    fitted(cache.load(family.root, "posts.fold1"), runs / "one", seeds=(0,))
    asked = Asked(str(family.root), "")
    whole = ablate(family.load(), settings(seeds=(0,)), asked, out=runs / "all", jobs=1)
    assert (whole.reused, whole.fitted) == (3, 6)
    assert [one["fold"] for one in json.loads((runs / "all" / "metrics.json").read_text())["folds"]] == ["0", "1", "2"]


def test_a_test_row_that_tuned_its_fold_s_encoder_is_refused_by_name(tmp_path, family):
    seen = int(family.parts(0)[1][1])
    leaky = Family(tmp_path / "features", extra=[seen])
    with pytest.raises(DataError, match=rf"1 of \d+ test rows of posts\.fold0 \(fold 0\) tuned the text.*: id{seen};"):
        ablate(leaky.load(), settings(), Asked("", ""), out=tmp_path / "run", jobs=1)
    assert not (tmp_path / "run").exists()
    data = leaky.load(["image"])
    plan_ablation(data[data.labelled], settings(), C)


def test_the_summary_names_the_data_set_and_the_encoders_of_every_fold(family, ablated):
    summary = read_summary(ablated.folder)
    assert ablated.failed == []
    assert (summary["data"]["name"], summary["data"]["view"], summary["data"]["rows"]) == ("posts", "posts.fold0", 48)
    assert summary["data"]["digest"] == summary["provenance"]["data_digest"] == family.load().digest
    assert summary["protocol"] == {
        "name": "cross-fit-3-fold",
        "description": summary["protocol"]["description"],
        "folds": 3,
        "seeds": [0, 1],
        "split_seeds": [],
    }
    assert "of fold 0 of a cross-fitted data set" in summary["protocol"]["description"]
    encoders = {name: one["encoder"] for name, one in summary["provenance"]["encoders"].items()}
    views = [cache.read_view(family.store, f"posts.fold{number}") for number in range(FOLDS)]
    assert encoders == {
        **{f"text, fold {number}": view.blocks["text"].encoder for number, view in enumerate(views)},
        "image": views[0].blocks["image"].encoder,
    }
    assert ablated.folder.name == "posts-ablation-1"


def test_near_duplicates_are_not_looked_for_among_tuned_vectors(ablated):
    near = ablated.summary["near_duplicates"]  # tuned ones gather by label
    assert {name: one["rows"] for name, one in near.items()} == {"image": 48}
    page = (ablated.folder / "report.html").read_text(encoding="utf-8")
    assert "by encoders that were not tuned" in page
    assert "heads 0, 1" in page


def test_the_closer_look_is_at_the_folds_own_vectors(family, ablated):
    closer = ablated.summary["closer"]
    head = make_classifier(closer["head"])
    expected = np.mean(
        np.array(by_hand(family, head, tuple(closer["modalities"]))) == family.labels[family.labelled].astype(str)
    )
    assert closer["emap"]["rows"] == 48
    assert closer["emap"]["value"] == pytest.approx(expected)
    for one in closer["mistakes"]:
        row = int(one["id"].removeprefix("id"))
        assert one["fold"] == family.fold[row]
        assert one["true"] == family.labels[row] != one["label"]


def test_the_best_is_kept_as_the_run_of_fold_0(family, ablated):
    best = ablated.summary["rows"][0]
    run, metrics = load_run(ablated.folder), json.loads((ablated.folder / "metrics.json").read_text())
    table = cache.load(family.root, "posts.fold0", best["modalities"])
    train = table[table.split == "train"]
    expected = make_classifier(best["head"]).fit(train, train.y).predict_proba(table)
    np.testing.assert_allclose(run.model.predict_proba(table), expected, atol=1e-5)
    assert {name: one["encoder"] for name, one in run.encoders.items()} == {
        name: table.view.blocks[name].encoder for name in best["modalities"]
    }
    content = json.loads((ablated.folder / "run.json").read_text())
    for said in (metrics["model"], content["model"], content["protocol"], ablation_text(ablated.summary)):
        assert "of fold 0 of a cross-fitted data set" in said
    assert metrics["protocol"] == "cross-fit-3-fold"
    assert metrics["accuracy"] == pytest.approx(best["metrics"]["accuracy"]["mean"])


def test_the_report_is_rebuilt(ablated, tmp_path):
    summary = {key: value for key, value in ablated.summary.items() if key != "provenance"}
    built = report([ablated.folder], tmp_path)
    assert {key: built.summary[key] for key in summary} == json.loads(json.dumps(summary))


def test_the_same_goes_on_and_another_is_refused(family, tmp_path):
    data, root = read_data(family.load()), tmp_path / "runs"
    folder = open_folder(data, settings(), None, root)
    assert folder.name == "posts-ablation-1"
    assert open_folder(data, settings(), None, root) == folder
    alone = read_data(cache.load(family.root, "posts.fold0"))
    assert open_folder(alone, settings(), None, root).name == "posts.fold0-ablation-1"
    with pytest.raises(cache.UsageError, match="an ablation of posts as it was then"):
        open_folder(alone, settings(), folder, root)


def test_heads_over_tokens_read_those_of_the_fold(tmp_path):
    rng, target = np.random.default_rng(4), np.arange(60) % 3
    tokens = [
        [(rng.normal(size=(2, 3)) + sign * kind).astype(np.float32) for kind in target.tolist()] for sign in (1, -1, 2)
    ]
    family = Family(tmp_path / "features", tokens=tokens)
    params = {"gated-attention": {"epochs": 3}}
    done = fitted(family.load(), tmp_path / "runs" / "a", heads=("gated-attention",), params=params, seeds=(0,))
    assert done.failed == ()
    head = make_classifier("gated-attention", epochs=3, random_state=0)
    column = column_of(done, "gated-attention")
    assert column.rows.classes[column.label[0]].tolist() == by_hand(family, head, ("text", "image"))


def test_settings_are_searched_within_the_fold_s_own_rows(family, tmp_path):
    done = fitted(family.load(), tmp_path / "runs" / "a", grid="small", seeds=(0,), controls=None)
    assert done.failed == ()
    chosen = [one["params"] for one in column_of(done, "logreg").about]
    assert len(chosen) == FOLDS
    assert all("C" in one for one in chosen)


@pytest.mark.slow
def test_processes_find_the_same(family, ablated, tmp_path):
    asked = Asked(str(family.root), "pipeline.py ablate --name posts")
    chosen = settings(heads=("logreg", "vote"), controls=None)
    two = ablate(family.load(), chosen, asked, out=tmp_path / "runs" / "b", jobs=2)
    assert two.fitted == ablated.fitted
    for name in ("closer", "conclusions", "near_duplicates", "majority"):
        assert two.summary[name] == ablated.summary[name]
    scores = [[row["metrics"] for row in one.summary["rows"]] for one in (two, ablated)]
    assert scores[0] == scores[1]
