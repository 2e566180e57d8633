"""Encoders by kind of modality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache import UsageError, listing
from extract.encoders.spec import ARRAY, AUDIO, NETWORKS, TABULAR, Encoder, EncoderSpec, Input

if TYPE_CHECKING:
    from extract.runtime import Runtime


def build_encoder(spec: EncoderSpec, runtime: Runtime) -> Encoder:
    """Loads the model that the spec names.

    Raises:
        ModelError: it cannot be found, or its parts do not fit together.
        UsageError: there is no encoder for the modality.
    """
    if spec.kind == "text":
        from extract.encoders.text import TextEncoder

        return TextEncoder(spec, runtime)
    if spec.kind == "image":
        from extract.encoders.image import ImageEncoder

        return ImageEncoder(spec, runtime)
    if spec.kind == AUDIO:
        from extract.encoders.audio import AudioEncoder

        return AudioEncoder(spec, runtime)
    if spec.kind == ARRAY:
        from extract.encoders.array import ArrayEncoder

        return ArrayEncoder(spec)
    if spec.kind == TABULAR:
        from extract.encoders.tabular import TabularEncoder

        return TabularEncoder(spec)
    raise UsageError(f"there is no encoder for {spec.modality!r}; choose of {listing(NETWORKS)}")


def build_input(spec: EncoderSpec) -> Input:
    """What comes before the model, for a process that only prepares; of texts and images no weights are loaded.

    Raises:
        ModelError, UsageError: as `build_encoder`.
    """
    if spec.kind == "text":
        from extract.encoders.text import TextInput

        return TextInput.of(spec)
    if spec.kind == "image":
        from extract.encoders.picture import ImageInput

        return ImageInput(spec)
    from extract.runtime import choose_runtime

    return build_encoder(spec, choose_runtime("cpu"))
