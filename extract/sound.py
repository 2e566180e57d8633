"""The bytes of audio files to one channel at a model's sampling rate."""

from __future__ import annotations

import io
import math
import wave
from typing import IO, Any

import numpy as np

from extract.decode import DecodeError, ReadError
from extract.manifest import Content, File, file_name, opened

WAV, COMPRESSED = (".wav",), (".flac", ".mp3", ".ogg")
AUDIO_SUFFIXES = (*WAV, *COMPRESSED)
RATES = (1000, 384_000)
"""Sampling rates that are taken: a broken header may promise any, and the resampling filter grows with it."""
SOUND_FIELDS = {
    "decoder": "wave; libsndfile for what is not PCM WAV",
    "channels": "averaged",
    "resampling": "scipy.signal.resample_poly",
}
"""Of encoder keys: every operation on the sound, but for the rate and the cut."""

HEADER = 4096
"""Bytes in which a WAV's format is looked for."""
_STARTS = (b"fLaC", b"OggS", b"ID3", b"RF64", b"RIFX")
_NEEDS = "needs soundfile, which decodes FLAC, MP3, Ogg and WAV that is not PCM: pip install soundfile"
_EXTENSIBLE, _PCM = b"\xfe\xff", b"\x01\x00"


def is_clip(content: Content) -> bool:
    """Whether it is an audio file, by its suffix."""
    return file_name(content).lower().endswith(AUDIO_SUFFIXES)


def seconds_of(content: File) -> float:
    """How long a clip is by its header, before anything of that size is read.

    Raises:
        DecodeError: no audio file that can be read.
        OSError: the file cannot be read.
    """
    with opened(content) as file:
        start = file.read(HEADER)
        file.seek(0)
        if _by_wave(start):
            with _wave(file, start) as one:
                return one.getnframes() / _rate(one.getframerate())
        _check_start(start)
        with _sound_file(file) as one:
            return float(one.frames / _rate(one.samplerate))


def read_clip(raw: bytes, rate: int, most: int) -> np.ndarray:
    """The sound as one channel, float32 of shape `(samples,)`, full scale from -1 to 1.

    Cut to the first `most` seconds, channels averaged, resampled by the exact ratio of the rates.

    Args:
        raw: the bytes of a WAV, FLAC, MP3 or Ogg file.
        rate: of the result, in Hz.
        most: seconds that are kept.

    Raises:
        DecodeError: empty, cut off, no audio, without a sample, or values that are no finite numbers.
        ReadError: soundfile is needed and not installed.
    """
    if not raw:
        raise DecodeError("the file is empty")
    frames, found = _by_standard_library(raw, most) if _by_wave(raw) else _by_soundfile(raw, most)
    if not len(frames):
        raise DecodeError("the clip has no samples")
    mono = frames.mean(axis=1, dtype=np.float64)
    if not np.isfinite(mono).all():
        raise DecodeError("the clip has NaN or infinite samples")
    return resampled(mono, found, rate).astype(np.float32)


def resampled(mono: np.ndarray, found: int, wanted: int) -> np.ndarray:
    """One channel `(n,)` at another rate, `(ceil(n * wanted / found),)`."""
    if found == wanted:
        return mono
    from scipy.signal import resample_poly  # half a second to import, and of no use where the rates are the same

    common = math.gcd(found, wanted)
    result: np.ndarray = resample_poly(mono, wanted // common, found // common)
    return result


def have_soundfile() -> bool:
    """Whether the optional library for what is not PCM WAV can be used."""
    try:
        import soundfile  # noqa: F401 - only whether it loads: it may be installed without its libsndfile
    except (ImportError, OSError):
        return False
    return True


def _by_wave(raw: bytes) -> bool:
    """Whether it is a WAV of PCM; one whose format is not to be found is left to `wave`, which says so."""
    if not _is_wav(raw):
        return False
    at = _format_at(raw)
    return not at or raw[at : at + 2] == _PCM or _is_extensible_pcm(raw, at)


def _is_wav(raw: bytes) -> bool:
    return raw[:4] == b"RIFF" and raw[8:12] == b"WAVE"


def _format_at(raw: bytes) -> int:
    """Where the format stands, which other chunks may precede; 0 where it is not to be found."""
    at = 12
    while at + 8 <= len(raw):
        if raw[at : at + 4] == b"fmt ":
            return at + 8
        size = int.from_bytes(raw[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return 0


def _is_extensible_pcm(raw: bytes, at: int) -> bool:
    """PCM by another name, as it is written for 24 bits or many channels; `wave` knows it from Python 3.12 on."""
    return raw[at : at + 2] == _EXTENSIBLE and raw[at + 24 : at + 26] == _PCM


def _wave(file: IO[bytes], start: bytes) -> wave.Wave_read:
    at = _format_at(start)
    if _is_extensible_pcm(start, at):
        raw = file.read()
        file = io.BytesIO(raw[:at] + _PCM + raw[at + 2 :])
    try:
        return wave.open(file, "rb")
    except Exception as error:  # on broken headers it raises almost anything
        raise DecodeError(f"broken WAV file: {str(error).strip() or 'it ends within its header'}") from error


def _by_standard_library(raw: bytes, most: int) -> tuple[np.ndarray, int]:
    """Frames `(n, channels)` of the first seconds, and their rate."""
    with _wave(io.BytesIO(raw), raw) as file:
        rate, channels, width = _rate(file.getframerate()), file.getnchannels(), file.getsampwidth()
        promised = file.getnframes()
        if width not in (1, 2, 3, 4):
            raise DecodeError(f"a WAV file of {8 * width} bits; expected 8, 16, 24 or 32")
        try:
            data = file.readframes(promised)
        except Exception as error:  # as above
            raise DecodeError(f"broken WAV file: {error}") from error
    whole = len(data) // (channels * width)
    if whole < promised:
        raise DecodeError(f"the WAV file is cut off: it has {whole} of the {promised} frames that its header promises")
    data = data[: most * rate * channels * width]
    return _samples(data, width).reshape(-1, channels), rate


def _samples(data: bytes, width: int) -> np.ndarray:
    """PCM of `width` bytes as float64, full scale from -1 to 1; 8 bits have no sign, all others do."""
    if width == 1:
        return (np.frombuffer(data, dtype=np.uint8).astype(np.float64) - 128) / 128
    if width == 3:  # the upper three bytes of four
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        return wide.reshape(-1).view("<i4").astype(np.float64) / 2**31
    return np.frombuffer(data, dtype=f"<i{width}").astype(np.float64) / 2 ** (8 * width - 1)


def _by_soundfile(raw: bytes, most: int) -> tuple[np.ndarray, int]:
    _check_start(raw)
    with _sound_file(io.BytesIO(raw)) as file:
        rate = _rate(file.samplerate)
        wanted = min(file.frames, most * rate)
        try:
            frames = file.read(wanted, dtype="float64", always_2d=True)
        except Exception as error:  # soundfile's own errors, and what its library makes of broken files
            raise DecodeError(f"broken audio file: {error}") from error
        if len(frames) < wanted and file.format != "MP3":  # whose headers only guess
            raise DecodeError(f"the audio file is cut off: {len(frames)} of {wanted} frames can be read")
    return frames, rate


def _check_start(raw: bytes) -> None:
    """Raises DecodeError for what is no audio: an HTML page is to be called that, soundfile or not."""
    frame_of_mp3 = len(raw) > 1 and raw[0] == 0xFF and raw[1] & 0xE0 == 0xE0
    if not raw:
        raise DecodeError("the file is empty")
    if not (_is_wav(raw) or frame_of_mp3 or raw.startswith(_STARTS)):
        raise DecodeError("no audio file that is known: expected WAV, FLAC, MP3 or Ogg")


def _sound_file(file: IO[bytes]) -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ReadError(f"it {_NEEDS}") from error  # once it is installed, the next extraction tries again
    try:
        return soundfile.SoundFile(file)
    except Exception as error:  # as above
        raise DecodeError(f"broken audio file: {error}") from error


def _rate(found: int) -> int:
    if not RATES[0] <= found <= RATES[1]:
        raise DecodeError(f"a sampling rate of {found} Hz; expected {RATES[0]} to {RATES[1]}")
    return int(found)
