"""What docs/security.md promises: nothing that comes with data, models, stores or runs is run or leads elsewhere."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import (
    DataError,
    FeatureStore,
    ModelError,
    PipelineError,
    StoreDamaged,
    UsageError,
    canonical_json,
    load,
    read_view,
)
from cache.files import HEADER_BYTES, _packed
from extract import EncoderSpec, read_manifest
from extract.encoders import build_encoder
from extract.runtime import choose_runtime
from tests.conftest import ROOT, Result

Run = Callable[..., Result]
SOURCES = [*ROOT.glob("*.py"), *(path for name in ("cache", "extract", "fuse") for path in (ROOT / name).rglob("*.py"))]
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "tarfile.extractall", "shutil.unpack_archive"}
FORBIDDEN |= {"eval", "exec", "compile", "os.system", "os.popen", "joblib.load", "yaml.load", "__import__"}
FORBIDDEN |= {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output"}


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What must not exist in the end; that Evil works is shown at once."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "shown")))  # noqa: S301
    assert (tmp_path / "shown").is_dir()
    path = tmp_path / "owned"
    yield path
    assert not path.exists(), "a pickle from outside was executed"


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the product: where it stands, and the call."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {one.arg: ast.unparse(one.value) for one in call.keywords}


def test_nothing_is_loaded_that_could_be_executed() -> None:
    """`weights_only`, `allow_pickle`, and no other way by which bytes become code."""
    seen = set()
    for where, call in calls():
        name = ast.unparse(call.func)
        seen.add(name)
        last = name.split(".")[-1]
        assert name not in FORBIDDEN, f"{where} calls {name}"
        assert name.split(".")[0] not in FORBIDDEN, f"{where} calls {name}"
        if name == "torch.load" or last == "get_state_dict":
            assert keywords(call).get("weights_only") == "True", where
        if name in ("np.load", "np.lib.format.read_array"):
            assert keywords(call).get("allow_pickle") == "False", where
        assert keywords(call).get("shell", "False") == "False", where
        assert last not in ("extractall", "unpack_archive"), where
    assert {"torch.load", "np.load"} <= seen


def test_code_of_others_is_never_trusted() -> None:
    """Every reading of a model says so: without it transformers would ask on the terminal."""
    read = 0
    for where, call in calls():
        trust = keywords(call).get("trust_remote_code")
        assert trust in (None, "False"), where
        if ast.unparse(call.func).split(".")[-1] in ("from_pretrained", "from_config", "get_config_dict"):
            read += 1
            assert trust == "False" or keywords(call).get(None) == "source", where
    assert read >= 8
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert text.count("source: dict[str, Any] = {") == text.count('"trust_remote_code": False}'), path


@pytest.mark.parametrize("seed", [None, 0])
def test_a_model_folder_with_code_of_its_own_runs_none(
    bert: Path, tmp_path: Path, mark: Path, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    code = f"import os\nos.mkdir({str(mark)!r})\nclass C: pass\nM = T = C\n"
    for kind in ("bert", "unknown-kind", "decision_transformer"):
        folder = tmp_path / kind
        shutil.copytree(bert, folder)
        (folder / "evil.py").write_text(code)
        auto = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
        config = {**json.loads((folder / "config.json").read_text()), "auto_map": auto, "model_type": kind}
        (folder / "config.json").write_text(json.dumps(config))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": auto}))
        spec = EncoderSpec("text", str(folder), random_init=seed)
        if kind == "bert":  # whose code is transformers' own
            assert build_encoder(spec, choose_runtime("cpu")).key.fields["outputs"] == {"mean": 32, "cls": 32}
        else:
            with contextlib.suppress(ModelError):  # a kind that transformers knows may be built, by its own code
                build_encoder(spec, choose_runtime("cpu"))
        assert not mark.exists(), kind


def test_pickled_weights_of_a_text_model_are_not_executed(bert: Path, tmp_path: Path, mark: Path) -> None:
    import torch

    for name, legacy in (("new", False), ("old", True)):
        folder = tmp_path / name
        shutil.copytree(bert, folder)
        (folder / "model.safetensors").unlink()
        path = folder / "pytorch_model.bin"
        torch.save({"embeddings": Evil(mark)}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelError, match="cannot load the text model"):
            build_encoder(EncoderSpec("text", str(folder)), choose_runtime("cpu"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ModelError, match="cannot load the text model"):
        build_encoder(EncoderSpec("text", str(folder)), choose_runtime("cpu"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pickled_weights_of_an_image_model_are_not_executed(tmp_path: Path, mark: Path, suffix: str) -> None:
    import torch

    path = tmp_path / f"weights{suffix}"
    for legacy in (False, True):
        torch.save({"conv1.weight": Evil(mark)}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ModelError, match="cannot load the image weights"):
            build_encoder(EncoderSpec("image", "squeezenet1_1", weights=str(path)), choose_runtime("cpu"))


def npy(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def test_pickled_arrays_are_not_executed(tmp_path: Path, mark: Path) -> None:
    from extract.arrays import read_array
    from extract.decode import DecodeError

    with pytest.raises(DecodeError, match="Python objects, which are never loaded"):
        read_array(npy(np.array([Evil(mark)], dtype=object)))
    with pytest.raises(DecodeError):
        read_array(pickle.dumps(Evil(mark)))


def test_pickled_fits_and_heads_are_not_executed(tmp_path: Path, mark: Path) -> None:
    from cache import digest
    from fuse import load as load_head
    from fuse.ablation.fits import Fits

    content = io.BytesIO()
    np.savez(content, about=np.array([Evil(mark)], dtype=object))
    raw = content.getvalue()
    (tmp_path / "a.fit").write_bytes(digest(raw).encode() + raw)
    with pytest.raises((ValueError, PipelineError)):
        Fits(tmp_path).read("a")
    (tmp_path / "model.json").write_text(json.dumps({"schema": 1, "estimator": {}, "tensors": {}, "digest": ""}))
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(PipelineError, match="no readable model"):
        load_head(tmp_path)


@pytest.mark.slow
def test_pickles_in_the_checkpoint_of_a_stopped_tuning_are_not_executed(
    run: Run, posts: Path, bert: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Trainer

    options = ("--text-model", bert, "--modalities", "text", "--epochs", 2, "--out", "t")
    inner = Trainer._save_checkpoint

    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_checkpoint", stop)
        assert run("finetune", posts, *options).code == 1
    [checkpoint] = (posts.parent / "t").rglob("checkpoint-*")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        assert (checkpoint / name).exists(), name
        whole = (checkpoint / name).read_bytes()
        torch.save(Evil(mark), checkpoint / name)
        done = run("finetune", posts, *options)
        assert not mark.exists(), name
        if name == "training_args.bin":  # which nobody reads
            assert done.code == 0
        else:
            assert done.code == 1
            assert "Remove the folder, and the same command starts anew" in done.err, name
        if checkpoint.exists():
            (checkpoint / name).write_bytes(whole)


# Paths -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A folder `data`, and beside it a picture that is none of its files."""
    from PIL import Image

    (tmp_path / "data").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "away.png")
    Image.new("RGB", (9, 9), "blue").save(tmp_path / "data" / "own.png")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["../away.png", "link.png", "folder/away.png", "{away}/away.png", "./own/../../away.png"]
)
def test_files_outside_need_the_users_word(away: Path, name: str) -> None:
    (away / "data" / "link.png").symlink_to(away / "away.png")
    (away / "data" / "folder").symlink_to(away)
    name = name.format(away=away)
    (away / "data" / "posts.csv").write_text(f"id,image\n1,{name}\n2,own.png\n")
    with pytest.raises(DataError, match=r"line 2: the image .* lies outside .* or give --allow-outside"):
        read_manifest(away / "data")
    manifest = read_manifest(away / "data", allow_outside=True)
    assert manifest.samples[0].inputs["image"] == away / "data" / name
    assert "files outside of the data's folder were allowed" in manifest.notes["remarks"]


def test_links_in_the_place_of_a_post_s_own_files_count_as_outside(posts: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not yours")
    for name in ("3.txt", "5.jpg"):
        (posts / "data" / name).unlink()
        (posts / "data" / name).symlink_to(secret)
    with pytest.raises(DataError) as caught:
        read_manifest(posts)
    assert "has 2 bad rows" in str(caught.value)
    assert "train.txt line 5: 3.txt leads out of" in str(caught.value)
    assert read_manifest(posts, allow_outside=True).samples[3].inputs["text"] == "not yours"


def test_a_table_that_is_a_link_out_of_the_folder_is_not_taken_for_the_data(away: Path) -> None:
    (away / "other.csv").write_text("id,text\n1,a\n")
    (away / "data" / "posts.csv").symlink_to(away / "other.csv")
    with pytest.raises(DataError, match=r"posts\.csv in .* leads out of the folder; give the table itself"):
        read_manifest(away / "data")
    assert len(read_manifest(away / "data", allow_outside=True).samples) == 1
    assert len(read_manifest(away / "data" / "posts.csv").samples) == 1  # named by the user


def test_no_file_s_name_is_none_even_if_all_are_allowed(away: Path) -> None:
    rows = ['{"id": 1, "image": "a\\u0000b.png"}', '{"id": 2, "image": "a\\ud800.png"}']
    (away / "data" / "posts.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match="has 2 bad rows"):
        read_manifest(away / "data", allow_outside=True)


def test_the_store_remembers_how_the_data_was_read(run: Run, away: Path) -> None:
    from extract import originals

    (away / "data" / "posts.csv").write_bytes(
        "id,text,image,label\n1,schön,../away.png,a\n2,b,own.png,b\n".encode("cp1252")
    )
    options = ("--modalities", "image", "--image-model", "squeezenet1_1", "--random-init", "0")
    refused = run("extract", "data", *options)
    assert refused.code == 1
    assert "--encoding" in refused.err
    assert "--allow-outside" in run("extract", "data", *options, "--encoding", "cp1252").err
    done = run("extract", "data", *options, "--encoding", "cp1252", "--allow-outside", "--json")
    assert done.code == 0, done.err
    assert done.json["remarks"] == [
        "texts or tables were read 1 in cp1252",
        "files outside of the data's folder were allowed",
    ]
    view = read_view(FeatureStore(away / "features"), "data")
    assert (view.source["outside"], view.source["encoding"]) == (True, "cp1252")
    assert set(originals(view, ["1", "2"]).found) == {"1", "2"}
    assert run("cache", "verify", "--deep", "2").code == 0


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_plain_file_is_a_failed_sample_and_not_waited_for(away: Path, run: Run, kind: str) -> None:
    odd = away / "data" / "odd.png"
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](odd)
    (away / "data" / "posts.csv").write_text("id,image,label\n1,odd.png,a\n2,own.png,b\n")
    done = run("extract", "data", "--image-model", "squeezenet1_1", "--random-init", "0", "--allow-outside", "--json")
    assert done.code == 3
    assert "failed: 1 (image): cannot be read: no regular file" in done.err
    assert (done.json["encoded"], done.json["failed"]) == (1, 1)


# Stores and runs that someone sent -----------------------------------------------------------------------------------


def resealed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Writes a header anew, with all checksums right, as someone would who means harm."""
    raw = path.read_bytes()
    header = json.loads(raw[12 + 16 : HEADER_BYTES].rstrip(b"\0"))
    change(header)
    path.write_bytes(_packed(header) + raw[HEADER_BYTES:])


def resealed_view(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The same for what a view says of its data set; it grows at the end of the file."""
    raw = path.read_bytes()
    header = json.loads(raw[12 + 16 : HEADER_BYTES].rstrip(b"\0"))
    where = header["about"]
    about = json.loads(raw[where["offset"] : where["offset"] + where["shape"][0]])
    change(about)
    text = canonical_json(about)
    raw += text
    header["about"] = {"offset": len(raw) - len(text), "shape": [len(text)], "dtype": "|u1", "crc32": zlib.crc32(text)}
    header |= {"size": len(raw), "crc32": zlib.crc32(raw[HEADER_BYTES:])}
    path.write_bytes(_packed(header) + raw[HEADER_BYTES:])


EXTENTS = [{"dtype": "|O"}, {"dtype": "V9"}, {"dtype": [["a", "<f4"]]}, {"offset": -4096}, {"offset": 10**9}]
EXTENTS += [{"shape": [10**12, 32]}, {"shape": [-1, 32]}, {"shape": [1] * 9}, {"shape": "ab"}, {"offset": True}]


@pytest.mark.parametrize("change", EXTENTS, ids=str)
def test_arrays_of_a_segment_are_plain_numbers_within_it(extracted: Path, change: dict[str, Any]) -> None:
    """An array of objects mapped from a file would be pointers of someone's choice."""
    [path, *_] = (extracted / "features").glob("*/*.h5")

    def spoil(header: dict[str, Any]) -> None:
        name = next(name for name in header["extents"] if name != "items")
        header["extents"][name] |= change

    resealed(path, spoil)
    with pytest.raises(StoreDamaged, match="which cannot be; move the file out of the store"):
        load(extracted / "features").to_numpy()


@pytest.mark.parametrize("change", EXTENTS, ids=str)
def test_arrays_of_a_view_are_plain_numbers_within_it(extracted: Path, change: dict[str, Any]) -> None:
    path = extracted / "features" / "posts.view.h5"
    resealed_view(path, lambda about: about["blocks"][0]["arrays"]["items"].update(change))
    with pytest.raises(StoreDamaged, match="which cannot be; move the file out of the store"):
        _ = next(iter(read_view(FeatureStore(extracted / "features"), "posts").blocks.values())).items


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "../elsewhere"},
        {"encoder": "/etc"},
        {"encoder": 5},
        {"segments": [["../../elsewhere/x.h5", 1]]},
        {"segments": [["/etc/x.h5", 1]]},
        {"segments": 7},
        {"arrays": None},
        {"spec": "x"},
        {"dim": "x"},
    ],
    ids=str,
)
def test_a_view_names_nothing_outside_of_its_store(extracted: Path, change: dict[str, Any]) -> None:
    path = extracted / "features" / "posts.view.h5"
    resealed_view(path, lambda about: about["blocks"][0].update(change))
    with pytest.raises(StoreDamaged, match=r"posts\.view\.h5 is no view"):
        load(extracted / "features")


def test_texts_of_a_view_are_not_read_from_other_files(extracted: Path) -> None:
    import h5py

    path = extracted / "features" / "posts.view.h5"
    with h5py.File(extracted / "secret.h5", "w") as file:
        file["ids"] = ["secret"] * 44
    for change in ("link", "external"):
        raw = path.read_bytes()
        header = json.loads(raw[12 + 16 : HEADER_BYTES].rstrip(b"\0"))
        with h5py.File(path, "r+") as file:
            del file["ids"]
            if change == "link":
                file["ids"] = h5py.ExternalLink(str(extracted / "secret.h5"), "ids")
            else:
                outside = [(str(extracted / "posts" / "train.txt"), 0, 44)]
                file.create_dataset("ids", (44,), "S1", external=outside)
        body = path.read_bytes()[HEADER_BYTES:]
        header |= {"size": len(body) + HEADER_BYTES, "crc32": zlib.crc32(body)}
        path.write_bytes(_packed(header) + body)
        with pytest.raises(StoreDamaged, match="does not hold its ids itself"):
            _ = load(extracted / "features").ids
        path.write_bytes(raw)


@pytest.mark.parametrize(
    "source", [{"columns": [1]}, {"layout": ["table"]}, {"encoding": {}}, {"columns": {"text": 1}}]
)
def test_what_a_view_says_of_its_data_is_checked(extracted: Path, source: dict[str, Any]) -> None:
    from extract import originals

    path = extracted / "features" / "posts.view.h5"
    resealed_view(path, lambda about: about["source"].update(source))
    with pytest.raises(PipelineError, match="which is no way to read it"):
        originals(read_view(FeatureStore(extracted / "features"), "posts"), ["1"], str(extracted / "posts"))


@pytest.mark.parametrize(
    "change",
    [
        {"encoders": []},
        {"encoders": {"text": []}},
        {"encoders": {"text": {"encoder": "x", "output": "mean", "dim": 3, "spec": 5}}},
        {"encoders": {"text": {"encoder": "x", "output": "mean", "dim": 3, "spec": {"modality": "text", "model": 7}}}},
        {
            "encoders": {
                "v": {
                    "encoder": "x",
                    "output": "mean",
                    "dim": 3,
                    "spec": {"modality": "v", "model": "array", "width": 10**15},
                }
            }
        },
        {"settings": None},
        {"settings": {"columns": ["text"]}},
        {"settings": {"columns": {"text": 7}}},
    ],
    ids=str,
)
def test_a_run_that_someone_sent_is_checked(run: Run, extracted: Path, change: dict[str, Any]) -> None:
    assert run("fuse", "--head", "text", "--out", "r", "--folds", 2).code == 0
    path = extracted / "r" / "run.json"
    content = json.loads(path.read_text()) | change
    del content["crc32"]  # as an earlier version wrote it: who changes a file can change its checksum, too
    path.write_text(json.dumps(content))
    done = run("predict", "--run", "r", "posts")
    assert done.code == 1
    assert done.err.startswith("error: ")


@pytest.mark.parametrize("name", ["run.json", "model/model.json", "key.json", "failures.jsonl"])
def test_lists_within_lists_without_end_are_refused(run: Run, extracted: Path, name: str) -> None:
    of_run = name in ("run.json", "model/model.json")
    folder = extracted / "r" if of_run else next((extracted / "features").glob("*/key.json")).parent
    if of_run:
        assert run("fuse", "--head", "text", "--out", "r", "--folds", 2).code == 0
    (folder / name).write_text("[" * 100_000)
    done = run("predict", "--run", "r", "posts") if of_run else run("cache", "verify")
    assert done.code == 1
    assert "too deep to be read" in done.err + done.out


@pytest.mark.parametrize("path", ["../away", "../../away"])
def test_a_tuning_that_someone_sent_names_nothing_outside_of_its_folder(tmp_path: Path, path: str) -> None:
    from tuning import specs_in

    (tmp_path / "away").mkdir()
    (tmp_path / "runs" / "t" / "encoders").mkdir(parents=True)
    folder = tmp_path / "runs" / "t" if path.count("..") == 2 else tmp_path / "runs"
    with pytest.raises(UsageError, match="lies outside of its folder"):
        specs_in(folder, {"encoders": {"text": {"modality": "text", "model": path}}})
    for held in ({}, {"encoders": []}, {"encoders": {"text": 5}}, {"encoders": {"text": {"model": None}}}):
        with pytest.raises(UsageError):
            specs_in(folder, held)


# What is shown ------------------------------------------------------------------------------------------------------


def test_a_table_of_predictions_holds_ids_and_labels_as_they_are(tmp_path: Path) -> None:
    """A formula stays what the data says: ids have to be found again, and a number may begin with a minus."""
    import csv

    from fuse.report.files import write_predictions

    ids = ["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(1)", 'a"b,c', "line\nend", "\ttab", " "]
    labels = np.array(["=1+1"] * len(ids), dtype=object)
    write_predictions(tmp_path / "p.csv", np.array(ids, dtype=object), labels, np.full((len(ids), 1), 1.0), ["=1+1"])
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == ids
    assert {row[1] for row in rows[1:]} == {"=1+1"}


PAYLOADS = [
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "javascript:alert(1)",
    "'><svg onload=alert(1)>",
    "]]><!--",
    "{{ 7*7 }}",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_word_of_a_summary_is_text_on_the_page(payload: str) -> None:
    from html.parser import HTMLParser

    from markupsafe import escape

    from fuse.report.page import Shown, page
    from tests.fuse.summary_example import example

    summary = example(hostile=False)
    summary["rows"] = summary["rows"][:3]
    fixed = {"task", "primary", "schema", "test", "metric"}

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoil(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [spoil(one, key) for one in value]
        return value + payload if isinstance(value, str) and key not in fixed else value

    class Read(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []
            self.attributes: list[tuple[str, str | None]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.attributes += attrs

    told = spoil(summary)
    shown = {one["id"]: Shown({"text" + payload: payload * 50}, {}) for one in told["closer"]["mistakes"]}
    html = page(told, shown)
    read = Read()
    read.feed(html)
    assert html.count(escape(payload)) > 20
    assert read.tags.count("script") == 1
    assert read.tags.count("style") <= 1 + html.count("<svg")
    assert "img" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    links = [value for name, value in read.attributes if name in ("href", "src", "xlink:href", "action", "formaction")]
    assert links
    assert all(one is not None and one.startswith(("#", "data:")) for one in links)
