"""The published formulas in plain numpy: one sample at a time, only the tokens that exist, no masks, no batch.

A formula takes the weights by name, a sample, and the `Setting`. A sample is a list of one entry a
modality: a vector `(D,)`, tokens `(T, D)`, or None where the formula itself leaves a modality out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

from fuse.feed import Part
from fuse.networks import aligned, attention, bilinear, concat, gated, merge, sets
from fuse.networks.model import Model

Weights = dict[str, np.ndarray]
Sample = list[np.ndarray]


@dataclass(frozen=True)
class Setting:
    """What a formula may know beside its sample."""

    parts: Sequence[Part]
    outputs: int
    batch: Sequence[Sample]


def affine(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)


def each(w: Weights, name: str, tokens: np.ndarray) -> np.ndarray:
    return np.array([affine(w, name, token) for token in tokens])


def relu(x):
    return np.maximum(x, 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(scores: Sequence[float]) -> np.ndarray:
    raised = np.exp(np.array(scores) - max(scores))
    return raised / raised.sum()


def as_tokens(sample: Sample) -> Sample:
    return [np.atleast_2d(x) for x in sample]


def paired(items: Sequence) -> list:
    """A modality alone is multiplied with itself."""
    return [*items, *items] if len(items) == 1 else list(items)


def maps(w: Weights, sample: Sample, name: str = "maps") -> list[np.ndarray]:
    return [affine(w, f"{name}.{m}", x) for m, x in enumerate(paired(sample))]


# Merges, concatenations, gates


def merged(kind: str, values: list[np.ndarray], width: int) -> np.ndarray:
    rules = {"max": np.max, "mean": np.mean, "sum": np.sum, "product": np.prod}
    return rules[kind](np.array(values), axis=0) if values else np.zeros(width)


def logit_merge(kind: str, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    own = [affine(w, f"maps.{m}", x) for m, x in enumerate(sample) if x is not None]
    return merged(kind, own, setting.outputs)


def feature_merge(kind: str, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    own = [affine(w, f"maps.{m}", x) for m, x in enumerate(sample) if x is not None]
    return affine(w, "out", relu(merged(kind, own, len(w["maps.0.bias"]))))


def perceptron(w: Weights, x: np.ndarray) -> np.ndarray:
    names = sorted({name.rsplit(".", 1)[0] for name in w if name.startswith("layers.")})
    for name in names[:-1]:
        x = relu(affine(w, name, x))
    return affine(w, names[-1], x)


def mlp(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    return perceptron(w, np.concatenate(sample))


def towers(w: Weights, sample: Sample) -> list[np.ndarray]:
    return [relu(affine(w, f"towers.{m}.0", x)) for m, x in enumerate(sample)]


def mlp_of_towers(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    return perceptron(w, np.concatenate(towers(w, sample)))


def flat_tokens(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    places = np.zeros(sum(part.columns * (part.steps or 1) for part in setting.parts))
    start = 0
    for part, x in zip(setting.parts, sample, strict=True):
        places[start : start + x.size] = x.ravel()
        start += part.columns * (part.steps or 1)
    return perceptron(w, places)


def gated_unit(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    everything = np.concatenate(sample)
    h = sum(
        sigmoid(affine(w, f"gates.{m}", everything)) * np.tanh(affine(w, f"maps.{m}", x)) for m, x in enumerate(sample)
    )
    return affine(w, "out", h)


# Products


def form(w: Weights, name: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`u' W_k v + b_k`."""
    return np.array([first @ matrix @ second for matrix in w[f"{name}.weight"]]) + w[f"{name}.bias"]


def bilinear_form(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    return form(w, "product", *maps(w, sample))


def multiplicative(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    return bilinear_form(w, sample, setting) + sum(maps(w, sample, "linear"))


def film(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    first, second = paired(sample)
    return affine(w, "out", relu(affine(w, "gamma", first) * affine(w, "features", second) + affine(w, "beta", first)))


def mlb(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    return affine(w, "out", np.prod(np.tanh(maps(w, sample)), axis=0))


def power_normalised(z: np.ndarray) -> np.ndarray:
    rooted = np.sign(z) * np.sqrt(np.abs(z))
    return rooted / np.linalg.norm(rooted)


def mfb(factors: int, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    """Column `j k + f` of the product is factor f of output column j: sum pooling with stride k."""
    joint = np.prod(maps(w, sample), axis=0)
    pooled = np.array([sum(joint[start : start + factors]) for start in range(0, len(joint), factors)])
    return affine(w, "out", power_normalised(pooled))


def mutan(rank: int, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    width = w["out.weight"].shape[1]
    joined = np.zeros(width)
    for r in range(rank):
        rows = slice(r * width, (r + 1) * width)
        factors = [w[f"maps.{m}.weight"][rows] @ x + w[f"maps.{m}.bias"][rows] for m, x in enumerate(paired(sample))]
        joined += np.prod(factors, axis=0)
    return affine(w, "out", joined)


def mcb(sketch: int, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    """Every cell of the outer product goes to the sum of its places, with the product of its signs."""
    extended = [np.concatenate([[1.0], x]) for x in paired(sample)]
    starts = np.cumsum([0, *map(len, extended)])
    cells = np.zeros(sketch)
    for index in product(*(range(len(x)) for x in extended)):
        spots = [start + i for start, i in zip(starts, index, strict=False)]
        value = np.prod([x[i] for x, i in zip(extended, index, strict=True)])
        cells[int(w["places"][spots].sum()) % sketch] += w["signs"][spots].prod() * value
    return affine(w, "out", power_normalised(cells))


def tensor(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    extended = [np.concatenate([[1.0], np.tanh(u)]) for u in maps(w, sample)]
    return affine(w, "out", np.array([np.prod(cell) for cell in product(*extended)]))


def low_rank(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    h = w["bias"].copy()
    for r in range(len(w["factors.0"])):
        h += np.prod([w[f"factors.{m}"][r].T @ np.append(1.0, x) for m, x in enumerate(paired(sample))], axis=0)
    return affine(w, "out", h)


# Attention


def shares(w: Weights, name: str, columns: np.ndarray, query: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """What one query takes from each key by one head, that of these columns."""
    q, k = affine(w, f"{name}.query", query)[columns], each(w, f"{name}.key", keys)[:, columns]
    return softmax([q @ key / np.sqrt(len(columns)) for key in k])


def attend(w: Weights, name: str, heads: int, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Multi-head attention, a head and a query at a time."""
    v = each(w, f"{name}.value", keys)
    taken = np.zeros((len(queries), v.shape[1]))
    for columns in np.split(np.arange(v.shape[1]), heads):
        for i, query in enumerate(queries):
            taken[i, columns] = shares(w, name, columns, query, keys) @ v[:, columns]
    return each(w, f"{name}.out", taken)


def cross_attention_weights(heads: int, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    """Of the first modality's tokens and of all heads on average, for all keys in turn."""
    first, *others = (each(w, f"maps.{m}", x) for m, x in enumerate(as_tokens(sample)))
    keys = np.concatenate(others or [first])
    parted = np.split(np.arange(first.shape[1]), heads)
    return np.mean([shares(w, "attention.0", columns, query, keys) for columns in parted for query in first], axis=0)


def cross_attention(heads: int, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    mapped = [each(w, f"maps.{m}", x) for m, x in enumerate(as_tokens(sample))]
    context = []
    for m, own in enumerate(mapped):
        others = [x for n, x in enumerate(mapped) if n != m] or [own]
        joined = own + attend(w, f"attention.{m}", heads, own, np.concatenate(others))
        context.append(np.mean([layer_norm(w, f"norms.{m}", token) for token in joined], axis=0))
    return affine(w, "out", np.concatenate(context))


def sinusoids(steps: int, width: int) -> np.ndarray:
    """Column 2i is `sin(t / 10000^(2i / D))`, column 2i + 1 its cosine."""
    wave = (np.sin, np.cos)
    return np.array([[wave[c % 2](t / 10000 ** (2 * (c // 2) / width)) for c in range(width)] for t in range(steps)])


def block(w: Weights, name: str, heads: int, target: np.ndarray, source: np.ndarray) -> np.ndarray:
    def normed(norm, x):
        return np.array([layer_norm(w, f"{name}.{norm}", token) for token in x])

    z = target + attend(w, f"{name}.attention", heads, normed("norm", target), normed("source_norm", source))
    inner = relu(each(w, f"{name}.forward_layers.0", normed("last_norm", z)))
    return z + each(w, f"{name}.forward_layers.2", inner)


def mult(heads: int, layers: int, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    placed = []
    for m, x in enumerate(as_tokens(sample)):
        mapped = each(w, f"maps.{m}", x)
        placed.append(mapped + sinusoids(*mapped.shape))
    last = []
    for m in range(len(placed)):
        streams = []
        for i, source in enumerate([x for n, x in enumerate(placed) if n != m] or [placed[m]]):
            stream = placed[m]
            for layer in range(layers):
                stream = block(w, f"cross.{m}.{i}.{layer}", heads, stream, source)
            streams.append(stream)
        joined = np.concatenate(streams, axis=1)
        last.append(block(w, f"alone.{m}", heads, joined, joined)[-1])
    h = np.concatenate(last)
    return affine(w, "out", h + affine(w, "second", relu(affine(w, "first", h))))


def cmbert_weights(scale: str, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    """Of the first token. Keys are the text's tokens; what another modality lacks of them scores 0."""
    text = sample[0]
    scores = np.full((len(text), len(text)), w["bias"][0])
    for m, tokens in enumerate(sample):
        projected = each(w, f"maps.{m}", tokens)
        if scale == "sample":
            projected = projected / np.sqrt(np.linalg.norm(projected))
        elif scale == "batch" and m == 0:
            everyone = [each(w, "maps.0", other[0]).ravel() for other in setting.batch]
            projected = projected / np.sqrt(np.linalg.norm(np.concatenate(everyone)))
        for i, j in product(range(min(len(text), len(tokens))), repeat=2):
            scores[i, j] += w["weight"][m] * relu(projected[i] @ projected[j])
    return softmax(scores[0])


def cmbert(scale: str, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    text = sample[0]
    first = cmbert_weights(scale, w, sample, setting) @ text
    return affine(w, "out", layer_norm(w, "norm", affine(w, "dense", first + text[0])))


def lstm(w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    """Gates in torch's order: input, forget, cell, output. A modality that is missing has one token."""
    steps = max(map(len, sample))
    even = [np.concatenate([x, np.zeros((steps - len(x), x.shape[1]))]) for x in sample]
    h = c = np.zeros(w["lstm.weight_hh_l0"].shape[1])
    for x in np.concatenate(even, axis=1):
        gates = w["lstm.weight_ih_l0"] @ x + w["lstm.bias_ih_l0"] + w["lstm.weight_hh_l0"] @ h + w["lstm.bias_hh_l0"]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return affine(w, "out", h)


# Sets


def plain_pool(rule: Callable, w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return affine(w, f"{name}.map", rule(x, axis=0))


def deep_set(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return affine(w, f"{name}.rho", sum(relu(affine(w, f"{name}.phi", one)) for one in x))


def gated_weights(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    gated = [np.tanh(affine(w, f"{name}.v", one)) * sigmoid(affine(w, f"{name}.u", one)) for one in x]
    return softmax([(w[f"{name}.w.weight"] @ one)[0] for one in gated])


def gated_pool(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return affine(w, f"{name}.map", gated_weights(w, name, x) @ x)


def set_fusion(pool: Callable, w: Weights, sample: Sample, setting: Setting) -> np.ndarray:
    pooled = [pool(w, f"pools.{m}", x) for m, x in enumerate(as_tokens(sample))]
    return affine(w, "out", relu(np.concatenate(pooled)))


# All of them


@dataclass(frozen=True)
class Case:
    """How a network is built, its formula, and what it reads: `vectors`, `tokens` (some or all), `aligned`."""

    network: type
    arguments: tuple
    formula: Callable[[Weights, Sample, Setting], np.ndarray]
    reads: str = "vectors"
    most: int | None = None
    shares: bool = False

    def build(self, parts: Sequence[Part], outputs: int):
        options = {"shares": [1.0, *[0.5] * len(parts)]} if self.shares else {}
        return self.network(parts, outputs, *self.arguments, dropout=0.0, **options)

    def counts(self) -> range:
        return range(1, (self.most or 3) + 1)


POOLS = {"mean": partial(plain_pool, np.mean), "max": partial(plain_pool, np.max), "deepsets": deep_set} | {
    "attention": gated_pool
}

CASES: dict[str, Case] = {
    **{f"logit-{kind}": Case(merge.LogitMerge, (kind,), partial(logit_merge, kind)) for kind in ("max", "mean", "sum")},
    **{
        f"feature-{kind}": Case(merge.FeatureMerge, (kind, 6), partial(feature_merge, kind))
        for kind in ("max", "mean", "sum", "product")
    },
    "mlp": Case(concat.ConcatMLP, ((8, 6),), mlp),
    "mlp-linear": Case(concat.ConcatMLP, ((),), mlp),
    "mlp-shares": Case(concat.ConcatMLP, ((7,),), mlp_of_towers, shares=True),
    "mlp-shares-deep": Case(concat.ConcatMLP, ((7, 6, 5),), mlp_of_towers, shares=True),
    "flat": Case(concat.FlatTokens, (9,), flat_tokens, "tokens"),
    "gmu": Case(gated.GatedUnit, (6,), gated_unit),
    "bilinear": Case(bilinear.Bilinear, (4,), bilinear_form, most=2),
    "mlb": Case(bilinear.LowRankBilinear, (6,), mlb),
    "mfb": Case(bilinear.FactorizedBilinear, (5, 3), partial(mfb, 3)),
    "mutan": Case(bilinear.Mutan, (5, 3), partial(mutan, 3)),
    "mcb": Case(bilinear.CompactBilinear, (16,), partial(mcb, 16)),
    "mcb-odd": Case(bilinear.CompactBilinear, (61,), partial(mcb, 61)),
    "tensor": Case(bilinear.TensorFusion, (3,), tensor),
    "lowrank": Case(bilinear.LowRankFusion, (5, 3), low_rank),
    "film": Case(bilinear.FeatureWise, (6,), film, most=2),
    "multiplicative": Case(bilinear.Multiplicative, (4,), multiplicative, most=2),
    "cross-attention": Case(attention.CrossAttention, (6, 2), partial(cross_attention, 2), "tokens"),
    "mult": Case(attention.CrossModalTransformer, (6, 2, 2), partial(mult, 2, 2), "tokens"),
    "mult-odd": Case(attention.CrossModalTransformer, (5, 1, 1), partial(mult, 1, 1), "tokens"),
    **{
        f"cmbert-{scale}": Case(aligned.MaskedMultimodalAttention, (6, scale), partial(cmbert, scale), "aligned")
        for scale in ("sample", "batch", "none")
    },
    "ef-lstm": Case(aligned.EarlyFusionLSTM, (5,), lstm, "aligned"),
    **{
        f"set-{name}": Case(sets.SetFusion, (name, 6), partial(set_fusion, pool), "tokens")
        for name, pool in POOLS.items()
    },
}


WEIGHTS = {
    **{f"cmbert-{scale}": partial(cmbert_weights, scale) for scale in ("sample", "batch", "none")},
    "cross-attention": partial(cross_attention_weights, 2),
    "set-attention": lambda w, sample, setting: gated_weights(w, "pools.0", np.atleast_2d(sample[0])),
}
"""What networks that attend look at."""


def auxiliary(w: Weights, sample: Sample) -> list[np.ndarray]:
    """What each modality predicts by itself, from its tower."""
    return [affine(w, f"alone.{m}", h) for m, h in enumerate(towers(w, sample))]


# What they are tried on

JUNK = 1e6
"""Stands where nothing is: whatever reads it is far off."""

COLUMNS, STEPS = (5, 4, 3), 5


def parts_of(reads: str, count: int) -> list[Part]:
    """Tokens are those of the first and third modality, or of all where they are aligned."""
    places = {"vectors": (), "tokens": (0, 2), "aligned": (0, 1, 2)}[reads]
    names = ("text", "image", "sound")
    return [Part(names[m], COLUMNS[m], STEPS if m in places else None) for m in range(count)]


def random_samples(parts: Sequence[Part], reads: str, rows: int, lacking: float, seed: int = 0) -> list[Sample]:
    """Samples with 1 to `STEPS - 1` tokens; None where a modality is missing."""
    rng = np.random.default_rng(seed)
    samples = []
    for row in range(rows):
        length = rng.integers(1, STEPS)
        sample: Sample = []
        for part in parts:
            own = length if reads == "aligned" else rng.integers(1, STEPS)
            x = rng.normal(size=(own, part.columns) if part.steps else part.columns)
            sample.append(x if row == 0 or rng.random() >= lacking else None)
        samples.append(sample)
    return samples


def as_batch(parts: Sequence[Part], samples: Sequence[Sample], junk: float = JUNK) -> tuple[list, list]:
    """Values and what is present, as `Feed` gives them, but junk where nothing is."""
    values, present = [], []
    for m, part in enumerate(parts):
        own = [sample[m] for sample in samples]
        if part.steps is None:
            values.append(np.array([np.full(part.columns, junk) if x is None else x for x in own]))
            present.append(np.array([x is not None for x in own]))
            continue
        lengths = [0 if x is None else len(x) for x in own]
        there = np.arange(max(1, *lengths)) < np.array(lengths)[:, None]
        padded = np.full((*there.shape, part.columns), junk)
        for row, x in enumerate(own):
            if x is not None:
                padded[row, : len(x)] = x
        values.append(padded)
        present.append(there)
    return [torch.as_tensor(x) for x in values], [torch.as_tensor(x) for x in present]


def model_of(case: Case, count: int, outputs: int = 3, seed: int = 0) -> tuple[Model, list[Part]]:
    """A model in float64 whose every parameter is random, also those that start at 0 or 1."""
    torch.manual_seed(seed)
    parts = parts_of(case.reads, count)
    model = Model(case.build(parts, outputs), parts, [True] * count).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.6)
    return model, parts


def filled(model: Model, parts: Sequence[Part], samples: Sequence[Sample]) -> list[Sample]:
    """Samples with the learned vector, of tokens one, where a modality is missing and the formula does not say."""
    if model.network.skips:
        return list(samples)
    stand_in = [vector.detach().numpy() for vector in model.missing]
    stand_in = [x[None] if part.steps else x for x, part in zip(stand_in, parts, strict=True)]
    return [[x if own is None else own for own, x in zip(sample, stand_in, strict=True)] for sample in samples]


def weights_of(model: Model) -> Weights:
    return {name: value.numpy() for name, value in model.network.state_dict().items()}


def expected(formula: Callable, model: Model, parts: Sequence[Part], samples: Sequence[Sample], outputs: int = 3):
    """What the formula gives for each sample."""
    batch = filled(model, parts, samples)
    setting = Setting(parts, outputs, batch)
    return [formula(weights_of(model), sample, setting) for sample in batch]
