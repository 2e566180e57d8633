"""Arrays beside texts: aligned with words, sequences, single vectors."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import FAILED, MISSING, DataError, EncoderKey, FeatureStore, FeatureTable, UsageError, table_of
from extract import EncoderSpec, Extraction, Manifest, choose_specs, found_in, originals, read_manifest
from extract.batching import Budget
from extract.deep import verify_by_encoding
from extract.encoders.array import ArrayEncoder
from extract.encoders.text import WordPieces
from extract.manifest import Aligned

WORDS = ["the", "days", "great", "awful", "citys", "love", "homes", "sun"]  # every one with an s is of two pieces
LONGEST = 24
COLUMNS = {"audio": "audio", "vision": "vision", "words": "words"}


@dataclass
class Talks:
    """A JSONL table of utterances with arrays; a test changes it before it is read."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def array(self, row: int, name: str = "audio") -> np.ndarray:
        return np.load(self.folder / name / f"{row}.npy")

    def put(self, row: int, array: np.ndarray, name: str = "audio") -> None:
        np.save(self.folder / name / f"{row}.npy", array)

    def read(self, **columns: str) -> Manifest:
        lines = "\n".join(json.dumps(row) for row in self.rows)
        (self.folder / "talks.jsonl").write_text(lines, encoding="utf-8")
        return read_manifest(self.folder, columns=columns or COLUMNS)


@pytest.fixture
def talks(tmp_path: Path) -> Talks:
    """10 utterances of 2 to 11 words, with sound of 5 columns and sight of 3; the last is cut."""
    made, draw = Talks(tmp_path / "talks"), np.random.default_rng(0)
    for name in ("audio", "vision"):
        (made.folder / name).mkdir(parents=True)
    for number in range(10):
        words = [str(word) for word in draw.choice(WORDS, 2 + number if number < 9 else 40)]
        row = {"id": f"t{number}", "words": words, "text": " ".join(words), "label": round(float(draw.normal()), 2)}
        for name, width in (("audio", 5), ("vision", 3)):
            np.save(made.folder / name / f"{number}.npy", draw.normal(size=(len(words), width)).astype(np.float32))
            row[name] = f"{name}/{number}.npy"
        made.rows.append(row)
    return made


@pytest.fixture
def specs(bert: Path) -> Callable[..., tuple[EncoderSpec, ...]]:
    def choose(manifest: Manifest, *modalities: str, **options: Any) -> tuple[EncoderSpec, ...]:
        text = {"model": str(bert), "precision": "fp32", "tokens": True, **options}
        given = {"text": text, "array": {"tokens": True}}
        names = modalities or manifest.modalities
        return choose_specs(names, given, {}, {}, found_in(manifest, names))

    return choose


def table(bench, done: Extraction) -> FeatureTable:
    return table_of(FeatureStore(bench.store), done.view)


def by_hand(bert: Path, words: list[str], rows: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """REFERENCE: a word's vector on each of its pieces, zeros at [CLS] and [SEP]; by the tokenizer's own words."""
    from transformers import BertTokenizerFast

    encoded = BertTokenizerFast.from_pretrained(bert)(
        words, is_split_into_words=True, truncation=True, max_length=longest
    )
    out = np.zeros((len(encoded["input_ids"]), rows.shape[1]), dtype=np.float32)
    for place, word in enumerate(encoded.word_ids()):
        if word is not None:
            out[place] = rows[word]
    return out


def test_aligned_tokens_are_those_by_hand_and_as_many_as_the_texts(talks, bench, specs, bert: Path):
    manifest = talks.read()
    done = bench.extract(manifest, *specs(manifest))
    assert done.failed_ids == []
    found = table(bench, done)
    assert found.modalities == ("text", "audio", "vision")
    for name in ("audio", "vision"):
        tokens = found.tokens(name)
        assert tokens.dtype == np.float32
        assert tokens.lengths.tolist() == found.tokens("text").lengths.tolist()
        for number, row in enumerate(talks.rows):
            array = talks.array(number, name)
            np.testing.assert_array_equal(tokens[number], by_hand(bert, row["words"], array))
            np.testing.assert_allclose(found.block(name)[number], array.mean(axis=0), atol=1e-6)
    assert found.tokens("text").lengths[9] == LONGEST
    assert not tokens[0][[0, -1]].any()
    assert tokens[0][1:-1].any(axis=1).all()


def test_a_shorter_text_cuts_the_arrays_too_and_is_another_key(talks, bench, specs, bert: Path):
    manifest = talks.read()
    first = bench.extract(manifest, *specs(manifest))
    done = bench.extract(manifest, *specs(manifest, max_length=8))
    tokens = table(bench, done).tokens("audio")
    assert tokens.lengths.max() == 8
    np.testing.assert_array_equal(tokens[9], by_hand(bert, talks.rows[9]["words"], talks.array(9), 8))
    assert done.view.blocks["audio"].encoder != first.view.blocks["audio"].encoder


@pytest.mark.parametrize("head", ["cmbert", pytest.param("ef-lstm", marks=pytest.mark.slow)])
def test_aligned_heads_fit_on_the_table_as_it_is(talks, bench, specs, head: str):
    from fuse import make_regressor

    manifest = talks.read()
    found = table(bench, bench.extract(manifest, *specs(manifest)))
    y = found.y.astype(float)
    model = make_regressor(head, epochs=2, random_state=0).fit(found, y)
    assert np.isfinite(model.predict(found)).all()
    unaligned = talks.read(text="text", audio="audio")
    apart = table(bench, bench.extract(unaligned, *specs(unaligned)))
    with pytest.raises(UsageError, match="needs modalities aligned token by token"):
        make_regressor(head, epochs=2).fit(apart, y)


def test_vectors_do_not_depend_on_batches_order_or_resume(
    talks, bench, specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest = talks.read()
    whole = table(bench, bench.extract(manifest, *specs(manifest, "audio")))
    monkeypatch.setattr("extract.runtime.OTHER", Budget(cost=3, items=3))
    bench.store = tmp_path / "other"
    turned = dataclasses.replace(manifest, samples=manifest.samples[::-1])
    inner, calls = ArrayEncoder.encode, []

    def stops(self, batch):
        calls.append(len(batch))
        if len(calls) == 3:
            raise RuntimeError("stopped")
        return inner(self, batch)

    monkeypatch.setattr(ArrayEncoder, "encode", stops)
    with pytest.raises(RuntimeError, match="stopped"):
        bench.extract(turned, *specs(manifest, "audio"))
    done = bench.extract(turned, *specs(manifest, "audio"))
    assert max(calls) <= 3
    assert (done.encoded, done.reused) in {(4, 6), (7, 3), (10, 0)}
    again = table(bench, done)
    np.testing.assert_array_equal(again.block("audio")[::-1], whole.block("audio"))
    for one, two in zip(list(again.tokens("audio"))[::-1], whole.tokens("audio"), strict=True):
        np.testing.assert_array_equal(one, two)


def test_broken_arrays_are_recorded_and_move_no_other_row(talks, bench, specs):
    reasons = {
        0: "has NaN or infinite values",
        1: "it has 4 columns, others have 5",
        2: "it has 5 rows for 4 words",
        3: "holds Python objects, which are never loaded",
        4: "the array is cut off: 10 bytes are missing",
        5: "no .npy file",
        6: "is of type <U1, expected numbers",
        7: "has the shape (1, 2, 3)",
    }
    array = talks.array(0)
    array[1, 2] = np.inf
    talks.put(0, array)
    talks.put(1, np.ones((3, 4)))
    talks.put(2, np.ones((5, 5)))
    (talks.folder / "audio" / "3.npy").unlink()
    np.save(talks.folder / "audio" / "3.npy", np.array([{}] * 5), allow_pickle=True)
    path = talks.folder / "audio" / "4.npy"
    path.write_bytes(path.read_bytes()[:-10])
    (talks.folder / "audio" / "5.npy").write_bytes(b"<html></html>")
    talks.put(6, np.array(["a"]))
    talks.put(7, np.ones((1, 2, 3)))
    (talks.folder / "audio" / "8.npy").unlink()
    manifest = talks.read()
    done = bench.extract(manifest, *specs(manifest, "audio"))
    recorded = {one["id"]: one["reason"] for one in bench.failures(done, "audio")}
    assert sorted(recorded) == [f"t{number}" for number in reasons]
    for number, reason in reasons.items():
        assert reason in recorded[f"t{number}"]
    assert done.view.blocks["audio"].state.tolist() == [FAILED] * 8 + [MISSING, 1]
    np.testing.assert_allclose(bench.vectors(done, "audio")[9], talks.array(9).mean(axis=0), atol=1e-6)


def test_a_piece_of_two_words_is_a_failure_and_not_a_shift(talks, bench, specs, bert: Path, tmp_path: Path):
    from transformers import BertTokenizerFast

    tokenizer, folder = BertTokenizerFast.from_pretrained(bert), tmp_path / "joins"
    tokenizer.add_tokens(["the sun"])
    tokenizer.save_pretrained(folder)
    config = json.loads((bert / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": len(tokenizer)}), encoding="utf-8")
    talks.rows[0]["words"] = ["the", "sun"]
    talks.rows[1]["words"] = ["sun", "the", "love"]
    manifest = talks.read()
    done = bench.extract(manifest, *specs(manifest, "audio", model=str(folder)))
    assert "t1" not in done.failed_ids
    reason = next(one["reason"] for one in bench.failures(done, "audio") if one["id"] == "t0")
    assert reason == "the piece 'the sun' of the text is not of one word, so that nothing can be aligned with it"


def test_words_of_pieces_survive_odd_words(bert: Path):
    pieces = WordPieces(str(bert), None)
    rows = [["days", "don't", "Ünï", "the.sun"], [], ["[SEP]", "sun"]]
    for words, found in zip(rows, pieces.of(rows), strict=True):
        assert isinstance(found, np.ndarray)
        assert found[0] == found[-1] == -1
        assert sorted(set(found[1:-1].tolist())) == list(range(len(words)))
        assert (np.diff(found[1:-1]) >= 0).all()
    assert pieces.of(rows)[0].tolist()[:4] == [-1, 0, 0, 1]
    (found,) = pieces.of([["\ud800", "sun"]])  # half a surrogate pair is no sign: BERT leaves it out
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [-1, 1, -1]


def test_sequences_and_vectors_without_words(talks, bench, specs):
    talks.put(0, np.arange(5, dtype=np.int64))
    talks.put(1, np.asfortranarray(np.arange(15.0).reshape(3, 5)))
    manifest = talks.read(audio="audio", text="")
    assert manifest.modalities == ("audio",)
    done = bench.extract(manifest, *specs(manifest))
    tokens = table(bench, done).tokens("audio")
    assert tokens[0].tolist() == [[0, 1, 2, 3, 4]]
    np.testing.assert_array_equal(tokens[1], np.arange(15.0).reshape(3, 5))
    np.testing.assert_array_equal(tokens[9], talks.array(9))
    np.testing.assert_allclose(bench.vectors(done, "audio")[9], talks.array(9).mean(axis=0), atol=1e-6)
    assert done.view.blocks["audio"].spec["aligned_to"] is None


def test_numbers_may_stand_in_the_row(talks, bench, specs):
    for number, row in enumerate(talks.rows):
        row["vision"] = talks.array(number, "vision").tolist() if number else None
    manifest = talks.read(vision="vision", words="words")
    assert isinstance(manifest.samples[1].inputs["vision"], Aligned)
    done = bench.extract(manifest, *specs(manifest))
    assert done.missing["vision"] == 1
    np.testing.assert_allclose(bench.vectors(done, "vision")[3], talks.array(3, "vision").mean(axis=0), atol=1e-6)


def test_equal_arrays_of_other_words_are_other_items(talks, bench, specs):
    talks.put(1, talks.array(2)[:3])
    talks.put(2, talks.array(2)[:3])
    talks.rows[2]["words"] = talks.rows[1]["words"][::-1]
    manifest = talks.read()
    done = bench.extract(manifest, *specs(manifest, "audio"))
    assert done.encoded == 10
    assert bench.extract(manifest, *specs(manifest, "audio")).encoded == 0
    talks.rows[2]["words"] = talks.rows[1]["words"]
    manifest = talks.read()
    same = bench.extract(manifest, *specs(manifest, "audio"))
    assert same.encoded == 0
    assert same.view.groups[1] == same.view.groups[2]


@pytest.fixture
def key(bert: Path) -> Callable[..., EncoderKey]:
    def made(**options: Any) -> EncoderKey:
        return ArrayEncoder(EncoderSpec("audio", "array", **{"width": 5, "aligned_to": str(bert), **options})).key

    return made


@pytest.mark.parametrize(
    "option", [{"width": 4}, {"aligned_to": None}, {"max_length": 8}, {"tokens": True}, {"dtype": "float16"}]
)
def test_what_changes_a_vector_changes_the_key(key, option: dict[str, Any]):
    assert key(**option).digest != key().digest
    assert key().digest == key(max_length=LONGEST).digest


def test_a_width_has_to_be_known():
    with pytest.raises(UsageError, match="nothing says how many columns they have"):
        ArrayEncoder(EncoderSpec("audio", "array"))


def test_arrays_of_which_none_can_be_read_are_named(talks):
    for number in range(10):
        (talks.folder / "audio" / f"{number}.npy").write_bytes(b"no")
    with pytest.raises(DataError, match=r"none of the 10 arrays of audio can be read \(.*no \.npy file.*--modalities"):
        found_in(talks.read())


def test_a_run_with_nothing_new_loads_no_tokenizer(talks, bench, specs, no_models: Callable[[], None]):
    manifest = talks.read()
    bench.extract(manifest, *specs(manifest))
    no_models()
    assert bench.extract(manifest, *specs(manifest)).encoded == 0


def test_what_was_stored_is_found_again_by_encoding(talks, bench, specs):
    manifest = talks.read()
    bench.extract(manifest, *specs(manifest))
    result = verify_by_encoding(bench.store, 4, device="cpu")
    assert (result["rows"], result["changed"], result["findings"]) == (12, 0, [])


def test_originals_show_texts_and_leave_numbers_out(talks, bench, specs):
    manifest = talks.read()
    done = bench.extract(manifest, *specs(manifest))
    shown = originals(done.view, ["t1"])
    assert shown.found["t1"].texts == {"text": " ".join(talks.rows[1]["words"])}
    assert shown.left_out == 0


def test_a_file_that_changes_meanwhile_is_no_other_rows_array(talks, bench, specs, monkeypatch: pytest.MonkeyPatch):
    manifest = talks.read()
    inner = ArrayEncoder.prepare

    def changes(self, contents):
        talks.put(3, np.ones((5, 5)))
        return inner(self, contents)

    monkeypatch.setattr(ArrayEncoder, "prepare", changes)
    done = bench.extract(manifest, *specs(manifest, "audio"))
    assert done.failed_ids == ["t3"]
    assert "changed while it was being encoded" in done.failures["audio"][0].reason
    monkeypatch.undo()
    assert bench.extract(manifest, *specs(manifest, "audio")).failed_ids == []
