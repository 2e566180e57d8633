import numpy as np
import pytest
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fuse import gradient, make_classifier, scores
from fuse.heads import mlp, stack, vote
from fuse.inputs import Inputs

GROUPS = np.arange(60) // 4
WEIGHT = np.linspace(0.5, 2, 60)


@pytest.fixture
def dealt(monkeypatch):
    """Records `(groups, folds)` of every time rows are held out while fitting."""
    calls = []
    for module in (gradient, scores, mlp, stack, vote):
        plain = module.inner_folds

        def spy(inputs, *args, plain=plain):
            fold = plain(inputs, *args)
            calls.append((inputs.row_groups(), fold))
            return fold

        monkeypatch.setattr(module, "inner_folds", spy)
    return calls


def _assert_whole(calls, most):
    assert calls
    for groups, fold in calls:
        assert len(np.unique(groups)) <= most
        assert len({*zip(groups, fold, strict=True)}) == len(np.unique(groups))
        assert len(np.unique(fold)) > 1


@pytest.mark.parametrize("given", ["array", "table", "over the table's own"])
def test_groups_are_whole_wherever_a_head_holds_rows_out(holding_case, few_steps, data_of, dealt, given):
    own = np.arange(60) if given == "over the table's own" else GROUPS
    table, y = data_of(holding_case, groups=own)
    X, options = (table.to_numpy(), {"array": True, "blocks": table.blocks}) if given == "array" else (table, {})
    head = holding_case.make(**options, **holding_case.inner)
    head.fit(X, y, **({} if given == "table" else {"groups": GROUPS}))
    _assert_whole(dealt, 15)


def test_rows_of_equal_content_are_not_parted_in_an_array_without_groups(holding_case, few_steps, data_of, dealt):
    table, y = data_of(holding_case)
    X = np.repeat(table.to_numpy()[:20], 3, axis=0)
    y = np.repeat(y[:20], 3)
    holding_case.make(array=True, blocks=table.blocks, **holding_case.inner).fit(X, y)
    _assert_whole(dealt, 20)


def test_heads_that_hold_nothing_out_learn_from_a_single_group(free_case, few_steps, data_of, dealt, monkeypatch):
    table, y = data_of(free_case, groups=np.zeros(60))
    monkeypatch.setattr(Inputs, "row_groups", lambda inputs: pytest.fail("groups were asked for"))
    assert len(free_case.make().fit(table, y).predict(table)) == 60
    assert dealt == []


@pytest.mark.parametrize("array", [False, True])
def test_cross_validate_routes_weights_and_groups(case, data, array):
    table, y = data(gaps=not array)
    X, options = (table.to_numpy(), {"array": True, "blocks": table.blocks}) if array else (table, {})
    make = lambda: case.make(**options)  # noqa: E731
    with config_context(enable_metadata_routing=True):
        head = make().set_fit_request(sample_weight=True, groups=True).set_score_request(sample_weight=True)
        found = cross_validate(
            head, X, y, params={"sample_weight": WEIGHT, "groups": GROUPS}, cv=GroupKFold(2), error_score="raise"
        )
    for fold, (train, test) in enumerate(GroupKFold(2).split(X, y, GROUPS)):
        own = make().fit(X[train], y[train], sample_weight=WEIGHT[train], groups=GROUPS[train])
        assert found["test_score"][fold] == own.score(X[test], y[test], sample_weight=WEIGHT[test])


def test_grid_search_and_pipeline_route_weights_and_groups(posts):
    with config_context(enable_metadata_routing=True):
        head = make_classifier("stacking", blocks=posts.blocks)
        head.set_fit_request(sample_weight=True, groups=True).set_score_request(sample_weight=True)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), head)
        search = GridSearchCV(pipe, {"stackingclassifier__C": [0.1, 1]}, cv=GroupKFold(3), error_score="raise")
        search.fit(posts.to_numpy(), posts.y, sample_weight=WEIGHT, groups=GROUPS)
    scaled = StandardScaler().fit_transform(posts.to_numpy())
    own = make_classifier("stacking", blocks=posts.blocks, **_chosen(search)).fit(
        scaled, posts.y, sample_weight=WEIGHT, groups=GROUPS
    )
    np.testing.assert_array_equal(search.predict_proba(posts.to_numpy()), own.predict_proba(scaled))


def _chosen(search):
    return {name.partition("__")[2]: value for name, value in search.best_params_.items()}


@pytest.mark.parametrize("groups", [np.zeros(59), [0, 1]])
def test_groups_of_another_length_are_refused(posts, groups):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make_classifier("stacking").fit(posts, posts.y, groups=groups)
