"""Sound through a speech model of Hugging Face that takes the waveform, such as wav2vec 2.0 or HuBERT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import KEY_SCHEMA, TOKENS, EncoderKey, ModelError, Ragged, UsageError, Values
from extract.decode import DecodeError
from extract.encoders.hub import NOT_THE_FUNCTION, Named, load_weights
from extract.encoders.kernels import fuse_linears
from extract.encoders.spec import AUDIO, COMPUTE, EncoderSpec, storage
from extract.encoders.weights import compute_dtype, weights_digest
from extract.manifest import Content, Piece
from extract.runtime import Runtime
from extract.sound import SOUND_FIELDS, read_clip, seconds_of

MAX_SECONDS = 30
COSTS_A_SECOND = 10
KNOWN = ("wav2vec2", "hubert")
"""Models that are known to leave no trace of padding where their convolutions normalise each frame by itself, and to
use their linear layers as layers, so that fused ones can stand in their place."""
NOT_THE_SOUND = ("processor_class", "_processor_class", "tokenizer_class", "transformers_version")
"""Settings of a feature extractor that no input depends on."""
_REMEDY = (
    "Give a folder with config.json, preprocessor_config.json and weights by --audio-model FOLDER, or --random-init "
    "SEED where only weights are lacking"
)


class AudioEncoder:
    """Last hidden states of a speech model, pooled: `mean`, over the frames of the clip; padding never counts.

    `tokens`, where they are asked for, are the states themselves. A vector does not depend on the other clips
    of its batch: clips of several lengths are only padded where the model masks what was padded without a trace.
    In models whose first convolution normalises over time (`feat_extract_norm` is `group`, as in wav2vec2-base), and
    in those of other families, padding would shift the statistics, so that only clips of one length go together.

    Inputs are waveforms as the feature extractor gives them, `float32 (samples,)`.
    """

    def __init__(self, spec: EncoderSpec, runtime: Runtime) -> None:
        self._extractor, config, raw, model = load_audio(spec)
        self._runtime = runtime
        self._rate = int(self._extractor.sampling_rate)
        self._longest = longest_clip(spec)
        self._pads = pads_without_trace(config)
        self._tokens = spec.tokens
        self._dtype = compute_dtype(spec.precision)
        # As for pictures: TF32 would be other vectors under the same key.
        torch.backends.cudnn.allow_tf32 = False
        self.truncated = 0
        self.files = _named(spec).files()
        width = int(config.output_hidden_size if getattr(config, "add_adapter", False) else config.hidden_size)
        self.key = EncoderKey(
            {
                "schema": KEY_SCHEMA,
                "modality": AUDIO,
                "architecture": f"transformers/{config.model_type}",
                "config": {name: value for name, value in raw.items() if name not in NOT_THE_FUNCTION},
                "weights": weights_digest(model),
                "extractor": _settings(self._extractor),
                "sound": {**SOUND_FIELDS, "rate": self._rate, "max_seconds": self._longest, "cut": "end, first of all"},
                "layer": "last hidden state",
                "compute": COMPUTE[spec.precision],
                **storage(spec, {"mean": width}, "last hidden state"),
            },
            name=Path(spec.model).name,
        )
        self._model: Any = model.to(device=runtime.device, dtype=self._dtype).eval().requires_grad_(False)
        if config.model_type in KNOWN and runtime.fused and (self._dtype == torch.float32 or runtime.has_bf16):
            fuse_linears(self._model)
        self._forward = torch.compile(self._model, dynamic=True) if runtime.compile else self._model

    def prepare(self, contents: Sequence[Content]) -> tuple[list[Content], list[int]]:
        """Paths, or the bytes of files, as they are; a clip costs 10 a second that is kept, by its header."""
        costs = []
        for content in contents:
            try:
                seconds = seconds_of(content) if isinstance(content, Path | Piece | bytes) else 0.0
            except (DecodeError, OSError):  # decoding will say so
                seconds = 0.0
            self.truncated += seconds > self._longest
            costs.append(max(1, math.ceil(COSTS_A_SECOND * min(seconds, self._longest))))
        return list(contents), costs

    def decode(self, light: Any) -> np.ndarray:
        """The waveform as the model takes it, `float32 (samples,)`.

        Raises:
            DecodeError: no whole audio file, or one too short for a single frame.
        """
        if not isinstance(light, bytes):
            raise DecodeError("it is an array that belongs to words, but the encoder was made for audio files")
        clip = read_clip(light, self._rate, self._longest)
        if self._frames([len(clip)])[0] < 1:
            raise DecodeError(f"the clip is too short for the model: {1000 * len(clip) / self._rate:.3g} ms")
        found = self._extractor(clip, sampling_rate=self._rate, padding=False, return_tensors="np")
        return np.asarray(found["input_values"][0], dtype=np.float32)

    def blank(self) -> np.ndarray:
        """A second of silence."""
        return np.zeros(self._rate, dtype=np.float32)

    def encode(self, batch: Sequence[np.ndarray]) -> dict[str, Values]:
        """`mean` of each clip, float32 of shape `(len(batch), D)`; `tokens` if asked for."""
        together: dict[int, list[int]] = {}
        for place, clip in enumerate(batch):
            together.setdefault(0 if self._pads else len(clip), []).append(place)
        means: dict[int, np.ndarray] = {}
        states: dict[int, np.ndarray] = {}
        for places in together.values():
            hidden, frames = self._hidden([batch[place] for place in places])
            own = torch.arange(hidden.shape[1], device=hidden.device) < frames.to(hidden.device)[:, None]
            mean = torch.where(own[:, :, None], hidden, 0).sum(dim=1) / own.sum(dim=1)[:, None]
            means.update(zip(places, mean.cpu().numpy(), strict=True))
            if self._tokens:
                known = zip(hidden.cpu().numpy(), frames.tolist(), strict=True)
                states.update(zip(places, (one[:count] for one, count in known), strict=True))
        outputs: dict[str, Values] = {"mean": np.stack([means[place] for place in range(len(batch))])}
        if self._tokens:
            outputs[TOKENS] = Ragged.of([states[place] for place in range(len(batch))])
        return outputs

    def _hidden(self, clips: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """States `float32 (B, T, D)`, and how many of the T frames belong to each clip."""
        lengths = [len(clip) for clip in clips]
        waves = np.full((len(clips), max(lengths)), self._extractor.padding_value, dtype=np.float32)
        for row, clip in enumerate(clips):
            waves[row, : len(clip)] = clip
        given: dict[str, torch.Tensor] = {"input_values": torch.from_numpy(waves).to(self._runtime.device, self._dtype)}
        if min(lengths) < max(lengths):
            mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
            given["attention_mask"] = torch.from_numpy(mask.astype(np.int64)).to(self._runtime.device)
        with torch.inference_mode():
            hidden = self._forward(**given).last_hidden_state.float()
            return hidden, self._frames(lengths)

    def _frames(self, lengths: Sequence[int]) -> torch.Tensor:
        """How many frames the model makes of so many samples."""
        frames: torch.Tensor = self._model._get_feat_extract_output_lengths(torch.tensor(lengths))
        return frames.to(torch.int64)


def load_audio(spec: EncoderSpec) -> tuple[Any, Any, dict[str, Any], torch.nn.Module]:
    """Feature extractor, config, the config's file as it stands, and the model, in evaluation mode.

    Raises:
        ModelError: it cannot be found, its parts do not fit together, or it takes no waveforms.
    """
    return _named(spec).load(lambda offline: _load_from(spec, offline))


def longest_clip(spec: EncoderSpec) -> int:
    """The most seconds that a clip keeps. Raises UsageError where the spec asks for none."""
    seconds = MAX_SECONDS if spec.max_length is None else spec.max_length
    if seconds < 1:
        raise UsageError(f"--max-seconds {seconds}: a clip keeps 1 second or more")
    return seconds


def pads_without_trace(config: Any) -> bool:
    """Whether the frames of a clip are the same, but for rounding, when it is padded and the padding masked.

    Not where a normalisation runs over time or puts something in the place of zeros, and not where
    convolutions follow that reach from the last frames into the padding.
    """
    return (
        config.model_type in KNOWN
        and config.feat_extract_norm == "layer"
        and not getattr(config, "add_adapter", False)
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def _named(spec: EncoderSpec) -> Named:
    return Named(spec.model, "audio model", _REMEDY)


def _load_from(spec: EncoderSpec, local_files_only: bool) -> tuple[Any, Any, dict[str, Any], torch.nn.Module]:
    from transformers import AutoConfig, AutoFeatureExtractor, PretrainedConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    source: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
    raw, _ = PretrainedConfig.get_config_dict(spec.model, **source)
    config = AutoConfig.from_pretrained(spec.model, **source)
    extractor = AutoFeatureExtractor.from_pretrained(spec.model, **source)
    model = load_weights(spec.model, config, spec.random_init, local_files_only, "masked_spec_embed")
    waveform = getattr(extractor, "model_input_names", [""])[0] == "input_values"
    if not waveform or not hasattr(model, "_get_feat_extract_output_lengths") or config.is_encoder_decoder:
        raise ModelError(
            f"{spec.model} is a {config.model_type}, which is no encoder of waveforms; give one of the family of "
            "wav2vec 2.0 or HuBERT by --audio-model"
        )
    if hasattr(model, "masked_spec_embed"):
        model.masked_spec_embed = None  # for training alone; many checkpoints do not hold it, and it is drawn
    return extractor, config, raw, model


def _settings(extractor: Any) -> dict[str, Any]:
    """Everything that the feature extractor does, wherever its file lies."""
    return {name: value for name, value in sorted(extractor.to_dict().items()) if name not in NOT_THE_SOUND}
