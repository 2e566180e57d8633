import importlib
import inspect
import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from reference import CASES

import fuse.networks
from cache import UsageError
from fuse import make_classifier, make_regressor
from fuse.gradient import GradientHead
from fuse.networks.bilinear import LowRankFusion, TensorFusion
from fuse.networks.merge import MERGES
from fuse.networks.model import Model, Network
from fuse.registry import HEADS

EACH = [(name, count) for name, case in CASES.items() for count in case.counts()]
MOST = [
    (name, count) if count == max(case.counts()) else pytest.param(name, count, marks=pytest.mark.slow)
    for name, case in CASES.items()
    for count in case.counts()
]
"""As `EACH`; all but the largest number of modalities are left to the slow tests."""


def all_networks():
    for module in pkgutil.iter_modules(fuse.networks.__path__, "fuse.networks."):
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(found, Network) and found is not Network and found.__module__ == module.name:
                yield found


def tried(name, count, rows=9, lacking=0.3, seed=1):
    """A case, its model ready to predict, its parts, and samples of which some lack modalities."""
    case = CASES[name]
    model, parts = reference.model_of(case, count)
    return case, model.eval(), parts, reference.random_samples(parts, case.reads, rows, lacking, seed)


def run(model, parts, samples, junk=reference.JUNK):
    with torch.inference_mode():
        return model(*reference.as_batch(parts, samples, junk)).numpy()


# The formulas


def test_every_network_has_a_reference():
    assert set(all_networks()) == {case.network for case in CASES.values()}
    assert {f"feature-{kind}" for kind in MERGES} <= set(CASES)


@pytest.mark.parametrize(("name", "count"), EACH)
def test_forward_is_the_published_formula(name, count):
    case, model, parts, samples = tried(name, count)
    found = run(model, parts, samples)
    assert np.abs(found).max() > 1e-2
    np.testing.assert_allclose(found, reference.expected(case.formula, model, parts, samples), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "count"), [each for each in EACH if each[0] in reference.WEIGHTS])
def test_weights_of_tokens_are_those_of_the_formula(name, count):
    _, model, parts, samples = tried(name, count)
    with torch.inference_mode():
        weights, there = model.looked_at(*reference.as_batch(parts, samples))
    for row, kept, wanted in zip(
        weights, there, reference.expected(reference.WEIGHTS[name], model, parts, samples), strict=True
    ):
        np.testing.assert_allclose(row[kept], wanted, rtol=0, atol=1e-5)
        assert not row[~kept].any()


def test_every_network_that_attends_has_a_reference_of_its_weights():
    attends = {name for name, case in CASES.items() if case.build(reference.parts_of(case.reads, 2), 3).attends}
    assert attends == set(reference.WEIGHTS)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.shares])
def test_each_modality_alone_learns_from_its_tower_and_from_the_rows_that_have_it(name):
    _, model, parts, samples = tried(name, 3)
    joint, *alone = model.terms(*reference.as_batch(parts, samples))
    filled = reference.filled(model, parts, samples)
    outputs = np.array([reference.auxiliary(reference.weights_of(model), sample) for sample in filled])
    assert joint.rows is None
    for m, term in enumerate(alone):
        np.testing.assert_allclose(term.output.detach(), outputs[:, m], atol=1e-9)
        np.testing.assert_array_equal(term.rows, [sample[m] is not None for sample in samples])


@pytest.mark.parametrize("name", ["mlp-shares", "mlp-shares-deep"])
def test_hidden_sizes_of_an_mlp_with_shares_may_be_an_array(name):
    case = CASES[name]
    sizes = np.array(case.arguments[0])
    parts = reference.parts_of("vectors", 2)
    given, listed = (case.network(parts, 3, one, 0.0, [1.0, 1.0, 1.0]) for one in (sizes, case.arguments[0]))
    assert [tuple(p.shape) for p in given.parameters()] == [tuple(p.shape) for p in listed.parameters()]


# Gradients


def gradients(name, count):
    """Of every parameter that is learned. Attention over one key has nothing to learn: all are tokens if any are."""
    case = replace(CASES[name], reads="aligned" if CASES[name].reads == "tokens" else CASES[name].reads)
    model, parts = reference.model_of(case, count, seed=1)
    samples = reference.random_samples(parts, case.reads, 40, lacking=0.4)
    terms = model.train().terms(*reference.as_batch(parts, samples, junk=0.0))
    sum((term.output * torch.randn_like(term.output)).sum() for term in terms).backward()
    return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}


def is_a_shift(name, key):
    """Whether a parameter only shifts all scores of a softmax alike, which changes nothing."""
    return key.endswith("key.bias") or (name.startswith("cmbert") and key == "network.bias")


@pytest.mark.parametrize(("name", "count"), EACH)
def test_every_parameter_learns(name, count):
    for key, gradient in gradients(name, count).items():
        assert gradient is not None, key
        assert torch.isfinite(gradient).all(), key
        largest = float(gradient.abs().max())
        assert (largest < 1e-9) if is_a_shift(name, key) else (largest > 1e-6), key


@pytest.mark.parametrize(("name", "count"), MOST)
def test_missing_vectors_learn_from_their_start(name, count):
    case, parts = CASES[name], reference.parts_of(CASES[name].reads, count)
    torch.manual_seed(1)  # with some seeds all of a narrow layer's units are dead for a vector of zeros
    fresh = Model(case.build(parts, 3), parts, [True] * count).double().train()
    assert all(not vector.any() for vector in fresh.missing)
    assert [vector.requires_grad for vector in fresh.missing] == [not fresh.network.skips] * count
    if fresh.network.skips:
        return
    samples = reference.random_samples(parts, case.reads, 40, lacking=0.4)
    sum((term.output**2).sum() for term in fresh.terms(*reference.as_batch(parts, samples))).backward()
    learns = [bool(vector.grad.abs().max() > 1e-9) for vector in fresh.missing]
    # CM-BERT takes products of aligned tokens without bias: one vector of zeros beside none has no slope.
    assert learns == ([True] + [False] * (count - 1) if name.startswith("cmbert") else [True] * count)


# Rows stand alone


@pytest.mark.parametrize(("name", "count"), MOST)
def test_output_does_not_depend_on_the_rows_beside_it_unless_it_is_scaled_by_the_batch(name, count):
    _, model, parts, samples = tried(name, count, rows=12)
    together = run(model, parts, samples)
    alone = np.concatenate([run(model, parts, [sample]) for sample in samples])
    apart = np.abs(together - alone).max()
    assert (apart > 1e-3) if name == "cmbert-batch" else (apart < 1e-10)


@pytest.mark.parametrize(("name", "count"), MOST)
def test_what_stands_where_nothing_is_changes_nothing(name, count):
    _, model, parts, samples = tried(name, count)
    first, second = (run(model, parts, samples, junk) for junk in (0.0, reference.JUNK))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("name", "count"), MOST)
def test_what_stands_where_nothing_is_teaches_nothing(name, count):
    case = CASES[name]
    found = []
    for junk in (0.0, reference.JUNK):
        model, parts = reference.model_of(case, count)
        samples = reference.random_samples(parts, case.reads, 20, lacking=0.4)
        terms = model.train().terms(*reference.as_batch(parts, samples, junk))
        sum((term.share * term.output**2).sum() for term in terms).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]).numpy())
    np.testing.assert_array_equal(*found)


# Missing modalities


class Recorder(Network):
    """Gives back what it was given."""

    def __init__(self, skips):
        super().__init__()
        self.skips = skips

    def forward(self, values, present):
        return values, present

    def terms(self, values, present, shown):
        return values, present, shown


def recorded(parts, samples, skips=False, dropped=0.0, lacking=None):
    model = Model(Recorder(skips), parts, lacking or [True] * len(parts)).double().train()
    model.dropped = dropped
    with torch.no_grad():
        for vector in model.missing:
            vector.normal_()
    return model, model.terms(*reference.as_batch(parts, samples))


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("reads", ["vectors", "tokens", "aligned"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_modality_dropout_never_hides_the_last_modality_nor_shows_what_is_missing(skips, reads, share):
    parts = reference.parts_of(reads, 3)
    samples = reference.random_samples(parts, reads, 400, lacking=0.5)
    has = np.array([[x is not None for x in sample] for sample in samples])
    hidden = 0
    for seed in range(25):
        torch.manual_seed(seed)
        shown = torch.stack(recorded(parts, samples, skips, share)[1][2], dim=1).numpy()
        assert not (shown & ~has).any()
        np.testing.assert_array_equal(shown.any(axis=1), has.any(axis=1))
        assert shown[has.sum(axis=1) == 1].sum() == (has.sum(axis=1) == 1).sum()
        hidden += (has & ~shown).sum()
    own = (has.sum(axis=1)[:, None] * np.ones(3))[has]
    likely = np.mean(share - share**own / own)  # of all that would be hidden at once, one is shown
    assert hidden / (25 * has.sum()) == pytest.approx(likely, abs=0.01)


def test_modality_dropout_hides_all_tokens_of_a_modality_or_none():
    parts = reference.parts_of("aligned", 2)
    samples = reference.random_samples(parts, "aligned", 200, lacking=0)
    _, before = reference.as_batch(parts, samples)
    _, (_, present, _) = recorded(parts, samples, skips=True, dropped=0.5)
    for whole, left in zip(before, present, strict=True):
        kept = left.any(dim=1)
        assert 0 < kept.sum() < 200
        assert torch.equal(left, whole & kept[:, None])


def test_nothing_is_hidden_while_predicting():
    case, model, parts, samples = tried("mlp", 3, lacking=0)
    model.dropped = 0.9
    np.testing.assert_allclose(
        run(model, parts, samples), reference.expected(case.formula, model, parts, samples), atol=1e-9
    )


@pytest.mark.parametrize("reads", ["vectors", "tokens", "aligned"])
@pytest.mark.parametrize("dropped", [0.0, 0.4])
def test_missing_vectors_stand_where_a_modality_is_missing_and_only_there(reads, dropped):
    parts = reference.parts_of(reads, 3)
    samples = reference.random_samples(parts, reads, 50, lacking=0.4)
    model, (values, present, shown) = recorded(parts, samples, dropped=dropped)
    for m, vector in enumerate(model.missing):
        for row, sample in enumerate(samples):
            left = values[m][row][present[m][row]].detach() if parts[m].steps else values[m][row].detach()
            own = sample[m] if shown[m][row] else vector.detach()[None] if parts[m].steps else vector.detach()
            np.testing.assert_array_equal(left, own)


def test_vector_of_a_modality_that_no_training_row_lacks_stays_at_zero():
    model, parts = reference.model_of(CASES["mlp"], 2)
    fixed = Model(model.network, parts, [False, True])
    assert [vector.requires_grad for vector in fixed.missing] == [False, True]
    assert not fixed.missing[0].any()


# Low rank


def low_rank_of(tensor, parts):
    """Low-rank fusion, with `h` in place, whose factors make up this tensor of `[1; x_1] o ... o [1; x_M]` to h."""
    *sizes, hidden = tensor.shape
    cells = list(np.ndindex(*sizes[:-1]))
    network = LowRankFusion(parts, 2, hidden, len(cells), 0.0).double()
    with torch.no_grad():
        for factor in network.factors:
            factor.zero_()
        for r, cell in enumerate(cells):
            for m, i in enumerate(cell):
                network.factors[m][r, i] = 1.0
            network.factors[-1][r] = torch.as_tensor(tensor[cell])
    return network


@pytest.mark.parametrize(("count", "subscripts"), [(2, "ni,nj,ijh->nh"), (3, "ni,nj,nk,ijkh->nh")])
def test_low_rank_fusion_of_full_rank_is_the_full_contraction(count, subscripts):
    rng, parts = np.random.default_rng(0), reference.parts_of("vectors", count)
    tensor = rng.normal(size=(*(part.columns + 1 for part in parts), 4))
    values = [rng.normal(size=(6, part.columns)) for part in parts]
    found = low_rank_of(tensor, parts).fused([torch.as_tensor(x) for x in values]).detach()
    extended = [np.hstack([np.ones((6, 1)), x]) for x in values]
    np.testing.assert_allclose(found, np.einsum(subscripts, *extended, tensor), rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [2, 3])
def test_low_rank_fusion_of_full_rank_is_tensor_fusion(count):
    torch.manual_seed(0)
    parts = reference.parts_of("vectors", count)
    full = TensorFusion(parts, 3, 2, 0.0).double()
    values = [torch.randn(6, part.columns, dtype=torch.float64) for part in parts]
    shape = (3,) * count
    tensor = full.out.weight.detach().numpy().T.reshape(*shape, 3)
    inner = [torch.tanh(layer(x)) for layer, x in zip(full.maps, values, strict=True)]
    low = low_rank_of(tensor, [type(parts[0])(part.name, 2) for part in parts]).fused(inner)
    np.testing.assert_allclose((low + full.out.bias).detach(), full(values, []).detach(), rtol=0, atol=1e-10)


# Numbers of modalities, by the estimators

GRADIENT_HEADS = [name for name, head in HEADS.items() if issubclass(head.any_class, GradientHead)]


def array_of(count, steps=3, rows=24):
    """An array of `count` modalities of `steps` tokens of 2 columns, its blocks, and labels."""
    rng = np.random.default_rng(count)
    X = rng.normal(size=(rows, count * steps * 2))
    blocks = {name: slice(6 * m, 6 * m + 6) for m, name in enumerate(("text", "image", "sound")[:count])}
    return X, blocks, np.arange(rows) % 3


@pytest.mark.parametrize("name", GRADIENT_HEADS)
@pytest.mark.parametrize(
    ("make", "count"),
    [
        (make_classifier, 3),
        *(pytest.param(make_classifier, count, marks=pytest.mark.slow) for count in (1, 2)),
        *(pytest.param(make_regressor, count, marks=pytest.mark.slow) for count in (1, 2, 3)),
    ],
)
@pytest.mark.usefixtures("few_steps")
def test_heads_take_as_many_modalities_as_their_formula(name, make, count):
    X, blocks, y = array_of(count)
    params = {"token_dim": 2} if HEADS[name].reads_tokens else {}
    head = make(name, blocks=blocks, epochs=1, random_state=0, **params)
    if count > (head.most_modalities or count):
        with pytest.raises(UsageError, match=r"at most 2 modalities, found text, image, sound"):
            head.fit(X, y)
        return
    found = head.fit(X, y).predict_proba(X) if make is make_classifier else head.fit(X, y).predict(X)
    assert np.isfinite(found).all()
    assert np.ptp(found, axis=0).max() > 0


def test_only_formulas_of_pairs_limit_the_modalities():
    limited = {name for name, head in HEADS.items() if head.any_class.most_modalities is not None}
    assert limited == {"bilinear", "film", "multiplicative"}
