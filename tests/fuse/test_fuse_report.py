import re

import numpy as np

from fuse import comparison_table, evaluate, evaluation_text, make_classifier, make_regressor, protocol_for


def _cells(line):
    return re.split(r"\s{2,}", line)


def test_folds_are_shown_as_mean_and_spread(posts):
    protocol = protocol_for(posts, folds=3)
    evaluations = {name: evaluate(make_classifier(name), posts, protocol) for name in ("logreg", "text")}
    lines = comparison_table(evaluations).splitlines()
    assert len({len(line) for line in lines}) == 1
    for line, (name, evaluation) in zip(lines[3:], evaluations.items(), strict=True):
        predictions = evaluation.predictions
        right = predictions.true == predictions.label
        spread = np.std([right[predictions.fold == fold].mean() for fold in "012"])
        assert _cells(line)[:2] == [name, f"{100 * right.mean():.1f} +- {100 * spread:.1f}"]


def test_table_starts_with_the_majority_and_holds_every_measure(split_posts):
    evaluation = evaluate(make_classifier("logreg"), split_posts, protocol_for(split_posts))
    head, rule, majority, logreg = comparison_table({"logreg": evaluation}).splitlines()
    assert _cells(head) == ["head", "accuracy", "macro-F1", "weighted F1", "balanced acc."]
    assert set(rule) == {"-"}
    assert _cells(majority) == ["majority", "33.3", "16.7", "16.7", "33.3"]  # always apple: F1 of 0.5, 0 and 0
    keys = ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy")
    assert _cells(logreg) == ["logreg", *(f"{100 * evaluation.metrics[key]:.1f}" for key in keys)]


def test_regression_is_shown_under_the_mean_with_its_own_measures(make_table):
    rng = np.random.default_rng(0)
    vectors = {"text": rng.normal(size=(40, 3))}
    labels = [f"{value:.3f}" for value in vectors["text"].sum(axis=1)]
    table = make_table(vectors, labels, split=np.repeat(["train", "val", "test"], [24, 8, 8]))
    evaluation = evaluate(make_regressor("text"), table, protocol_for(table, task="regression"))
    text = evaluation_text("text", evaluation)
    head, _, mean, ours = text.split("\n\n")[0].splitlines()
    assert _cells(head) == ["head", "MAE", "RMSE", "Pearson", "acc2 non0", "F1 non0", "acc7"]
    assert _cells(mean)[:4] == ["mean", f"{evaluation.majority['mae']:.3f}", f"{evaluation.majority['rmse']:.3f}", "-"]
    assert _cells(ours)[1] == f"{evaluation.metrics['mae']:.3f}"
    assert f"on the 8 valid rows: MAE {evaluation.metrics['valid']['mae']:.3f}" in text
    assert "precision" not in text
