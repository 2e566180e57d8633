"""What the engine needs of an encoder, and how one is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cache import TOKENS, EncoderKey, UsageError, Values, listing
from extract.manifest import Content, Piece, read_content

DEFAULT_MODELS = {"text": "bert-base-uncased", "image": "resnet50"}
AUDIO = "audio"
"""The kind of audio files. There is no default model: a modality of this name may be arrays, too."""
NETWORKS = (*DEFAULT_MODELS, AUDIO)
"""Kinds that a network encodes."""
ARRAY, TABULAR = "array", "tabular"
"""What `model` says of modalities that no network encodes: arrays as they are, columns of a table."""
OUTPUTS = {"text": ("mean", "cls"), "image": ("pool",), AUDIO: ("mean",), ARRAY: ("mean",), TABULAR: ("row",)}
"""Outputs of each kind's encoder; the first is the default."""
DTYPES = ("float32", "float16")
TOKENS_DTYPE = "float16"
COMPUTE = {"fp32": "float32", "bf16": "bfloat16"}
"""Precisions of the forward pass, and how a key names them."""
DECODERS = ("pillow", "draft", "nvjpeg")
"""Of pictures: whole by Pillow; large JPEGs at a half, a quarter or an eighth; JPEGs in batches on an NVIDIA GPU."""


MOST_COLUMNS = 2**20
"""Of arrays: a description of an encoder that someone sent must not ask for all the memory."""
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("modality", "model"), str),
    **dict.fromkeys(("weights", "output", "aligned_to", "dtype", "precision", "decoder"), str | None),
    **dict.fromkeys(("random_init", "max_length", "width"), int | None),
    "tokens": bool | None,
    "columns": list | tuple | None,
    "tuned_on": Mapping | None,
}
"""Of an encoder's description, what each field may be; None stands for one that is left out."""


@dataclass(frozen=True)
class EncoderSpec:
    """The user's choice of one encoder.

    Attributes:
        modality: `text`, `image`, `audio`, or one beside them such as `image_2`; the name of an array or of columns.
        model: a name on a hub or in torchvision, or a local folder; `array` or `tabular`.
        weights: a file of weights; None takes the model's own.
        random_init: seed of random weights, instead of trained ones.
        output: which of the encoder's outputs heads get; None takes its default. No forward
            pass depends on it: all outputs are kept.
        max_length: longest text in tokens, None takes what the model was made for; longest clip of audio in
            seconds, None takes 30.
        dtype: in which pooled vectors are stored, `float32` or `float16`.
        tokens: keep the vector of every token, or of every place of a picture's grid, as float16.
        precision: of the forward pass: `fp32`, `bf16`, or `auto`, which `extract` settles.
        decoder: of pictures, one of DECODERS.
        width: of arrays: how many columns each has.
        aligned_to: of arrays: the text model over whose word pieces the rows, one a word, are repeated.
        columns: of tabular data: name and categories of each; None in their place for numbers.
        tuned_on: of a fine-tuned encoder, what it was tuned on: `{"data": name, "items": [32 hex digits, ...]}`,
            the item keys of the content of this modality that its training has seen. No vector depends on it.
    """

    modality: str
    model: str
    weights: str | None = None
    random_init: int | None = None
    output: str | None = None
    max_length: int | None = None
    dtype: str = "float32"
    tokens: bool = False
    precision: str = "fp32"
    decoder: str = "pillow"
    width: int | None = None
    aligned_to: str | None = None
    columns: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    tuned_on: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Makes local paths absolute, so that a run can be used from another working folder.

        Raises UsageError for weights that would not be used, and for a value that is not known.
        """
        if self.precision not in ("auto", *COMPUTE):
            raise UsageError(f"the precision is one of auto, {', '.join(COMPUTE)}, not {self.precision!r}")
        if self.decoder not in DECODERS:
            raise UsageError(f"pictures are decoded by one of {listing(DECODERS)}, not by {self.decoder!r}")
        if self.dtype not in DTYPES:
            raise UsageError(f"vectors are stored as {listing(DTYPES)}, not as {self.dtype!r}")
        if self.weights is not None and (self.kind != "image" or self.random_init is not None):
            reason = (
                "random weights were asked for too" if self.kind == "image" else "only a network for images takes some"
            )
            raise UsageError(f"the weights {self.weights} cannot be used for {self.modality}: {reason}")
        if self.kind in ("text", AUDIO) and Path(self.model).is_dir():
            object.__setattr__(self, "model", str(Path(self.model).absolute()))
        if self.aligned_to is not None and Path(self.aligned_to).is_dir():
            object.__setattr__(self, "aligned_to", str(Path(self.aligned_to).absolute()))
        if self.weights is not None:
            object.__setattr__(self, "weights", str(Path(self.weights).absolute()))
        # JSON knows lists alone; a spec that was read is to equal the one that was written.
        columns = tuple((name, None if known is None else tuple(known)) for name, known in self.columns)
        object.__setattr__(self, "columns", columns)

    @property
    def kind(self) -> str:
        """Which encoder it takes: `text`, `image`, `audio`, `array` or `tabular`."""
        return kind_of(self.modality, self.model)

    def as_json(self) -> dict[str, Any]:
        """The spec as it is kept in views and runs."""
        content = dataclasses.asdict(self)
        if self.tuned_on is None:  # as earlier versions wrote it
            del content["tuned_on"]
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> EncoderSpec:
        """The inverse of `as_json`. Raises UsageError for fields of later versions, and for what is no spec."""
        try:
            wrong = [name for name, kinds in _KINDS.items() if not isinstance(content.get(name), kinds)]
            width = content.get("width")
            if wrong or (width is not None and not 0 < width <= MOST_COLUMNS):
                raise ValueError(f"wrong are {listing(wrong) or 'width'}")
            return EncoderSpec(**content)
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"an encoder was described as {content!r}, which this version does not know") from error


def kind_of(modality: str, model: str) -> str:
    """Which encoder a modality takes: `text` and `text_2` the text encoder, arrays and columns what `model` says."""
    return model if model in (ARRAY, TABULAR) else modality.partition("_")[0]


def choose_specs(
    modalities: Iterable[str],
    given: Mapping[str, Mapping[str, Any]],
    seeds: Mapping[str, int],
    base: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[EncoderSpec, ...]:
    """One encoder a modality: what the user says, else what `base` holds, else the default model.

    Args:
        modalities: in the order of the columns.
        given: by kind, fields of the spec that the user named; `image` goes for `image_2` too.
        seeds: of random weights by modality or kind; under the empty name for every modality
            whose weights are not given.
        base: by modality, the spec of a run, as JSON.
        found: by modality, fields that the data decides; see `extract.found.found_in`.

    Raises:
        UsageError: a modality that has no encoder, audio files without a model, or fields that contradict each other.
    """
    names, found = tuple(modalities), found or {}
    unknown = [name for name in names if name not in {*base, *found} and kind_of(name, "") not in NETWORKS]
    if unknown:
        known = [*DEFAULT_MODELS, *(name for name in found if name not in DEFAULT_MODELS)]
        raise UsageError(f"there is no encoder for {unknown[0]!r}; --modalities takes {listing(known)}")

    def spec_of(modality: str) -> EncoderSpec:
        """Of one modality."""
        start = dict(base.get(modality) or found.get(modality) or {})
        kind = kind_of(modality, start.get("model", ""))
        if not start:
            start = {"model": DEFAULT_MODELS[kind], "precision": "auto"} if kind in DEFAULT_MODELS else {"model": ""}
        if start.pop("aligned", False):
            text = spec_of("text")
            start |= {"aligned_to": text.model, "max_length": text.max_length}
        elif start.get("aligned_to") and "model" in given.get("text", {}):  # a model that lies elsewhere by now
            start["aligned_to"] = given["text"]["model"]
        chosen = dict(given.get(kind, {}))
        seed = seeds.get(modality, seeds.get(kind, None if "weights" in chosen else seeds.get("")))
        if not {**start, **chosen}["model"]:
            raise UsageError(
                f"{modality} holds audio files, for which there is no default model; give one by --audio-model "
                "NAME_OR_FOLDER, such as facebook/wav2vec2-base, or leave the modality out by --modalities"
            )
        if seed is not None and kind in NETWORKS:
            chosen["random_init"] = seed
        if {"model", "weights", "random_init"} & set(chosen):  # other weights take the place of the old ones
            start = {**start, "weights": None, "random_init": None, "tuned_on": None}
        return EncoderSpec.from_json({**start, **chosen, "modality": modality})

    return tuple(spec_of(name) for name in names)


class BrokenInputs(Exception):
    """Some of a batch's inputs turned out to be broken when the model was to have them."""

    def __init__(self, inputs: Sequence[np.ndarray], reason: str) -> None:
        super().__init__(reason)
        self.inputs = inputs
        self.reason = reason


class Input(Protocol):
    """What comes before a model.

    `prepare` makes a light form of all contents at once (token ids; nothing for pictures) and
    tells what each costs; `decode` turns one of them into the model's input, in any thread.

    Attributes:
        truncated: how many contents `prepare` has cut to the model's longest input.
    """

    truncated: int

    def prepare(self, contents: Sequence[Content]) -> tuple[list[Any], list[int]]:
        """Light forms of the contents, and the cost of each."""

    def decode(self, light: Any) -> np.ndarray:
        """One model input. Raises DecodeError where the content is broken."""

    def blank(self) -> np.ndarray:
        """An input that stands in the place of a broken one, so that batches keep their shape."""


class Encoder(Input, Protocol):
    """A model with everything that comes before it; `encode` runs it on a batch.

    Attributes:
        key: everything that could change a vector.
        files: what the encoder was read from; if none of them changes, nor does the key.
    """

    key: EncoderKey
    files: tuple[Path, ...]

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, Values]:
        """Vectors of each output: float32 of shape `(len(batch), D)`; `tokens` are ragged.

        Several threads call it at once. Raises BrokenInputs.
        """


@dataclass(frozen=True, slots=True)
class Prepared:
    """A light form that holds more than the content, which may lie in a file still."""

    content: Content
    more: Any


def with_content(light: Any, read: Callable[[Content], Content] = read_content) -> Any:
    """A light form with what is in its file in the place of the path."""
    if isinstance(light, Prepared):
        return Prepared(read(light.content), light.more)
    return read(light) if isinstance(light, Path | Piece) else light


def decode_light(encoder: Encoder, light: Any) -> np.ndarray:
    """One model input from a light form, which may be the path of a file. Raises DecodeError, OSError."""
    return encoder.decode(with_content(light))


def outputs_of(fields: Mapping[str, Any]) -> dict[str, int]:
    """Names and widths of the outputs, from a key's fields."""
    return {str(name): int(width) for name, width in fields["outputs"].items()}


def storage(
    spec: EncoderSpec, outputs: Mapping[str, int], token_layer: str = "", token_dtype: str = TOKENS_DTYPE
) -> dict[str, Any]:
    """The part of a key that says what is kept and in which type.

    Args:
        spec: the user's choice.
        outputs: pooled outputs and their widths; tokens are as wide as the first.
        token_layer: where tokens are taken; only used where the spec asks for tokens.
        token_dtype: in which type they are stored.
    """
    if not spec.tokens:
        return {"outputs": dict(outputs), "dtype": spec.dtype}
    width = next(iter(outputs.values()))
    tokens = {"layer": token_layer, "dtype": token_dtype}
    return {"outputs": {**outputs, TOKENS: width}, "dtype": spec.dtype, TOKENS: tokens}


def stored_dtype(fields: Mapping[str, Any], output: str) -> np.dtype:
    """The type in which an output is stored, from a key's fields."""
    return np.dtype(fields[TOKENS]["dtype"] if output == TOKENS else fields["dtype"])


def without_tokens(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the key of the same encoder when it keeps no tokens."""
    outputs = {name: width for name, width in fields["outputs"].items() if name != TOKENS}
    return {name: value for name, value in fields.items() if name != TOKENS} | {"outputs": outputs}
