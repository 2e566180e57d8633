"""Encoders by modality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache import UsageError, listing
from extract.encoders.spec import DEFAULT_MODELS, Encoder, EncoderSpec

if TYPE_CHECKING:
    from extract.runtime import Runtime


def build_encoder(spec: EncoderSpec, runtime: Runtime) -> Encoder:
    """Loads the model that the spec names.

    Raises:
        ModelError: it cannot be found, or its parts do not fit together.
        UsageError: there is no encoder for the modality.
    """
    if spec.modality == "text":
        from extract.encoders.text import TextEncoder

        return TextEncoder(spec, runtime)
    if spec.modality == "image":
        from extract.encoders.image import ImageEncoder

        return ImageEncoder(spec, runtime)
    raise UsageError(f"there is no encoder for {spec.modality!r}; choose of {listing(list(DEFAULT_MODELS))}")
