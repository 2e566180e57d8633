"""A sklearn transformer from raw samples to features, which reads and fills the store."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cache import DataError, FeatureStore, FeatureTable, UsageError, listing, place, silent, table_of
from extract.chosen import Chooser
from extract.encoders.spec import DEFAULT_MODELS, OUTPUTS, EncoderSpec, choose_specs, outputs_of
from extract.manifest import Manifest
from extract.raw import Raw, raw_manifest, read_raw
from extract.stage import Extraction, Settings, extract

if TYPE_CHECKING:
    from extract.runtime import Runtime

ENCODING = (
    *("text_model", "image_model", "image_weights", "pooling", "max_length", "random_init"),
    *("precision", "decoder", "dtype", "tokens"),
)
"""Parameters that say what the features are."""
UNNAMED = "raw samples"
"""What tables are called where no view is kept."""
_one_at_a_time = threading.Lock()
"""Every extraction takes the whole machine, and the first import of transformers by two threads at once fails."""


class FeatureExtractor(TransformerMixin, BaseEstimator):
    """Raw texts and pictures to cached features: what the store holds is read, the rest is encoded once.

    `make_pipeline(FeatureExtractor("features"), ConcatMLPClassifier())` fits and predicts raw data.
    X is a list of `n` dicts such as `{"text": "a day", "image": "1.jpg"}`, a pandas DataFrame with such
    columns, or a list of texts. A picture is a path or the bytes of a file. None, NaN, NA, an
    empty text, and a path at which nothing is, are missing: the row stays, masked. So does a row
    whose picture is broken; a UserWarning says how many there are and where the reasons stand.

    The output is a `cache.FeatureTable` of shape `(n, D)`, rows in the order of X, which heads and, as an
    array, all of sklearn take; masked columns are 0. Every call reads the pictures, to know whether
    they are still the same, but encodes none again. One that has to encode loads the models: better
    give many rows at once.

    Only vectors stay in the store. `pipeline.py cache gc` removes those that no data set reaches,
    and the next call encodes them again; with `name`, the data set that was transformed last is kept
    as a view of that name (without labels), and `gc` leaves its vectors alone. Transform the data
    once before a search in several processes: else each of them encodes, and settles the precision,
    for itself.

    Args:
        store: folder of the feature store.
        columns: by modality the key or column of X that holds it; by default the modality's own name.
        modalities: which to take, in the order of the columns; None takes those of `text` and `image`
            of which the data given to `fit` has any.
        root: folder where relative paths of pictures start; the working folder by default.
        name: of the view that is kept; None keeps none.
        text_model: BERT-like model by name or folder.
        image_model: classification network of torchvision.
        image_weights: its state dict (.pth, .safetensors); the official weights by default.
        pooling: of a text, `mean` or `cls`; both are stored.
        max_length: longest text in tokens; the model's own limit by default.
        random_init: seed of untrained weights, or by modality `{"image": 0}`.
        precision: `fp32`, `bf16`, or `auto`: what the store has, else what is measured to be faster and as good.
        decoder: of pictures: `pillow`, `draft` or `nvjpeg`.
        dtype: of stored vectors, `float32` or `float16`.
        tokens: keep token vectors and image grids too, for `table.tokens`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or several GPUs as `cuda:0,cuda:1`.
        on_error: `record` masks samples that fail, `fail` raises a DataError.

    Attributes:
        modalities_: in the order of the columns.
        encoders_: by modality the `encoder`, its key's digest, and the `spec` from which it is built again.
        blocks_: columns of each modality, such as `{"text": slice(0, 768), ...}`.
        n_features_out_: D.
        columns_: names of all columns of the data given to `fit`.
        encoding_: the parameters that say what the features are, as they were in `fit`.
    """

    def __init__(
        self,
        store: str | Path = "features",
        *,
        columns: Mapping[str, Any] | None = None,
        modalities: Sequence[str] | None = None,
        root: str | Path | None = None,
        name: str | None = None,
        text_model: str | Path = DEFAULT_MODELS["text"],
        image_model: str = DEFAULT_MODELS["image"],
        image_weights: str | Path | None = None,
        pooling: str = "mean",
        max_length: int | None = None,
        random_init: int | Mapping[str, int] | None = None,
        precision: str = "auto",
        decoder: str = "pillow",
        dtype: str = "float32",
        tokens: bool = False,
        device: str = "auto",
        on_error: str = "record",
    ) -> None:
        self.store = store
        self.columns = columns
        self.modalities = modalities
        self.root = root
        self.name = name
        self.text_model = text_model
        self.image_model = image_model
        self.image_weights = image_weights
        self.pooling = pooling
        self.max_length = max_length
        self.random_init = random_init
        self.precision = precision
        self.decoder = decoder
        self.dtype = dtype
        self.tokens = tokens
        self.device = device
        self.on_error = on_error

    def fit(self, X: Any, y: Any = None) -> FeatureExtractor:
        """Settles modalities and encoders; encodes nothing. `y` is not used.

        Raises:
            UsageError: X is no such thing as it should be, or a parameter is not known.
            DataError: X is empty, lacks a column, or holds what is no text and no picture.
            ModelError: an encoder cannot be loaded.
            DeviceError: the device cannot be used.
        """
        raw, manifest, specs = self._begin(X)
        if self.device not in ("auto", "cpu"):
            self._runtime()  # as `extract` does: a GPU that is asked for must be there
        name = self.name or UNNAMED
        chooser = Chooser(FeatureStore(self.store), name, {}, manifest.samples, self._runtime, silent)
        with _one_at_a_time:
            chosen = [chooser.choose(spec) for spec in specs]
        outputs = [one.spec.output or OUTPUTS[one.spec.kind][0] for one in chosen]
        dims = [outputs_of(one.key.fields)[output] for one, output in zip(chosen, outputs, strict=True)]
        self._learn(raw, [(one.spec, one.key.digest, dim) for one, dim in zip(chosen, dims, strict=True)])
        return self

    def fit_transform(self, X: Any, y: Any = None) -> FeatureTable:
        """The same as `fit` and `transform`, but X is read once. Raises what they do."""
        raw, manifest, specs = self._begin(X)
        done = self._extract(manifest, specs, {})
        blocks = done.view.blocks.values()
        self._learn(raw, [(EncoderSpec.from_json(one.spec), one.encoder, one.dim) for one in blocks])
        return table_of(FeatureStore(self.store), done.view)

    def transform(self, X: Any) -> FeatureTable:
        """Features of `n` samples by the very encoders of `fit`, shape `(n, D)`.

        A column that X lacks is an error, unless X is a list of dicts without any key that was not
        there in `fit`: then its rows lack the modality.

        Raises:
            UsageError: X is no such thing as it should be, or parameters were changed since `fit`.
            DataError: as `fit`; with `on_error="fail"` also where samples fail.
            ModelError: an encoder cannot be loaded, or is another one than in `fit`.
            StoreError: the store cannot be read or written.
        """
        check_is_fitted(self)
        self._check_unchanged()
        columns = {modality: self._column(modality) for modality in self.modalities_}
        raw = read_raw(X, self._column("text"))
        if not (raw.sparse and set(raw.names) <= set(self.columns_)):
            _require_columns(raw, columns)
        specs = tuple(EncoderSpec.from_json(one["spec"]) for one in self.encoders_.values())
        expected = {modality: one["encoder"] for modality, one in self.encoders_.items()}
        done = self._extract(raw_manifest(raw, columns, self._root()), specs, expected)
        return table_of(FeatureStore(self.store), done.view)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names such as `text_0` and `image_511`, objects of shape `(D,)`; `input_features` is not used."""
        check_is_fitted(self)
        names = [f"{name}_{i}" for name, part in self.blocks_.items() for i in range(part.stop - part.start)]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Tells sklearn that X is no matrix of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = tags.input_tags.dict = tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = True
        return tags

    def _begin(self, X: Any) -> tuple[Raw, Manifest, tuple[EncoderSpec, ...]]:
        """What `fit` is given, checked."""
        chosen = self._chosen_modalities()
        columns = {modality: self._column(modality) for modality in chosen or DEFAULT_MODELS}
        raw = read_raw(X, self._column("text"))
        named = {*chosen, *(self.columns or {})}
        _require_columns(raw, {modality: column for modality, column in columns.items() if modality in named})
        manifest = raw_manifest(raw, columns, self._root())
        held = {modality for sample in manifest.samples for modality in sample.inputs}
        modalities = chosen or tuple(modality for modality in columns if modality in held)
        if not modalities:
            raise DataError(
                f"no row of X has anything under {_names(columns.values())}, where {listing(list(columns))} are looked "
                f"for; its columns are {_names(raw.names)}: name them by columns={{'text': ..., 'image': ...}}"
            )
        return raw, manifest, self._specs(modalities)

    def _chosen_modalities(self) -> tuple[str, ...]:
        """Those that are asked for; empty where the data decides."""
        chosen = () if self.modalities is None else self.modalities
        known = not isinstance(chosen, str) and {*chosen, *(self.columns or {})} <= set(DEFAULT_MODELS)
        if not known or len(set(chosen)) < len(chosen) or (not chosen and self.modalities is not None):
            raise UsageError(
                f"modalities is a list of {listing(list(DEFAULT_MODELS))}, each at most once, and columns maps them to "
                f"columns of X; found modalities={self.modalities!r} and columns={self.columns!r}"
            )
        return tuple(chosen)

    def _specs(self, modalities: Sequence[str]) -> tuple[EncoderSpec, ...]:
        """The parameters, which are named as on the command line, as `choose_specs` takes them."""
        for name, known in (("pooling", OUTPUTS["text"]), ("on_error", ("record", "fail"))):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is one of {listing(known)}, not {getattr(self, name)!r}")
        both = {"dtype": self.dtype, "tokens": bool(self.tokens), "precision": self.precision}
        length = None if self.max_length is None else _whole("max_length", self.max_length)
        text = {"model": str(self.text_model), "output": self.pooling, "max_length": length}
        weights = None if self.image_weights is None else str(self.image_weights)
        image = {"model": self.image_model, "weights": weights, "decoder": self.decoder}
        given = {
            modality: {key: value for key, value in {**fields, **both}.items() if value is not None}
            for modality, fields in (("text", text), ("image", image))
        }
        return choose_specs(modalities, given, self._seeds(), {})

    def _seeds(self) -> dict[str, int]:
        """By modality; under the empty name for all that have no weights."""
        if self.random_init is None:
            return {}
        seeds = self.random_init if isinstance(self.random_init, Mapping) else {"": self.random_init}
        if not set(seeds) <= {"", *DEFAULT_MODELS}:
            raise UsageError(f'random_init is a seed, or such as {{"image": 0}}; found {self.random_init!r}')
        return {modality: _whole("random_init", seed) for modality, seed in seeds.items()}

    def _extract(self, manifest: Manifest, specs: tuple[EncoderSpec, ...], expected: Mapping[str, str]) -> Extraction:
        settings = Settings(
            place(self.store),
            self.name or UNNAMED,
            specs,
            device=self.device,
            expected=expected,
            keep=self.name is not None,
            fail_fast=self.on_error == "fail",
        )
        with _one_at_a_time:
            done = extract(manifest, settings)
        for message in (*done.warnings, *_losses(manifest, done, FeatureStore(self.store))):
            warnings.warn(message, UserWarning, stacklevel=4)  # to whoever calls `transform`, which sklearn wraps
        return done

    def _learn(self, raw: Raw, encoders: Sequence[tuple[EncoderSpec, str, int]]) -> None:
        """Notes specs as they were settled, key digests and widths."""
        self.modalities_ = tuple(spec.modality for spec, _, _ in encoders)
        self.encoders_: dict[str, dict[str, Any]] = {
            spec.modality: {"encoder": key, "spec": spec.as_json()} for spec, key, _ in encoders
        }
        stops = np.cumsum([dim for _, _, dim in encoders]).tolist()
        starts = [0, *stops[:-1]]
        self.blocks_ = {name: slice(*ends) for name, *ends in zip(self.modalities_, starts, stops, strict=True)}
        self.n_features_out_ = stops[-1]
        self.columns_ = tuple(raw.names)
        self.encoding_ = {name: getattr(self, name) for name in ENCODING}

    def _check_unchanged(self) -> None:
        changed = [name for name in ENCODING if getattr(self, name) != self.encoding_[name]]
        if changed:
            found = [f"{name}={getattr(self, name)!r} (was {self.encoding_[name]!r})" for name in changed]
            raise UsageError(f"parameters were changed since fit: {listing(found)}; fit again, or set them back")

    def _column(self, modality: str) -> Any:
        return (self.columns or {}).get(modality, modality)

    def _root(self) -> Path:
        return Path(self.root or ".")

    def _runtime(self) -> Runtime:
        from extract.runtime import choose_runtimes

        return choose_runtimes(self.device)[0]


def _require_columns(raw: Raw, columns: Mapping[str, Any]) -> None:
    lacking = {modality: column for modality, column in columns.items() if column not in raw.names}
    if lacking:
        raise DataError(
            f"X has no column {_names(lacking.values())} for {listing(list(lacking))}; it has {_names(raw.names)}: "
            f"name others by columns={{'{next(iter(lacking))}': ...}}, and give None where a row has none"
        )


def _losses(manifest: Manifest, done: Extraction, store: FeatureStore) -> Iterator[str]:
    """What a caller would not see from the masks alone."""
    for modality, block in done.view.blocks.items():
        failures = [f"row {failure.id}: {failure.reason}" for failure in done.failures[modality]]
        if failures:
            yield (
                f"{len(failures)} of {done.samples} rows have a broken {modality} and are masked as if they had none "
                f"({listing(failures, 5)}); all that ever failed are in {store.encoder(block.encoder).failures_path}"
            )
        given = [sample.inputs[modality] for sample in manifest.samples if modality in sample.inputs]
        if given and done.missing[modality] == done.samples:
            yield f"none of the {len(given)} {modality} paths exists (first: {given[0]!s}); see the parameter root"


def _whole(name: str, value: Any) -> int:
    """As a Python int, for specs are written as JSON; a grid of numpy holds others."""
    if not isinstance(value, Integral) or value < 0:
        raise UsageError(f"{name} is a whole number of 0 or more, not {value!r}")
    return int(value)


def _names(columns: Iterable[Any]) -> str:
    return listing([repr(column) for column in columns])
