"""Which encoder a spec comes to: its key, from memory where that can be, and its precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cache import TOKENS, EncoderKey, FeatureStore, ModelError, Progress, StoreError, UsageError, listing, read_view
from extract.encoders import build_encoder
from extract.encoders.memo import recall, remember
from extract.encoders.spec import COMPUTE, NETWORKS, Encoder, EncoderSpec, outputs_of, without_tokens
from extract.manifest import Sample
from extract.precision import choose_precision, probe_contents

if TYPE_CHECKING:
    from collections.abc import Callable

    from extract.runtime import Runtime


@dataclass
class Chosen:
    """One encoder.

    Attributes:
        spec: with a precision that is settled.
        key: of the encoder.
        why: how the precision came about; empty where it was asked for.
        encoder: loaded only if it had to be to know its key.
        files: what the key was read from, if it is not known from memory.
    """

    spec: EncoderSpec
    key: EncoderKey
    why: str
    encoder: Encoder | None = None
    files: tuple[Path, ...] | None = None


class Chooser:
    """Settles specs for one extraction.

    Args:
        store: what it holds decides where the user does not.
        name: of the data set.
        expected: encoder key digests that the encoders must have.
        samples: of the data set; a measurement takes the first of them.
        device: finds the device, when a model has to be loaded.
        progress: told of loading.
    """

    def __init__(
        self,
        store: FeatureStore,
        name: str,
        expected: Mapping[str, str],
        samples: Sequence[Sample],
        device: Callable[[], Runtime],
        progress: Progress,
    ) -> None:
        self._store = store
        self._name = name
        self._expected = expected
        self._samples = samples
        self._device = device
        self._progress = progress
        self._before: dict[EncoderSpec, Chosen] = {}

    def choose(self, spec: EncoderSpec) -> Chosen:
        """The encoder with its precision settled.

        Raises:
            ModelError: it cannot be loaded, or is not the expected one.
            UsageError: it has no such output.
        """
        chosen = self._alike(spec)
        asked = chosen
        if not spec.tokens and (larger := self._with_tokens(chosen.key)):
            chosen = Chosen(replace(asked.spec, tokens=True), larger, asked.why)
        widths = outputs_of(chosen.key.fields)
        if spec.output is not None and spec.output not in widths:
            raise UsageError(
                f"the {spec.modality} encoder has no output {spec.output!r}; it has {listing(list(widths))}"
            )
        expected = self._expected.get(spec.modality, chosen.key.digest)
        if chosen.key.digest != expected:
            option = f"--{spec.kind if spec.kind in NETWORKS else 'text'}-model"
            raise ModelError(
                f"the run was trained on {spec.modality} features of the encoder {expected}, but {spec.model} is now "
                f"{chosen.key.digest}: other weights, tokenizer, preprocessing or precision. Give the model of the run "
                f"by {option}, or train a new run on features of this one"
            )
        if asked.files is not None:
            self._store.encoder(chosen.key.digest).create(chosen.key)
            remember(self._store.root, asked.spec, asked.key, asked.files)
        return chosen

    def _alike(self, spec: EncoderSpec) -> Chosen:
        """Settled once for `image` and `image_2`: measured twice, they might come to two precisions and two stores."""
        like = replace(spec, modality=spec.kind, output=None) if spec.kind in NETWORKS else spec
        if like not in self._before:
            self._before[like] = self._settled(spec) if spec.precision == "auto" else self._keyed(spec, "")
        found = self._before[like]
        return replace(found, spec=replace(found.spec, modality=spec.modality, output=spec.output))

    def load(self, spec: EncoderSpec) -> Encoder:
        """The encoder itself."""
        what = f"load {spec.modality} model {spec.model}"
        self._progress(what, 0, 1)
        encoder = build_encoder(spec, self._device())
        self._progress(what, 1, 1)
        return encoder

    def load_as(self, spec: EncoderSpec, key: EncoderKey) -> Encoder:
        """The encoder itself. Raises ModelError where its key is another by now."""
        encoder = self.load(spec)
        require_key(spec, encoder, key)
        return encoder

    def _keyed(self, spec: EncoderSpec, why: str) -> Chosen:
        key = recall(self._store.root, spec)
        if key is not None:
            return Chosen(spec, key, why)
        encoder = self.load(spec)
        return Chosen(spec, encoder.key, why, encoder, encoder.files)

    def _settled(self, spec: EncoderSpec) -> Chosen:
        """The precision that the store has already, so that nothing is encoded twice; else the measured one."""
        specs = {precision: replace(spec, precision=precision) for precision in COMPUTE}
        recalled = [recall(self._store.root, one) for one in specs.values()]
        one = next((key for key in recalled if key is not None), None)
        full = None
        if one is None:
            full = self.load(specs["fp32"])
            one = full.key
        both = {name: EncoderKey({**one.fields, "compute": compute}, one.name) for name, compute in COMPUTE.items()}
        used = self._used(both)
        if used is None:
            return self._measured(specs, full or self.load(specs["fp32"]))
        files = None if full is None else full.files
        return Chosen(specs[used], both[used], "as the store has it", full if used == "fp32" else None, files)

    def _measured(self, specs: Mapping[str, EncoderSpec], full: Encoder) -> Chosen:
        runtime = self._device()
        if not runtime.has_bf16:
            return Chosen(specs["fp32"], full.key, "this device has no bf16", full, full.files)
        half = self.load(specs["bf16"])
        contents = probe_contents(self._samples, specs["fp32"].modality)
        precision, why = choose_precision(full, half, contents, runtime)
        encoder = {"fp32": full, "bf16": half}[precision]
        return Chosen(specs[precision], encoder.key, why, encoder, encoder.files)

    def _used(self, keys: Mapping[str, EncoderKey]) -> str | None:
        """The precision in which the store has the encoder; of two, the one that this data set was encoded in."""
        stored = {precision: key.digest for precision, key in keys.items() if self._has(key)}
        if len(stored) < 2:
            return next(iter(stored), None)
        try:
            encoders = {block.encoder for block in read_view(self._store, self._name).blocks.values()}
        except (FileNotFoundError, StoreError):  # no view, or one that is about to be written anew
            encoders = set()
        return next((precision for precision, digest in stored.items() if digest in encoders), "fp32")

    def _has(self, key: EncoderKey) -> bool:
        if self._store.encoder(key.digest).segment_paths():
            return True
        larger = self._with_tokens(key)
        return larger is not None and bool(self._store.encoder(larger.digest).segment_paths())

    def _with_tokens(self, key: EncoderKey) -> EncoderKey | None:
        """The same encoder with tokens kept, if the store has it and not the plain one: it serves as well."""
        if self._store.encoder(key.digest).folder.exists() or self._expected:
            return None
        for store in self._store.encoders():
            try:
                found = store.key()
            except StoreError:  # damaged, or of a newer version: not to be used here, and named by `cache verify`
                continue
            if TOKENS in found.fields and without_tokens(found.fields) == key.fields:
                return found
        return None


def require_key(spec: EncoderSpec, encoder: Encoder, key: EncoderKey) -> None:
    """Raises ModelError where the encoder is not the one that was chosen."""
    if encoder.key.digest != key.digest:
        raise ModelError(
            f"{spec.model} changed while it was in use: its key was {key.digest} and is {encoder.key.digest} now; "
            "run the same command again"
        )
