"""Hostile tables, made by hypothesis; damaged data sets of every layout; damaged arrays and sounds."""

from __future__ import annotations

import codecs
import io
import json
import math
import random
import tempfile
import wave
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzzing.mutate import mutated
from benchmarks.fuzzing.watch import Found
from cache import PipelineError
from extract import Manifest, Sample, read_manifest
from extract.arrays import read_array
from extract.decode import DecodeError
from extract.sound import read_clip

EXAMPLES = 50
"""Of hypothesis in one case."""
SECONDS = 10
COLUMNS = ("id", "text", "label")
SIGNS = st.one_of(st.characters(codec="utf-8"), st.sampled_from("\"',;\t\n\r\0\ufeff\\ \u2028\x0b\x1c\x85{}[]:=@"))
CELLS = st.one_of(st.text(SIGNS, max_size=12), st.sampled_from(["", " ", "NaN", "null", "0", "-1e999", "a\r\nb"]))
ROWS = st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


class Misread(Exception):
    """A table was not read as it stands."""


def same(expected: Sequence[tuple[str, str, str]] | None, read: Callable[[], Manifest]) -> str:
    """Reads a table and compares; what comes of it. Raises Misread.

    Args:
        expected: id, text and label of each row; None where the rows cannot be taken, and have to be refused.
        read: reads it.
    """
    try:
        manifest = read()
    except PipelineError as error:
        if expected is not None:
            raise Misread(f"refused, though it is valid: {error}") from error
        return "refused"
    found = [(one.id, str(one.inputs.get("text", "")), one.label) for one in manifest.samples]
    if found != expected:
        raise Misread(f"read as {found}, expected {expected or 'that it is refused'}")
    return "read"


def taken(cells: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]] | None:
    """What a reader is to make of the rows, by its documentation; None where it has to refuse them."""
    rows = [(name.strip(), text.strip(), label.strip()) for name, text, label in cells]
    ids = [name for name, _, _ in rows]
    broken = any(sign in name + label for name, _, label in rows for sign in "\0\r\n")
    halves = any("\ud800" <= sign <= "\udfff" for name, _, label in rows for sign in name + label)
    return None if broken or halves or not rows or "" in ids or len(set(ids)) < len(ids) else rows


def tamed(rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The same with ids and labels that can be taken."""
    plain = str.maketrans(dict.fromkeys("\0\r\n", "_"))
    return [
        (f"{number}{name.translate(plain)}.", text, label.translate(plain))
        for number, (name, text, label) in enumerate(rows)
    ]


def quoted(cell: str, delimiter: str, always: bool) -> str:
    needs = always or any(sign in cell for sign in f'{delimiter}"\r\n')
    return '"' + cell.replace('"', '""') + '"' if needs else cell


@st.composite
def delimited(draw: Any) -> tuple[str, bytes, list[tuple[str, str, str]] | None]:
    """A valid table: its name, its bytes, and what it holds."""
    order = draw(st.permutations(COLUMNS))
    rows = tamed(draw(ROWS)) if draw(st.integers(0, 3)) else draw(ROWS)
    delimiter, always = draw(st.sampled_from(",;\t")), draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines = [delimiter.join(order)]
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        lines.append(delimiter.join(quoted(cells[name], delimiter, always) for name in order))
    text = end.join(lines) + draw(st.sampled_from(["", end, end * 2]))
    return draw(st.sampled_from(["a.csv", "A.TSV"])), text.encode(draw(st.sampled_from(ENCODINGS))), taken(rows)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12), st.just("\ud800x")
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
BAD_LINES = (
    '{"text": ' + "[" * 100_000,
    '{"text": ' + '{"a":' * 3000 + "1" + "}" * 3001,
    '{"text": "a", "id": ' + "7" * 5000 + "}",
    "{'text': 1}",
    '{"text": "\\ud8"}',
    "[1, 2]",
    "nul",
    '{"text": "a"} {"text": "b"}',
)


def cell_of(value: Any) -> str | None:
    """A JSON value as the text of a cell, by the documentation; None for a list or object."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip() if isinstance(value, str | int | float) else None


@st.composite
def json_lines(draw: Any) -> tuple[str, bytes, list[tuple[str, str, str]] | None]:
    values = draw(st.sampled_from([JSON, SCALARS, SCALARS, SCALARS]))
    objects = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, values)), min_size=1, max_size=5))
    if draw(st.integers(0, 3)):
        objects = [{**one, "id": f"{number}"} for number, one in enumerate(objects)]
    plain = [json.dumps(one, ensure_ascii=False) for one in objects]
    # Half a surrogate pair can only be written as an escape.
    lines = [
        json.dumps(one) if "\ud800" in line or draw(st.booleans()) else line
        for one, line in zip(objects, plain, strict=True)
    ]
    cells = [tuple(cell_of(one[name]) for name in COLUMNS) for one in objects]
    expected = None if any(None in row for row in cells) else taken([(a or "", b or "", c or "") for a, b, c in cells])
    bad = draw(st.sampled_from(BAD_LINES)) if not draw(st.integers(0, 4)) else ""
    if bad:
        lines.insert(draw(st.integers(0, len(lines))), bad)
        expected = None
    text = draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(lines)
    return "a.jsonl", text.encode(draw(st.sampled_from(ENCODINGS))), expected


@st.composite
def anything(draw: Any) -> tuple[str, bytes]:
    """Whatever may be called a table."""
    name = draw(st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "train.txt", "mosi.jsonl", "multimodal_train.tsv"]))
    head = draw(
        st.sampled_from(["", "id,text,label\n", "guid,tag\n", "clean_title\tid\timage_url\n", '{"id":1,"text":"a"}\n'])
    )
    text = draw(st.text(SIGNS, max_size=60))
    raw = text.encode(draw(st.sampled_from([*ENCODINGS, "utf-16-le"])), "replace")
    mark = draw(st.sampled_from([b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE]))
    return name, mark + head.encode() + draw(st.one_of(st.just(raw), st.binary(max_size=60)))


def hypotheses(number: int) -> Found:
    """Examples of the three strategies, by the seed `number`."""
    counts: Counter[str] = Counter()
    how = settings(
        max_examples=EXAMPLES,
        phases=(Phase.generate, Phase.shrink),
        print_blob=False,
        database=None,
        deadline=SECONDS * 1000,
        suppress_health_check=list(HealthCheck),
    )

    def check(strategy: st.SearchStrategy[Any], known: bool) -> None:
        @seed(number)
        @how
        @given(strategy)
        def run(case: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                (root / "data").mkdir()
                (root / "audio").mkdir()
                path = root / case[0]
                path.write_bytes(case[1])
                if known:
                    counts[same(case[2], lambda: read_manifest(path))] += 1
                else:
                    counts[outcome(lambda: read_manifest(path))[0]] += 1

        run()

    strategies = ((delimited(), True), (json_lines(), True), (anything(), False))
    check(*strategies[number % 3])
    return {"outcome": "looked at", "examples": counts.total(), **counts}


def outcome(read: Callable[[], Manifest]) -> tuple[str, Manifest | None]:
    """`read` with a manifest whose ids are unique, or `refused`."""
    try:
        manifest = read()
    except PipelineError:
        return "refused", None
    ids = [one.id for one in manifest.samples]
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        raise Misread(f"the ids are {ids}")
    return "read", manifest


def make_layout(layout: str, root: Path) -> Path:
    """A sound data set of 12 rows in ASCII, without quotes; gives the list that is to be damaged."""
    words = [f"post number {number} of a kind {number % 3}" for number in range(12)]
    if layout == "mvsa":
        (root / "data").mkdir()
        for number, text in enumerate(words):
            (root / "data" / f"p{number}.txt").write_text(text)
        listed = root / "train.txt"
        listed.write_text("guid,tag\n" + "".join(f"p{number},tag{number % 3}\n" for number in range(12)))
    elif layout == "mosi":
        listed = root / "mosi_dev.jsonl"
        (root / "audio").mkdir()
        rows = [
            {"id": f"v{n // 3}[{n}]", "video": f"v{n // 3}", "words": text.split(), "label": n / 4}
            for n, text in enumerate(words)
        ]
        listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif layout == "fakeddit":
        listed = root / "multimodal_train.tsv"
        lines = [f"{text}\tq{n}\thttp://a/{n}\t{n % 6}" for n, text in enumerate(words)]
        listed.write_text("clean_title\tid\timage_url\t6_way_label\n" + "".join(f"{line}\n" for line in lines))
    elif layout == "jsonl":
        listed = root / "a.jsonl"
        listed.write_text(
            "".join(json.dumps({"id": f"r{n}", "text": text, "label": n % 3}) + "\n" for n, text in enumerate(words))
        )
    else:
        listed, sign = root / f"a.{layout}", {"csv": ",", "tsv": "\t"}[layout]
        rows_of = [("id", "text", "label"), *((f"r{n}", text, f"tag{n % 3}") for n, text in enumerate(words))]
        listed.write_text("".join(sign.join(row) + "\n" for row in rows_of))
    return listed


LAYOUTS = ("csv", "tsv", "jsonl", "mvsa", "mosi", "fakeddit")


def damaged(number: int) -> Found:
    """A data set with a damaged list is refused, or every line that was not touched gives the row that it gave."""
    chance = random.Random(number)  # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        listed = make_layout(LAYOUTS[number % len(LAYOUTS)], Path(folder))
        data = listed.parent if listed.name == "train.txt" else listed
        before, was = listed.read_bytes(), read_manifest(data)
        listed.write_bytes(mutated(before, chance, most=chance.choice((1, 1, 3))))
        try:
            what, now = outcome(lambda: read_manifest(data))
        except Misread as error:
            return {"finding": str(error)}
        if now is not None:
            changed = _changed(before.decode(), listed.read_bytes(), was, now)
            if changed:
                return {"finding": f"rows of lines that were not touched changed: {changed[:3]}"}
    return {"outcome": what}


def _changed(before: str, raw: bytes, was: Manifest, now: Manifest) -> list[tuple[Sample, Sample]]:
    """Rows of one line that differ although their lines do not, where nothing has moved what a line is."""
    after = raw.decode("latin-1")
    if '"' in after.replace('"', "", before.count('"')) or len(after.splitlines()) != after.count("\n") != 0:
        return []
    lines, then = after.split("\n"), before.split("\n")
    if lines[0] != then[0]:
        return []
    rows = {one.line: one for one in was.samples}
    untouched = (one for one in now.samples if one.line <= len(then) and lines[one.line - 1] == then[one.line - 1])
    return [(rows[one.line], one) for one in untouched if rows.get(one.line) != one]


def damaged_arrays(number: int) -> Found:
    """An array is what numpy itself reads, or refused with a reason."""
    chance, draw = random.Random(number), np.random.default_rng(number % 40)  # noqa: S311
    dtype = chance.choice(["<f4", "<f8", "<f2", ">f4", "<i2", "|u1", "|b1", "<c8", "<U3", "|O"])
    shape = chance.choice([(7,), (5, 3), (1, 1), (2, 3, 4), (0, 3), ()])
    file = io.BytesIO()
    values = draw.normal(size=shape).astype(dtype) if dtype != "|O" else np.full(shape, None)
    np.save(file, np.asfortranarray(values) if chance.random() < 0.3 else values)
    raw = file.getvalue() if number % 10 == 0 else mutated(file.getvalue(), chance, most=2)
    try:
        found = read_array(raw)
    except DecodeError as error:
        return {"outcome": "refused"} if str(error).strip() else {"finding": "no reason"}
    expected = np.load(io.BytesIO(raw), allow_pickle=False)
    with np.errstate(over="ignore", invalid="ignore"):
        right = np.array_equal(found, expected.astype(np.float32)) and found.dtype == np.float32
    if not right or not np.isfinite(found).all() or found.ndim not in (1, 2):
        return {"finding": f"read as {found.dtype} {found.shape}, numpy has {expected.dtype} {expected.shape}"}
    return {"outcome": "read"}


def whole_sounds() -> list[bytes]:
    """WAV of every width, and what soundfile writes, where it is installed."""
    made = []
    for width, channels, rate in ((1, 1, 8000), (2, 1, 16000), (2, 2, 44100), (3, 2, 22050), (4, 1, 11025)):
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(channels)
            out.setsampwidth(width)
            out.setframerate(rate)
            out.writeframes(np.random.default_rng(0).bytes(width * channels * 2000))
        made.append(file.getvalue())
    try:
        import soundfile
    except (ImportError, OSError):
        return made
    tone = np.sin(np.arange(8000) / 7).reshape(-1, 2) / 2
    for kind, subtype in (("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None), ("WAV", "FLOAT"), ("WAVEX", "PCM_24")):
        file = io.BytesIO()
        soundfile.write(file, tone, 16000, format=kind, subtype=subtype)
        made.append(file.getvalue())
    return made


def damaged_sounds(number: int, whole: Sequence[bytes]) -> Found:
    """A clip is one finite channel of at most three seconds at the rate asked for, or refused with a reason."""
    chance = random.Random(number)  # noqa: S311
    raw = chance.choice(whole)
    raw = raw if number % 10 == 0 else mutated(raw, chance, most=2)
    try:
        found = read_clip(raw, 16000, 3)
    except DecodeError as error:
        return {"outcome": "refused"} if str(error).strip() else {"finding": "no reason"}
    good = found.dtype == np.float32 and found.ndim == 1 and np.isfinite(found).all() and 0 < len(found) <= 48001
    return {"outcome": "read"} if good else {"finding": f"{found.dtype} {found.shape}"}
