"""What corrupt pictures do to the others: nothing here; elsewhere they shift rows. See `benchmarks/corrupt.py`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import corrupt
from extract import EncoderSpec


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[int]]:
    """19 different pictures whole, and with each kind of corruption once."""
    monkeypatch.setattr(corrupt, "SHARE", 5)
    draw, pictures = np.random.default_rng(0), []
    for _ in range(19):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((90, 70)).save(file, "JPEG")
        pictures.append(file.getvalue())
    rows = corrupt.make_folders(pictures, tmp_path)
    assert rows == [2, 7, 12, 17]
    return tmp_path, rows


def test_the_others_have_the_vectors_of_the_clean_run_bit_for_bit(folders: tuple[Path, list[int]]) -> None:
    root, rows = folders
    spec = EncoderSpec("image", "squeezenet1_1", random_init=0)
    whole, broken = (corrupt.ours(root / name / "table.csv", spec) for name in ("whole", "corrupt"))
    assert whole.failed == {}
    assert len(np.unique(whole.vectors, axis=0)) == 19
    expected = {"rows": 19, "corrupt": 4, "sound": 15, "bit_equal": 15, "lost": 0, "misaligned": 0, "recorded": 4}
    assert corrupt.compared(whole, broken, rows) == expected
    assert sorted(broken.failed) == [f"{row:05}" for row in rows]
    reasons = ("truncated", "the file is empty", "no picture", "no picture")
    assert all(part in reason for part, (_, reason) in zip(reasons, sorted(broken.failed.items()), strict=True))


def test_dropping_what_fails_shifts_all_rows_that_follow(folders: tuple[Path, list[int]]) -> None:
    root, rows = folders
    found = corrupt.race(root / "corrupt" / "pictures", timm=False)["clip-retrieval's reader"]
    assert found == {"rows": 15, "lost": 4, "misaligned_by_number": 15 - rows[0], "misaligned_by_its_own_list": 0}
