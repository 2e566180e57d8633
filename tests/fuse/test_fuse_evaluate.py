import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, classification_report, f1_score

from fuse import FusionClassifier, evaluate, make_classifier, protocol_for


class Memoriser(FusionClassifier):
    """Gives its first class to rows of a group that it saw in training (column 0), else the second."""

    def _fit_head(self, inputs, target, weight):
        self.seen_ = np.unique(inputs.values["text"][:, 0])

    def _head_output(self, inputs):
        seen = np.isin(inputs.values["text"][:, 0], self.seen_)
        return np.column_stack([seen, ~seen]).astype(float)


@pytest.fixture
def grouped(make_table):
    """40 rows of two classes in 20 groups; the text's first column is the group."""
    groups = np.arange(40) // 2
    return make_table({"text": np.column_stack([groups, groups]).astype(float)}, list("aabb" * 10), groups=groups)


def test_no_row_is_judged_by_a_model_that_saw_its_group(grouped):
    head = Memoriser()
    evaluation = evaluate(head, grouped, protocol_for(grouped, folds=4))
    assert (evaluation.predictions.proba[:, 0] == 0).all()
    assert (evaluation.model.predict_proba(grouped)[:, 0] == 1).all()  # the kept model saw all rows
    assert not hasattr(head, "seen_")


def test_each_row_is_predicted_once_by_the_model_of_its_fold(signal, logistic, posts):
    vectors, y = signal()
    protocol = protocol_for(posts, folds=3)
    predictions = evaluate(make_classifier("logreg"), posts, protocol).predictions
    assert sorted(predictions.rows) == list(range(60))
    np.testing.assert_array_equal(predictions.true, y[predictions.rows])
    np.testing.assert_array_equal(predictions.label, np.array(predictions.classes)[predictions.proba.argmax(axis=1)])
    for fold in protocol.judged:
        own = predictions.fold == fold.name
        np.testing.assert_array_equal(predictions.rows[own], fold.test)
        expected = logistic(vectors, y, fold.train)[fold.test]
        np.testing.assert_allclose(predictions.proba[own], expected, atol=1e-4)


def test_metrics_are_sklearns_on_the_predictions(posts):
    evaluation = evaluate(make_classifier("vote"), posts, protocol_for(posts, folds=4))
    true, label, metrics = evaluation.predictions.true, evaluation.predictions.label, evaluation.metrics
    assert 0.4 < metrics["accuracy"] < 1
    assert metrics["accuracy"] == pytest.approx(accuracy_score(true, label))
    assert metrics["macro_f1"] == pytest.approx(f1_score(true, label, average="macro"))
    assert metrics["weighted_f1"] == pytest.approx(f1_score(true, label, average="weighted"))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, label))
    report = classification_report(true, label, output_dict=True)
    assert list(metrics["per_class"]["berry"].values()) == pytest.approx(list(report["berry"].values()))
    assert [(row["fold"], row["n"]) for row in metrics["folds"]] == [(fold, 15) for fold in "0123"]
    accuracies = [np.mean((true == label)[evaluation.predictions.fold == fold]) for fold in "0123"]
    assert [row["accuracy"] for row in metrics["folds"]] == pytest.approx(accuracies)


def test_majority_is_that_of_the_training_rows(split_posts):
    evaluation = evaluate(make_classifier("logreg"), split_posts, protocol_for(split_posts))
    assert set(evaluation.predictions.majority) == {"apple"}
    assert evaluation.metrics["majority_accuracy"] == pytest.approx(1 / 3)
    assert evaluation.majority["accuracy"] == pytest.approx(1 / 3)
    assert evaluation.majority["macro_f1"] == pytest.approx(0.5 / 3)


def test_validation_rows_are_reported_beside_the_test_not_in_it(split_posts):
    evaluation = evaluate(make_classifier("logreg"), split_posts, protocol_for(split_posts))
    predictions, metrics = evaluation.predictions, evaluation.metrics
    for name, part, n in (("test", metrics, 18), ("valid", metrics["valid"], 12)):
        own = predictions.fold == name
        assert part["n"] == own.sum() == n
        assert part["accuracy"] == np.mean(predictions.true[own] == predictions.label[own])
