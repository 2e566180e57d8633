"""Damaged feature stores and runs: what they give is right, or refused by name; an extraction heals a store."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.fuzzing.mutate import mutated
from benchmarks.fuzzing.watch import Found

FAILURES_RECORDED = 3
"""The exit code: one picture of each data set is broken."""
POSTS = 24
NAMES = ("posts", "reviews")
HEADS = ("logreg", "mlp", "vote", "stacking")
WORDS = ("the", "a", "my", "day", "great", "awful", "city", "love", "hate", "home", "rain", "sun")
CLOSE = 1e-4
"""A vector that is encoded again in another batch is as close as this to what it was, of the largest value."""
OPTIONS = ("--image-model", "squeezenet1_1", "--device", "cpu", "--precision", "fp32")


_seconds: list[float] = []
"""Of the processor, by command of a case."""


@dataclass(frozen=True)
class House:
    """A folder with two data sets, their store and a run a head; what they give while they are sound."""

    root: Path
    expected: dict[str, np.ndarray]
    predicted: dict[str, bytes]


def make(root: Path) -> Found:
    """Writes all of it, by the command line."""
    _make_model(root / "model")
    for number, name in enumerate(NAMES):
        _make_posts(root / name, number)
        seed = str(number)  # two image encoders of one width
        _must(root, "extract", name, "--store", "features", *_models(root), "--random-init", seed, "--tokens")
    _announce(root / "features")
    for head in HEADS:
        _must(root, "fuse", "--head", head, "--name", "posts", "--store", "features", "--out", f"runs/{head}")
        run = ("predict", "--run", f"runs/{head}", "posts", "--all", "--store", "features", "-o", f"{head}.csv")
        _must(root, *run)
    return {"outcome": "made"}


def look(root: Path) -> House:
    """Reads what a sound house gives."""
    predicted = {head: (root / f"{head}.csv").read_bytes() for head in HEADS}
    return House(root, {name: _vectors(root / "features", name) for name in NAMES}, predicted)


def damage_store(number: int, house: House) -> Found:
    """Damages one to three files of a copy, then loads, verifies, lists, fits and heals it."""
    _seconds.clear()
    with tempfile.TemporaryDirectory() as folder:
        root = _copy(house, Path(folder), "features")
        what = _damage(root / "features", random.Random(number))  # noqa: S311
        told = [*_wrong_vectors(root, house), *_raised(root)]
        healed = list(_heal(root, house))
    problems = [*told, *healed]
    about = {"outcome": what.split()[0], "slowest": max(_seconds)}
    return {**about, **({"finding": f"{what}: " + "; ".join(problems)} if problems else {})}


def damage_run(number: int, house: House) -> Found:
    """Damages a file of a run: it labels as it did, or is refused."""
    _seconds.clear()
    chance = random.Random(number)  # noqa: S311
    head = HEADS[number % len(HEADS)]
    with tempfile.TemporaryDirectory() as folder:
        root = _copy(house, Path(folder), "runs")
        os.symlink(house.root / "features", root / "features")
        what = _damage(root / "runs" / head, chance)
        run = ("predict", "--run", f"runs/{head}", "posts", "--all", "--store", "features", "-o", "new.csv")
        code, error = _call(root, *run)
        problems = [error] if error else []
        done = code in (0, FAILURES_RECORDED)
        if done and (root / "new.csv").read_bytes() != house.predicted[head]:
            problems.append("it labels otherwise than before, and says nothing")
    about = {"outcome": "labelled" if done else "refused", "slowest": max(_seconds)}
    return {**about, **({"finding": f"{what}: " + "; ".join(problems)} if problems else {})}


def _copy(house: House, root: Path, part: str) -> Path:
    shutil.copytree(house.root / part, root / part)
    for name in NAMES:
        os.symlink(house.root / name, root / name)
    os.symlink(house.root / "model", root / "model")
    return root


def _damage(folder: Path, chance: random.Random) -> str:
    """Changes, empties, removes or exchanges files; says which."""
    done = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = chance.choice(files)
        how = chance.choice(("changed", "changed", "changed", "changed", "flipped", "flipped", "removed", "exchanged"))
        if how == "removed":
            path.unlink()
        elif how == "exchanged":
            alike = [one for one in files if one.suffix == path.suffix and one != path]
            other = chance.choice(alike or files)
            raw = path.read_bytes()
            path.write_bytes(other.read_bytes())
            other.write_bytes(raw)
            how += f" with {other.relative_to(folder)}"
        elif how == "flipped":
            flipped = bytearray(path.read_bytes())
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
        else:
            path.write_bytes(mutated(path.read_bytes(), chance, most=2))
        done.append(f"{how} {path.relative_to(folder)}")
        if len(files) < 2:
            break
    return ", ".join(done)


def _vectors(store: Path, name: str) -> np.ndarray:
    from cache import load

    return np.array(load(store, name, check=True).to_numpy(missing=-7.0))


def _wrong_vectors(root: Path, house: House) -> Iterator[str]:
    """A data set is refused, or has the vectors that it had."""
    from cache import PipelineError, load

    for name, expected in house.expected.items():
        try:
            table = load(root / "features", name, check=True)
            found, ids = np.array(table.to_numpy(missing=-7.0)), table.ids.tolist()
        except PipelineError:
            continue
        if ids != [f"{name}{number}" for number in range(POSTS)]:
            yield f"{name} has other ids"
        elif not np.array_equal(found, expected):
            yield f"{name} has other vectors in rows {np.flatnonzero((found != expected).any(axis=1)).tolist()}"


def _raised(root: Path) -> Iterator[str]:
    """What commands raise that is not for users."""
    for command in (
        ("cache", "verify"),
        ("cache", "status"),
        ("cache", "list"),
        ("fuse", "--head", "logreg", "--name", "posts", "--out", "run", "--folds", "2"),
    ):
        _, error = _call(root, *command, "--store", "features")
        if error:
            yield error


def _heal(root: Path, house: House) -> Iterator[str]:
    """The same extractions make the store whole: verified, and with the vectors that it had but for rounding."""
    from cache import FeatureStore, PipelineError, verify_store

    for number, name in enumerate(NAMES):
        command = ("extract", name, "--store", "features", *_models(root), "--random-init", str(number), "--tokens")
        code, error = _call(root, *command)
        if code != FAILURES_RECORDED or error:
            yield f"extract {name} ended with {code} {error}"
            return
    pending = {path.name for path in (root / "features").glob("*.pending.h5")}
    findings = [f"{path.name}: {why}" for path, why in verify_store(FeatureStore(root / "features")).findings]
    # Nothing but its own extraction makes an announcement anew.
    yield from (f"not healed: {one}" for one in findings if one.partition(":")[0] not in pending)
    for name, expected in house.expected.items():
        try:
            found = _vectors(root / "features", name)
        except PipelineError as error:
            yield f"not healed: {error}"
            continue
        if found.shape != expected.shape or np.abs(found - expected).max() > CLOSE * np.abs(expected).max():
            yield f"{name} has other vectors after extract"


def _call(root: Path, *args: str) -> tuple[int, str]:
    """The exit code of a command, and what it raised that is no clear error; empty if nothing."""
    started = time.process_time()
    try:
        return _called(root, *args)
    finally:
        _seconds.append(time.process_time() - started)


def _called(root: Path, *args: str) -> tuple[int, str]:
    import traceback

    from click.testing import CliRunner

    import pipeline

    os.chdir(root)
    done = CliRunner().invoke(pipeline.main, list(args))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return done.exit_code, f"{' '.join(args[:2])}: " + "".join(traceback.format_exception(done.exception))[-1500:]
    if done.exit_code == 1 and not done.stderr.startswith("error: ") and args[:2] != ("cache", "verify"):
        return 1, f"{' '.join(args[:2])} ended with 1 and says {done.stderr[-300:]!r}"
    return done.exit_code, ""


def _must(root: Path, *args: str) -> None:
    code, error = _call(root, *args)
    if code not in (0, FAILURES_RECORDED) or error:
        raise RuntimeError(f"{args} ended with {code}: {error}")


def _models(root: Path) -> Sequence[str]:
    return ("--text-model", str(root / "model"), *OPTIONS)


def _make_model(folder: Path) -> None:
    """A BERT of 2 layers without weights: they come from a seed."""
    folder.mkdir()
    config = {"model_type": "bert", "vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 32}')


def _make_posts(folder: Path, number: int) -> None:
    """Posts, of which one has a broken picture, one no picture and one no text."""
    from PIL import Image

    folder.mkdir()
    draw = np.random.default_rng(number)
    lines = ["id,text,image,label"]
    for row in range(POSTS):
        text = "" if row == 5 else " ".join(draw.choice(WORDS, 1 + row % 9))
        picture = "" if row == 6 else f"{row}.png"
        colours = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((40, 30)).save(folder / f"{row}.png")
        lines.append(f"{folder.name}{row},{text},{picture},{'ab'[row % 2]}")
    (folder / "7.png").write_bytes(b"broken")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def _announce(store: Path) -> None:
    """As an extraction leaves it that was stopped."""
    from cache import FeatureStore, read_view, write_view

    opened = FeatureStore(store)
    write_view(opened, dataclasses.replace(read_view(opened, "posts"), name="next"), pending=True)
