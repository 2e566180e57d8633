"""Audio files to waveforms."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

from extract.decode import DecodeError, ReadError
from extract.sound import read_clip, seconds_of
from tests.extract.audio_data import RATE, tone, wav

BITS = {1: 8, 2: 16, 3: 24, 4: 32}


def extensible(raw: bytes, rest: bytes = b"\x01\x00") -> bytes:
    """The same file by the header that is written for 24 bits, with a chunk before it."""
    guid = rest + bytes.fromhex("000000001000800000aa00389b71")
    form = b"\xfe\xff" + raw[22:36] + b"\x16\x00" + raw[34:36] + b"\x04\x00\x00\x00" + guid
    chunks = b"JUNK\x03\x00\x00\x00abc\x00" + b"fmt " + len(form).to_bytes(4, "little") + form + raw[36:]
    return b"RIFF" + (4 + len(chunks)).to_bytes(4, "little") + b"WAVE" + chunks


@pytest.mark.parametrize("width", list(BITS))
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pcm_of_all_widths_is_what_was_written(width: int, channels: int):
    sound = tone(0.1, channels=channels)
    found = read_clip(wav(sound, width=width), RATE, 30)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sound.mean(axis=1), atol=1.1 / 2 ** (8 * width - 1) + 1e-7)


def test_the_ends_of_the_scale_are_exact():
    loudest = np.array([[-1.0], [1.0], [0.0]])
    for width, bits in BITS.items():
        raw = wav(loudest, width=width)
        most = 2 ** (bits - 1) - 1
        np.testing.assert_array_equal(read_clip(raw, RATE, 1), np.float32([-most / (most + 1), most / (most + 1), 0]))


@pytest.mark.parametrize("width", list(BITS))
def test_the_extensible_header_changes_nothing(width: int):
    raw = wav(tone(0.1, channels=2), width=width)
    np.testing.assert_array_equal(read_clip(extensible(raw), RATE, 30), read_clip(raw, RATE, 30))
    assert seconds_of(extensible(raw)) == seconds_of(raw) == 0.1


@pytest.mark.parametrize(("rate", "up", "down"), [(8000, 2, 1), (44100, 160, 441), (48000, 1, 3), (22050, 320, 441)])
def test_other_rates_are_resampled_by_the_exact_ratio(rate: int, up: int, down: int):
    sound = tone(0.25, rate, 2)
    found = read_clip(wav(sound, rate, 4), RATE, 30)
    np.testing.assert_allclose(found, resample_poly(sound.mean(axis=1), up, down), atol=1e-6)
    assert len(found) == -(-len(sound) * up // down)
    # The tone itself, away from the ends, is the one that the other rate would have had.
    at = np.arange(len(found)) / RATE
    pure = np.sin(2 * np.pi * 440 * np.arange(len(sound)) / rate)[:, None] * 0.5
    middle = slice(400, -400)
    exact = 0.5 * np.sin(2 * np.pi * 440 * at)
    np.testing.assert_allclose(read_clip(wav(pure, rate, 4), RATE, 30)[middle], exact[middle], atol=2e-3)


def test_long_clips_are_cut_before_they_are_resampled():
    sound = tone(2.5, 8000)
    found = read_clip(wav(sound, 8000), RATE, 2)
    assert len(found) == 2 * RATE
    np.testing.assert_array_equal(found, read_clip(wav(sound[:16000], 8000), RATE, 30))


GOOD = wav(tone(0.5))
BROKEN = {
    "the file is empty": b"",
    "no audio file that is known: expected WAV, FLAC, MP3 or Ogg": b"<html>not found</html>",
    "the WAV file is cut off: it has 7000 of the 8000 frames": GOOD[:-2000],
    "broken WAV file: it ends within its header": GOOD[:30],
    "broken WAV file": GOOD[:12] + b"junk" * 20,
    "the clip has no samples": wav(np.zeros((0, 1))),
    "a sampling rate of 1 Hz; expected 1000 to 384000": wav(tone(0.1), 1),
    "a sampling rate of 1000000000 Hz": wav(tone(0.1), 1_000_000_000),
}


@pytest.mark.parametrize("reason", list(BROKEN))
def test_broken_files_say_what_is_wrong(reason: str):
    with pytest.raises(DecodeError) as caught:
        read_clip(BROKEN[reason], RATE, 30)
    assert reason in str(caught.value)
    assert not isinstance(caught.value, ReadError)


def test_no_part_of_a_file_is_a_traceback():
    draw = np.random.default_rng(0)
    for end in range(0, 120):
        with pytest.raises(DecodeError):
            read_clip(GOOD[:end], RATE, 30)
    for _ in range(300):
        raw = bytearray(GOOD)
        for place in draw.integers(0, 44, 3):
            raw[place] = draw.integers(256)
        for read in (lambda raw: read_clip(raw, RATE, 1), seconds_of):
            try:
                read(bytes(raw))
            except DecodeError:
                continue


def test_what_is_no_pcm_wants_soundfile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    for raw in (b"fLaC" + bytes(99), b"ID3" + bytes(99), extensible(GOOD, b"\x03\x00")):
        for read in (lambda raw: read_clip(raw, RATE, 30), seconds_of):
            with pytest.raises(ReadError, match=r"it needs soundfile, .*: pip install soundfile"):
                read(raw)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("flac", "PCM_16"), ("wav", "FLOAT"), ("wav", "DOUBLE"), ("wav", "PCM_24")]
)
def test_lossless_files_are_what_was_written(tmp_path: Path, suffix: str, kind: str):
    soundfile = pytest.importorskip("soundfile")
    sound, path = tone(0.5, 22050, 2), tmp_path / f"a.{suffix}"
    soundfile.write(path, sound, 22050, subtype=kind)
    np.testing.assert_allclose(read_clip(path.read_bytes(), 22050, 30), sound.mean(axis=1), atol=5e-5)
    assert seconds_of(path) == 0.5
    np.testing.assert_allclose(
        read_clip(path.read_bytes(), RATE, 30), resample_poly(sound.mean(axis=1), 320, 441), atol=1e-4
    )


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_lossy_files_are_about_what_was_written(tmp_path: Path, suffix: str):
    soundfile = pytest.importorskip("soundfile")
    sound, path = tone(1, 44100), tmp_path / f"a.{suffix}"
    soundfile.write(path, sound, 44100)
    found = read_clip(path.read_bytes(), 44100, 30)
    assert len(found) >= len(sound)
    assert np.corrcoef(found[: len(sound)], sound[:, 0])[0, 1] > 0.9
    assert abs(seconds_of(path.read_bytes()) - 1) < 0.1


def test_broken_compressed_and_float_files_say_so(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(0.5), RATE)
    with pytest.raises(DecodeError):
        read_clip(path.read_bytes()[:-3000], RATE, 30)
    with pytest.raises(DecodeError, match="broken audio file"):
        read_clip(b"fLaC" + bytes(99), RATE, 30)
    holes = tone(0.1)
    holes[5] = np.nan
    file = io.BytesIO()
    soundfile.write(file, holes, RATE, format="WAV", subtype="FLOAT")
    with pytest.raises(DecodeError, match="the clip has NaN or infinite samples"):
        read_clip(file.getvalue(), RATE, 30)
