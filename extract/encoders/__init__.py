"""Encoders by modality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache import UsageError, listing

if TYPE_CHECKING:
    from extract.encoders.spec import Encoder, EncoderSpec
    from extract.runtime import Runtime

DEFAULT_MODELS = {"text": "bert-base-uncased", "image": "resnet50"}
OUTPUTS = {"text": ("mean", "cls"), "image": ("pool",)}
"""Outputs of each modality's encoder; the first is the default."""


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
