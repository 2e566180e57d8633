import copy

import pytest

from fuse.ablation.conclusions import conclusions

BOTH = ["text", "image"]


def versus(difference, low, high, p, holm=None):
    found = {"difference": difference, "low": low, "high": high, "p": p}
    return found | ({} if holm is None else {"p_holm": holm})


def row(head, value, modalities=BOTH, baseline=None, unimodal=None, run=""):
    metrics = {
        name: {"mean": value, "low": value - 0.02, "high": value + 0.02} for name in ("accuracy", "macro_f1", "mae")
    }
    return {
        "run": run,
        "head": head,
        "modalities": modalities,
        "metrics": metrics,
        "versus": {"baseline": baseline, "unimodal": unimodal},
    }


def summary(rows, numbers=False, **given):
    """The parts of a summary that sentences are made of."""
    return {
        "task": "regression" if numbers else "classification",
        "primary": "mae" if numbers else "accuracy",
        "rows": rows,
        "majority": {"label": "neutral", "metrics": {"accuracy": 0.412, "mae": 1.345}},
        "baseline": {"run": "", "head": "logreg", "modalities": BOTH},
        "unimodal": {"run": "", "head": "logreg", "modalities": ["text"]},
        "controls": [],
        "closer": None,
        "near_duplicates": {},
        "data": {"rows": 321, "modalities": BOTH},
        **given,
    }


def sentence(content, start):
    found = [one for one in conclusions(content) if one.startswith(start)]
    assert len(found) == 1, conclusions(content)
    return found[0]


ALONE = row("logreg", 0.65, ["text"])


def test_the_best_is_named_with_its_numbers():
    said = sentence(summary([row("mlp", 0.7234), ALONE]), "The best of 2 configurations is mlp on text + image: ")
    assert "accuracy 72.3 % [70.3, 74.3], macro-F1 0.723" in said
    assert "always saying 'neutral' gets 41.2 %" in said
    said = sentence(
        summary([row("ridge", 0.8512)], numbers=True), "The best of 1 configurations is ridge on text + image"
    )
    assert "MAE 0.851 [0.831, 0.871]" in said
    assert "always saying the mean gets 1.345" in said
    joined = sentence(summary([row("mlp", 0.7, run="clip")]), "The best")
    assert "mlp on text + image (clip)" in joined


def test_fusion_that_beats_the_best_modality():
    rows = [
        row("mlp", 0.72, unimodal=versus(0.07, 0.02, 0.12, 0.001, 0.0021)),
        row("gmu", 0.73, unimodal=versus(0.08, -0.001, 0.16, 0.04, 0.2)),  # more, but not shown
        ALONE,
    ]
    said = sentence(summary(rows), "Fusion beats text alone (logreg): mlp on text + image by ")
    assert "7.0 points of accuracy [2.0, 12.0]" in said
    assert "over 2 heads" in said
    assert "0.002" in said


@pytest.mark.parametrize(
    "shown",
    [
        versus(0.03, -0.01, 0.07, 0.01, 0.01),  # the interval holds 0
        versus(0.03, 0.01, 0.05, 0.01, 0.06),  # Holm's p is too large
        versus(0.03, 0.01, 0.05, 0.01, 0.05),
    ],
)
def test_fusion_that_is_ahead_but_not_shown(shown):
    said = sentence(
        summary([row("mlp", 0.68, unimodal=shown), ALONE]), "That fusion beats text alone (logreg) is not shown"
    )
    assert "mlp on text + image, is ahead by 3.0 points of accuracy" in said


def test_fusion_that_is_behind():
    rows = [ALONE, row("mlp", 0.63, unimodal=versus(-0.02, -0.05, 0.01, 0.2, 0.2))]
    said = sentence(summary(rows), "Fusion is no better than text alone (logreg)")
    assert "mlp on text + image, is behind by 2.0 points of accuracy [-1.0, 5.0]" in said


def test_without_a_single_modality_or_without_fusion_nothing_is_said_of_it():
    fused = row("mlp", 0.7, unimodal=None)
    for content in (summary([fused], unimodal=None), summary([ALONE])):
        assert not [one for one in conclusions(content) if "usion" in one]


def test_of_errors_less_is_better():
    rows = [
        row(
            "mlp",
            0.9,
            unimodal=versus(-0.3, -0.45, -0.15, 0.001, 0.001),
            baseline=versus(-0.1, -0.2, -0.05, 0.01, 0.01),
        ),
        row("gmu", 1.4, unimodal=versus(0.2, 0.1, 0.3, 0.001, 0.002), baseline=versus(0.4, 0.3, 0.5, 0.001, 0.002)),
        row("logreg", 1.2, ["text"]),
    ]
    content = summary(rows, numbers=True)
    said = sentence(content, "Fusion beats text alone (logreg): mlp on text + image by ")
    assert "0.300 of mean absolute error [0.150, 0.450]" in said
    said = sentence(content, "Better than logreg on text + image: mlp; ")
    assert "mlp by 0.100 of mean absolute error [0.050, 0.200]" in said
    assert "Shown to be worse: gmu." in said
    behind = [row("mlp", 1.3, unimodal=versus(0.1, -0.05, 0.25, 0.3, 0.3)), row("logreg", 1.2, ["text"])]
    said = sentence(summary(behind, numbers=True), "Fusion is no better than text alone")
    assert "behind by 0.100 of mean absolute error [-0.050, 0.250]" in said


def test_heads_that_are_better_than_the_linear_one():
    rows = [
        row("mlp", 0.75, baseline=versus(0.05, 0.02, 0.08, 0.0004, 0.0008)),
        row("gmu", 0.74, baseline=versus(0.04, 0.01, 0.07, 0.004, 0.008)),
        row("vote", 0.65, baseline=versus(-0.05, -0.09, -0.01, 0.01, 0.01)),
        row("svm", 0.71, baseline=versus(0.01, -0.02, 0.04, 0.5, 0.5)),
        row("mlp", 0.9, ["text"], baseline=versus(0.2, 0.1, 0.3, 0.001, 0.001)),  # on other modalities
        row("logreg", 0.7),
    ]
    said = sentence(summary(rows), "Better than logreg on text + image: mlp, gmu; ")
    assert "mlp by 5.0 points of accuracy [2.0, 8.0]" in said
    assert "over 4 heads" in said
    assert "< 0.001" in said
    assert said.endswith("Shown to be worse: vote.")


def test_no_head_better_than_the_linear_one():
    lead = row("mlp", 0.72, baseline=versus(0.02, -0.01, 0.05, 0.1, 0.3))
    said = sentence(summary([lead, row("logreg", 0.7)]), "No head is shown to be better than logreg on text + image: ")
    assert "the largest lead is 2.0 points of accuracy [-1.0, 5.0] of mlp" in said
    behind = row("mlp", 0.68, baseline=versus(-0.02, -0.05, 0.01, 0.1, 0.3))
    said = sentence(summary([row("logreg", 0.7), behind]), "No head is shown")
    assert said.endswith("all are behind.")
    assert not [one for one in conclusions(summary([row("logreg", 0.7)])) if "better than" in one]


def closer(value, projected, low, high):
    emap = {"value": value, "projected": projected, "difference": value - projected, "low": low, "high": high}
    return {"head": "mlp", "modalities": BOTH, "emap": emap}


def test_what_comes_of_interactions():
    start = "Without interactions (EMAP) mlp on text + image gets "
    said = sentence(summary([row("mlp", 0.7)], closer=closer(0.72, 0.65, 0.03, 0.11)), start)
    assert "gets 65.0 % instead of 72.0 %" in said
    assert "interactions of the modalities give 7.0 points of accuracy [3.0, 11.0]" in said
    for low, high, projected in ((-0.01, 0.02, 0.715), (-0.06, -0.02, 0.76)):
        said = sentence(summary([row("mlp", 0.7)], closer=closer(0.72, projected, low, high)), start)
        assert "that interactions add anything is not shown" in said
        assert "ensembling" in said
        assert "gains" not in said  # whether it gains anything is said elsewhere
        assert "give" not in said
    nothing = sentence(summary([row("mlp", 0.7)], closer=closer(0.72, 0.72, -1e-9, 0.0)), start)
    assert "a difference of 0.0 points of accuracy [0.0, 0.0]" in nothing
    fewer = sentence(summary([row("mlp", 0.7)], numbers=True, closer=closer(0.6, 0.8, -0.3, -0.1)), start)
    assert "0.800 instead of 0.600" in fewer
    assert "interactions of the modalities give 0.200 of mean absolute error [0.100, 0.300]" in fewer
    for without in (None, {"head": "mlp", "modalities": BOTH, "emap": None}):
        assert not [one for one in conclusions(summary([row("mlp", 0.7)], closer=without)) if "EMAP" in one]


def control(name, how, compared, run="", head="logreg"):
    return {"run": run, "head": head, "modalities": BOTH, "control": f"{name} {how}", "versus": compared}


def test_what_the_controls_show():
    controls = [
        control("text", "shuffled", versus(0.2, 0.15, 0.25, 0.0001)),
        control("text", "replaced by noise", versus(0.33, 0.3, 0.36, 0.0001)),
        control("image", "shuffled", versus(0.01, -0.02, 0.04, 0.6)),
    ]
    said = sentence(summary([row("logreg", 0.7)], controls=controls), "Control of logreg: ")
    assert "with text shuffled it loses 20.0 points of accuracy [15.0, 25.0], p < 0.001" in said
    assert "with image shuffled it loses nothing that is shown (1.0 points of accuracy [-2.0, 4.0], p = 0.600)" in said
    assert "33" not in said
    numbers = [control("text", "shuffled", versus(-0.3, -0.4, -0.2, 0.003), head="ridge")]
    said = sentence(summary([row("ridge", 0.7)], numbers=True, controls=numbers), "Control of ridge: ")
    assert "loses 0.300 of mean absolute error [0.200, 0.400], p = 0.003" in said
    assert not [one for one in conclusions(summary([row("logreg", 0.7)])) if one.startswith("Control")]


def test_what_could_be_found():
    rows = [
        row("mlp", 0.7, baseline=versus(0.01, -0.1, 0.1, 0.5, 0.5) | {"detectable": 0.031}),
        row("gmu", 0.7, baseline=versus(0.01, -0.1, 0.1, 0.5, 0.5) | {"detectable": 0.052}),
        row("svm", 0.7, baseline=versus(0.01, -0.1, 0.1, 0.5, 0.5) | {"detectable": None}),
        row("mlp", 0.7, ["text"], baseline=versus(0.01, -0.1, 0.1, 0.5, 0.5) | {"detectable": 0.4}),
    ]
    said = sentence(summary(rows), "Power: ")
    assert "difference of 3.1 to 5.2 points of accuracy " in said
    assert "80 %" in said
    assert "difference of 3.1 points of accuracy " in sentence(summary(rows[:1]), "Power")
    assert "difference of 0.031 of mean absolute error " in sentence(summary(rows[:1], numbers=True), "Power")
    assert not [one for one in conclusions(summary(rows[2:])) if one.startswith("Power")]


def test_near_duplicates_across_folds_are_told():
    found = {"text": {"across": 12}, "image": {"across": 0}, "sound": {"across": 3}}
    content = summary([row("mlp", 0.7)], near_duplicates=found)
    assert "(12 of text, 3 of sound)" in sentence(content, "Near-duplicates")
    none = summary([row("mlp", 0.7)], near_duplicates={"text": {"across": 0}})
    assert not [one for one in conclusions(none) if one.startswith("Near")]


def test_a_control_that_is_better_loses_nothing():
    controls = [control("text", "shuffled", versus(-0.05, -0.08, -0.02, 0.004))]
    said = sentence(summary([row("logreg", 0.7)], controls=controls), "Control of logreg: ")
    assert "loses -" not in said


def test_the_summary_stays_as_it_is():
    content = summary([row("mlp", 0.7, baseline=versus(0.1, 0.05, 0.2, 0.01, 0.02)), ALONE])
    before = copy.deepcopy(content)
    assert conclusions(content) == conclusions(content)
    assert content == before
