"""Tiny speech models and generated clips."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "initializer_range": 0.3,
    "hidden_dropout": 0.5,
}


def speech_model(folder: Path, name: str, settings: Mapping[str, Any] | None = None, **config: Any) -> Path:
    """A folder with a random model: `group` (wav2vec2-base's kind), `layer` (wav2vec2-large's), or `hubert`."""
    import torch
    from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    norm = "group" if name == "group" else "layer"
    kinds = (HubertConfig, HubertModel) if name == "hubert" else (Wav2Vec2Config, Wav2Vec2Model)
    large = {"do_stable_layer_norm": name == "layer", "conv_bias": norm == "layer"}
    own = {**SMALL, "feat_extract_norm": norm, **large, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        kinds[1](kinds[0](**own)).save_pretrained(folder)
    masked = {"return_attention_mask": norm == "layer", **(settings or {})}
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, **masked).save_pretrained(folder)
    return folder


def tone(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Two tones and noise, `(samples, channels)`, each channel another one, below full scale."""
    draw = np.random.default_rng(seed)
    at = np.arange(round(seconds * rate))[:, None] / rate
    pitch = draw.uniform(150, 900, (2, channels))
    sound = 0.3 * np.sin(2 * np.pi * pitch[0] * at) + 0.2 * np.sin(2 * np.pi * pitch[1] * at)
    return sound + draw.uniform(-0.05, 0.05, sound.shape)


def wav(sound: np.ndarray, rate: int = RATE, width: int = 2) -> bytes:
    """A PCM WAV file of `width` bytes a sample, from `(samples, channels)`."""
    whole = np.round(sound * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        raw = (whole + 128).astype(np.uint8).tobytes()
    else:
        raw = whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(sound.shape[1])
        made.setsampwidth(width)
        made.setframerate(rate)
        made.writeframes(raw)
    return file.getvalue()
