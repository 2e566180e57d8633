"""Texts through a BERT-like model of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import (
    KEY_SCHEMA,
    TOKENS,
    EncoderKey,
    ModelError,
    Ragged,
    UsageError,
    Values,
    canonical_json,
    digest,
)
from extract.encoders.hub import NOT_THE_FUNCTION, Named, load_weights
from extract.encoders.kernels import fuse_linears
from extract.encoders.spec import COMPUTE, EncoderSpec, storage
from extract.encoders.weights import compute_dtype, weights_digest
from extract.manifest import Content
from extract.runtime import Runtime

LETTERS_A_TOKEN, LAST_WORDS = 32, 4
TOKENIZE_AT_ONCE = 4096
COUNTED_AT_ONCE = 1_000_000
"""Characters: what the tokenizer says of each takes some hundred bytes."""
LEAST_LENGTH = 3
"""Tokens: a word between the two that stand around every text."""
_REMEDY = (
    "Give a folder with config.json, tokenizer and weights by --text-model FOLDER, or --random-init SEED where only "
    "weights are lacking"
)


class TextInput:
    """What comes before a text model: of a model it needs the tokenizer and the config, and not the weights.

    Inputs are token ids, `int64 (T,)`.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self.truncated = 0

    @staticmethod
    def of(spec: EncoderSpec) -> TextInput:
        """That of a model which is not loaded. Raises ModelError, UsageError."""
        tokenizer, config, _ = _named(spec).load(lambda offline: _load_tokenizer(spec, offline))
        return TextInput(tokenizer, longest_text(spec, tokenizer, config))

    def prepare(self, contents: Sequence[Content]) -> tuple[list[np.ndarray], list[int]]:
        """Token ids of all texts, cut to the model's longest input, and their numbers."""
        lights, truncated = token_ids(self._tokenizer, contents, self._max_length)
        self.truncated += truncated
        return lights, [len(ids) for ids in lights]

    def decode(self, light: np.ndarray) -> np.ndarray:
        """The token ids themselves."""
        return light

    def blank(self) -> np.ndarray:
        """One padding token."""
        return np.array([self._pad()], dtype=np.int64)

    def _pad(self) -> int:
        return int(self._tokenizer.pad_token_id or 0)


class TextEncoder(TextInput):
    """Last hidden states of a BERT-like model, pooled twice: `mean` and `cls`.

    `mean` is the mean over the tokens of the text, [CLS] and [SEP] counted, padding not; `cls`
    is the state of the first token; `tokens`, where they are asked for, are the states themselves.
    Inputs are token ids, `int64 (T,)`.
    """

    def __init__(self, spec: EncoderSpec, runtime: Runtime) -> None:
        tokenizer, config, raw, model = load_text(spec)
        super().__init__(tokenizer, longest_text(spec, tokenizer, config))
        self._runtime = runtime
        dtype = compute_dtype(spec.precision)
        self._tokens = spec.tokens
        width = int(config.hidden_size)
        self.files = _named(spec).files()
        self.key = EncoderKey(
            {
                "schema": KEY_SCHEMA,
                "modality": "text",
                "architecture": f"transformers/{config.model_type}",
                "config": {name: value for name, value in raw.items() if name not in NOT_THE_FUNCTION},
                "weights": weights_digest(model),
                "tokenizer": _tokenizer_digest(self._tokenizer),
                "max_length": self._max_length,
                "truncation": "end" if self._tokenizer.truncation_side == "right" else "start",
                "layer": "last hidden state",
                "compute": COMPUTE[spec.precision],
                **storage(spec, {"cls": width, "mean": width}, "last hidden state"),
            },
            name=Path(spec.model).name,
        )
        self._model = model.to(device=runtime.device, dtype=dtype).eval().requires_grad_(False)
        if runtime.fused and (dtype == torch.float32 or runtime.has_bf16):
            fuse_linears(self._model)
        self._forward = torch.compile(self._model, dynamic=True) if runtime.compile else self._model

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, Values]:
        """`mean` and `cls` of each text, float32 of shape `(len(batch), D)`; `tokens` if asked for."""
        longest = max(len(ids) for ids in batch)
        if self._runtime.device.type == "cuda":  # whose kernels want multiples of 8; what is padded is masked
            longest = min(-(-longest // 8) * 8, self._max_length)
        ids = np.full((len(batch), longest), self._pad(), dtype=np.int64)
        mask = np.zeros((len(batch), longest), dtype=np.int64)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        device = self._runtime.device
        with torch.inference_mode():
            tokens, attended = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
            hidden = self._forward(input_ids=tokens, attention_mask=attended).last_hidden_state.float()
            share = attended.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * share).sum(dim=1) / share.sum(dim=1)
            both = torch.stack([mean, hidden[:, 0]]).cpu().numpy()
            outputs: dict[str, Values] = {"mean": both[0], "cls": both[1]}
        if self._tokens:
            states = hidden.cpu().numpy()
            outputs[TOKENS] = Ragged.of([states[row, : len(text)] for row, text in enumerate(batch)])
        return outputs


def token_ids(tokenizer: Any, contents: Sequence[Content], longest: int) -> tuple[list[np.ndarray], int]:
    """Token ids of texts, each `int64 (T,)` with T up to `longest`, and how many texts were cut."""
    found: list[np.ndarray] = []
    truncated = 0
    for start in range(0, len(contents), TOKENIZE_AT_ONCE):
        texts = [_well_formed(str(text)) for text in contents[start : start + TOKENIZE_AT_ONCE]]
        texts = [_start_of(tokenizer, text, longest) for text in texts]
        encoded = tokenizer(texts, truncation=True, max_length=longest, return_attention_mask=False)
        found += [np.array(ids, dtype=np.int64) for ids in encoded["input_ids"]]
        truncated += sum(bool(one.overflowing) for one in encoded.encodings)
    return found, truncated


def _start_of(tokenizer: Any, text: str, longest: int) -> str:
    """The text, or of a very long one a start that has the same first tokens and is cut as well.

    A tokenizer reads a text to its end before it cuts: 10 MB take it 10 s and 1.5 GB. It splits a text into words from
    left to right, so that a cut can change no more than the last few of them; these must lie behind what is kept.
    """
    size = LETTERS_A_TOKEN * longest
    while size < len(text):
        found = tokenizer(text[:size], truncation=True, max_length=longest).encodings[0]
        kept = [word for word in found.word_ids if word is not None]
        beyond = [word for part in found.overflowing for word in part.word_ids if word is not None]
        if kept and beyond and max(beyond) > max(kept) + LAST_WORDS:
            return text[:size]
        size *= 8
    return text


def load_text(spec: EncoderSpec) -> tuple[Any, Any, dict[str, Any], torch.nn.Module]:
    """Tokenizer, config, the config's file as it stands, and the model, in evaluation mode.

    Raises:
        ModelError: it cannot be found, or its parts do not fit together.
    """
    return _named(spec).load(lambda offline: _load_from(spec, offline))


def _named(spec: EncoderSpec) -> Named:
    return Named(spec.model, "text model", _REMEDY)


def _load_tokenizer(spec: EncoderSpec, local_files_only: bool) -> tuple[Any, Any, dict[str, Any]]:
    from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    source: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
    raw, _ = PretrainedConfig.get_config_dict(spec.model, **source)
    config = AutoConfig.from_pretrained(spec.model, **source)
    tokenizer = AutoTokenizer.from_pretrained(spec.model, **source)
    _refuse_tokenizer(spec.model, tokenizer, config)
    return tokenizer, config, raw


def _load_from(spec: EncoderSpec, local_files_only: bool) -> tuple[Any, Any, dict[str, Any], torch.nn.Module]:
    tokenizer, config, raw = _load_tokenizer(spec, local_files_only)
    model = load_weights(spec.model, config, spec.random_init, local_files_only, "pooler.")
    if hasattr(model, "pooler"):
        model.pooler = None  # heads take the hidden states; many checkpoints do not even hold it
    return tokenizer, config, raw, model


def _refuse_tokenizer(model: str, tokenizer: Any, config: Any) -> None:
    """Transformers makes an empty vocabulary where it finds none: every word would be unknown."""
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {model} is not a fast one; save it with tokenizer.json")
    words = tokenizer.get_vocab()
    if len(words) <= len(tokenizer.all_special_tokens):
        lost = "its vocabulary (tokenizer.json or vocab.txt) is missing"
        raise ModelError(f"cannot load the text model {model!r}: {lost}. {_REMEDY}")
    if max(words.values()) >= config.vocab_size:
        raise ModelError(
            f"the tokenizer of {model} has token ids up to {max(words.values())}, its config.json a vocab_size of "
            f"{config.vocab_size}; they are of different models"
        )
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or not longest >= LEAST_LENGTH:  # also of NaN
        raise ModelError(
            f"the tokenizer of {model} has a model_max_length of {longest!r}, expected a number of tokens, "
            f"{LEAST_LENGTH} or more; correct it in tokenizer_config.json, or take it out"
        )


def longest_text(spec: EncoderSpec, tokenizer: Any, config: Any) -> int:
    """The most tokens that a text keeps. Raises UsageError where the spec asks for more than the model takes."""
    positions = int(getattr(config, "max_position_embeddings", 512))
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer"):
        positions -= int(config.pad_token_id) + 1  # their positions start behind the padding index
    longest = int(min(positions, tokenizer.model_max_length))
    if spec.max_length is None:
        return longest
    if not LEAST_LENGTH <= spec.max_length <= longest:
        raise UsageError(f"--max-length {spec.max_length}: {spec.model} takes {LEAST_LENGTH} to {longest} tokens")
    return spec.max_length


def _tokenizer_digest(tokenizer: Any) -> str:
    """Digest of everything that the tokenizer does, wherever its files lie."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    special: dict[str, Any] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    if getattr(tokenizer, "split_special_tokens", False):  # not part of the backend, and off nearly everywhere
        special["split_special_tokens"] = True
    return digest(backend.to_str().encode("utf-8"), canonical_json(special))


def _well_formed(text: str) -> str:
    """Lone surrogates, which JSON allows and tokenizers refuse, become the replacement sign."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class WordPieces:
    """Of which word each piece of a text is, as the text encoder of the same model cuts it.

    Args:
        model: name or folder; only its tokenizer and config are loaded.
        max_length: longest text in tokens; None takes what the model was made for.

    Attributes:
        fields: of encoder keys: everything on which the pieces depend.
        files: what it was read from.
    """

    def __init__(self, model: str, max_length: int | None) -> None:
        spec = EncoderSpec("text", model, max_length=max_length)
        named = _named(spec)
        self._tokenizer, config, _ = named.load(lambda offline: _load_tokenizer(spec, offline))
        self._max_length = longest_text(spec, self._tokenizer, config)
        self.files = named.files()
        self.fields = {
            "tokenizer": _tokenizer_digest(self._tokenizer),
            "max_length": self._max_length,
            "truncation": "end" if self._tokenizer.truncation_side == "right" else "start",
        }

    def of(self, rows: Sequence[Sequence[str]]) -> list[np.ndarray | str]:
        """For each row of words `int64 (T,)`: the number of each token's word, -1 at special tokens.

        The text is the words with a space between. Where a piece is of two words, nothing can be
        aligned: then the reason stands in the place of the array.
        """
        found: list[np.ndarray | str] = []
        for start in range(0, len(rows), TOKENIZE_AT_ONCE):
            chunk = [[_well_formed(word) for word in words] for words in rows[start : start + TOKENIZE_AT_ONCE]]
            texts = [" ".join(words) for words in chunk]
            encoded = self._tokenizer(texts, truncation=True, max_length=self._max_length, return_attention_mask=False)
            found += [_words_of(words, one) for words, one in zip(chunk, encoded.encodings, strict=True)]
        return found


def _words_of(words: Sequence[str], encoding: Any) -> np.ndarray | str:
    """By the characters that each piece was made from, for a tokenizer's own words are parted at signs too."""
    text = " ".join(words)
    lengths = np.array([len(word) + 1 for word in words], dtype=np.int64)
    ends = np.cumsum(lengths) - 1
    places = []
    for (start, end), token, special in zip(
        encoding.offsets, encoding.tokens, encoding.special_tokens_mask, strict=True
    ):
        if special:
            places.append(-1)
            continue
        # Some tokenizers count the space before a word to its first piece.
        first = end - len(text[start:end].lstrip())
        word = int(np.searchsorted(ends, first, side="right"))
        if word == len(words) or first + len(text[first:end].rstrip()) > ends[word]:
            return f"the piece {token!r} of the text is not of one word, so that nothing can be aligned with it"
        places.append(word)
    return np.array(places, dtype=np.int64)


class TokenCounter:
    """How many tokens a text model makes of a text, `[CLS]` and `[SEP]` counted.

    Args:
        model: name or folder; only its tokenizer and config are loaded.
        max_length: longest text in tokens; None takes what the model was made for.
        local: take the model only from here, and never ask the hub.

    Attributes:
        longest: the most tokens that a text keeps.

    Raises:
        ModelError: the tokenizer cannot be found.
    """

    def __init__(self, model: str, max_length: int | None = None, local: bool = False) -> None:
        spec = EncoderSpec("text", model, max_length=max_length)
        tokenizer, config, _ = _named(spec).load(lambda offline: _load_tokenizer(spec, offline or local))
        self.longest = longest_text(spec, tokenizer, config)
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """`int64 (n,)`, before anything is cut."""
        found: list[int] = []
        for chunk in _of_size(texts, COUNTED_AT_ONCE):
            found += [len(one) for one in self._backend.encode_batch([_well_formed(text) for text in chunk])]
        return np.array(found, dtype=np.int64)


def _of_size(texts: Sequence[str], characters: int) -> Iterator[list[str]]:
    """The texts in parts of about so many characters, at least one text each."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
