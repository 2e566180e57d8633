"""What `check` finds in the ECNU course data, beside a plain count of the same, and how long it takes.

    python benchmarks/check.py --data ecnu --text-model bert-base-uncased

The plain count goes over the files by itself: digests, a dictionary, no code of ours. With --copies, pictures of the
data are written anew, smaller, brighter or with less quality, beside the data in a temporary folder, and it is
counted how many of these copies are found.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from benchmarks.machine import PIPELINE, Target, machine, target_lines, write_result

MOST_SECONDS = 60
ROUNDS = 3
COPIED = 300
COPIES = (
    "quality 30",
    "quality 75",
    "half the size",
    "a third, quality 50",
    "brighter by 20 %",
    "2 % cut off each side",
)


def plain_count(data: Path) -> dict[str, Any]:
    """Duplicates, conflicts and classes by digests of the files alone."""
    rows = []
    for name in ("train.txt", "test_without_label.txt"):
        with (data / name).open(encoding="utf-8", newline="") as file:
            rows += [(row[0].strip(), row[1].strip()) for row in list(csv.reader(file))[1:] if row]
    classes = Counter(tag for _, tag in rows if tag != "null")
    found: dict[str, Any] = {"rows": len(rows), "classes": dict(classes.most_common())}
    for modality, suffix in (("text", ".txt"), ("image", ".jpg")):
        groups: dict[str, list[str]] = defaultdict(list)
        for name, tag in rows:
            raw = (data / "data" / f"{name}{suffix}").read_bytes()
            if modality == "text":
                raw = _text(raw).strip().encode("utf-8")
            groups[hashlib.sha256(raw).hexdigest()].append(tag)
        several = [tags for tags in groups.values() if len(tags) > 1]
        conflicts = [tags for tags in several if len(set(tags) - {"null"}) > 1]
        found[modality] = {
            "groups": len(several),
            "rows": sum(map(len, several)),
            "conflicts": len(conflicts),
            "rows in conflict": sum(map(len, conflicts)),
        }
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("gb18030")


def run_check(data: Path, out: Path, model: Path | None) -> tuple[dict[str, Any], float]:
    """The JSON of one `check` in a process of its own, and its seconds from start to end."""
    command = [sys.executable, str(PIPELINE), "check", str(data), "--out", str(out), "--json"]
    command += ["--text-model", str(model)] if model else []
    started = time.perf_counter()
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=env)
    seconds = time.perf_counter() - started
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content, seconds


def checked_count(found: dict[str, Any]) -> dict[str, Any]:
    """The same figures as `plain_count`, of a `check`."""
    counted: dict[str, Any] = {"rows": found["rows"], "classes": found["labels"]["classes"]}
    for modality in ("text", "image"):
        one = found["duplicates"]["equal"][modality]
        conflicts = one["conflicts"]
        counted[modality] = {"groups": one["groups"], "rows": one["rows"], "conflicts": conflicts["groups"]}
        counted[modality]["rows in conflict"] = conflicts["rows"]
    return counted


def copies_found(data: Path, work: Path) -> dict[str, dict[str, int]]:
    """By kind of copy, the share that `check` puts into a group with its original."""
    from PIL import Image

    paths = sorted((data / "data").glob("*.jpg"))[:: max(1, len(list((data / "data").glob("*.jpg"))) // COPIED)][
        :COPIED
    ]
    result = {}
    for kind in COPIES:
        folder = work / kind.replace(" ", "-").replace("%", "percent")
        folder.mkdir()
        rows = [["id", "image"]]
        for number, path in enumerate(paths):
            (folder / f"{number}.jpg").write_bytes(path.read_bytes())
            with Image.open(io.BytesIO(path.read_bytes())) as picture:
                _copy(picture.convert("RGB"), kind).save(folder / f"{number}-copy.jpg", quality=_quality(kind))
            rows += [[f"{number}", f"{number}.jpg"], [f"{number}-copy", f"{number}-copy.jpg"]]
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        run_check(folder / "table.csv", folder / "out", None)
        groups: dict[str, set[str]] = defaultdict(set)
        with (folder / "out" / "rows.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["what"] in ("equal", "near"):
                    groups[row["id"]].add(row["group"])
        pairs = [(f"{number}", f"{number}-copy") for number in range(len(paths))]
        together = sum(bool(groups[one] & groups[other]) for one, other in pairs)
        result[kind] = {"found": together, "of": len(pairs)}
    return result


def _copy(picture: Any, kind: str) -> Any:
    width, height = picture.size
    if kind == "half the size":
        return picture.resize((max(1, width // 2), max(1, height // 2)))
    if kind.startswith("a third"):
        return picture.resize((max(1, width // 3), max(1, height // 3)))
    if kind.startswith("brighter"):
        return picture.point(lambda value: min(255, int(value * 1.2)))
    if kind.startswith("2 %"):
        return picture.crop((int(width * 0.02), int(height * 0.02), int(width * 0.98), int(height * 0.98)))
    return picture


def _quality(kind: str) -> int:
    return 30 if kind == "quality 30" else 50 if "50" in kind else 75 if kind == "quality 75" else 90


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="The ECNU course data.")
@click.option("--text-model", type=click.Path(exists=True, path_type=Path), help="Whose tokens are counted.")
def main(data: Path, text_model: Path | None) -> None:
    """Measure, and write the results beside this script."""
    expected = plain_count(data)
    with tempfile.TemporaryDirectory() as work:
        runs = [run_check(data.resolve(), Path(work) / "out", text_model) for _ in range(ROUNDS)]
        copies = copies_found(data, Path(work))
    found, seconds = runs[-1][0], [own for _, own in runs]
    counted = checked_count(found)
    keys = {one["key"] for one in found["findings"]}
    near = {
        name: {key: one[key] for key in ("groups", "rows", "contents")}
        for name, one in found["duplicates"]["near"].items()
    }
    targets: list[Target] = [
        (f"{what}, by a plain count", _said(expected[what]), _said(counted[what]), expected[what] == counted[what])
        for what in ("text", "image")
    ]
    targets.append(
        ("imbalance", _said(expected["classes"]), "found" if "imbalance" in keys else "not found", "imbalance" in keys)
    )
    slowest = max(seconds)
    targets.append((f"seconds, the slowest of {ROUNDS}", f"< {MOST_SECONDS}", f"{slowest:.1f}", slowest < MOST_SECONDS))
    lines = [*target_lines(targets), "", "| nearly equal | groups | rows | different contents |", "|---|---|---|---|"]
    lines += [f"| {name} | {one['groups']} | {one['rows']} | {one['contents']} |" for name, one in near.items()]
    lines += ["", f"| copies of {COPIED} pictures | found |", "|---|---|"]
    lines += [f"| {kind} | {100 * one['found'] / one['of']:.0f} % |" for kind, one in copies.items()]
    lines += ["", f"{expected['rows']} rows; from the start of the command to its end, models and page included."]
    result = {"machine": machine("pillow"), "targets": targets, "seconds": seconds, "plain": expected, "near": near}
    result |= {"checked": counted, "copies": copies, "findings": found["findings"]}
    click.echo(write_result("check", "A check of the ECNU course data", result, lines))


def _said(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


if __name__ == "__main__":
    main()
