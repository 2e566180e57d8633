"""Kills extractions, compactions, collections and merges with -9 at random moments, and looks at what is left.

    python benchmarks/kills.py                     100 kills of each, results/kills.{json,md}
    python benchmarks/kills.py --kills 5 --json    a short loop that only prints what it found

Makes its own posts and tiny encoders. Every trial is a process of its own, forked from this one
once the imports are done; nothing of torch has run before the fork.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np

import extract.engine
import extract.runtime
from benchmarks.machine import Target, machine, target_lines, write_result
from cache import (
    Block,
    EncoderKey,
    FeatureStore,
    FeatureWriter,
    View,
    collect,
    compact_store,
    item_key,
    load,
    merge_stores,
    pack_items,
    placed,
    verify_store,
    write_view,
)
from extract import EncoderSpec, Settings, read_manifest
from extract.batching import Budget
from extract.encoders.image import ImageEncoder
from extract.encoders.text import TextEncoder

TEXTS, PICTURES, BATCH = 400, 60, 8
FAILING = 1
"""Pictures that are broken: progress counts them, the store does not."""
SAVE_EVERY = 0.05
"""Seconds between two segments; a tenth of the pipeline's own, for a run of one second instead of hours."""
MOST_LOST = 0.5
"""Seconds of work that a kill may cost here: what waits to be saved, what is being encoded and written."""
WORDS = ["the", "a", "my", "day", "great", "awful", "city", "street", "love", "hate", "home", "coffee", "rain", "sun"]


def make_posts(folder: Path) -> None:
    from PIL import Image

    (folder / "posts").mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = ["id,text,image,label"]
    for number in range(TEXTS):
        text = f"{number} " + " ".join(draw.choice(WORDS, 1 + number % 17))
        picture = f"{number}.png" if number < PICTURES else ""
        if picture:
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "posts" / picture)
        lines.append(f"{number},{text},{picture},{'ab'[number % 2]}")
    (folder / "posts" / "7.png").write_bytes(b"broken")  # its place in its batch must not move
    (folder / "posts" / "posts.csv").write_text("\n".join(lines) + "\n")


def make_model(folder: Path) -> None:
    """A BERT of 2 layers without weights: they come from a seed."""
    folder.mkdir()
    config = {"model_type": "bert", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    digits = [str(digit) for digit in range(10)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *digits, *(f"##{digit}" for digit in digits)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 64}')


def extraction(folder: Path, store: Path, tell: Callable[[Any], None]) -> None:
    """One run of stage one, as `pipeline.py extract` makes it, in batches of few items."""
    import torch

    torch.set_num_threads(1)
    extract.runtime.CPU_TEXT = Budget(cost=BATCH * 8, items=BATCH)
    extract.runtime.CPU_IMAGE = Budget(cost=BATCH, items=BATCH)
    extract.engine.SAVE_EVERY = SAVE_EVERY
    tell_what_is_encoded(tell)
    text = EncoderSpec("text", str(folder / "model"), random_init=1)
    image = EncoderSpec("image", "shufflenet_v2_x0_5", random_init=1)
    settings = Settings(store, "posts", (text, image), device="cpu")

    def progress(what: str, done: int, total: int) -> None:
        if what in ("text", "image"):
            tell({"shown": what, "done": done})

    found = extract.extract(read_manifest(folder / "posts"), settings, progress)
    tell({"encoded": found.encoded, "reused": found.reused})


def tell_what_is_encoded(tell: Callable[[Any], None]) -> None:
    """Lets every encoder tell how many items it has just encoded, and when."""
    for kind in (TextEncoder, ImageEncoder):

        def encode(self: Any, batch: Any, inner: Any = kind.encode) -> Any:
            vectors = inner(self, batch)
            tell({"items": len(batch), "at": time.monotonic()})
            return vectors

        kind.encode = encode  # type: ignore[method-assign]


def in_process(
    work: Callable[[Callable[[Any], None]], None], kill_after: float | None = None
) -> tuple[list[Any], float]:
    """Runs `work` in a forked process and returns what it told, and its seconds from the first word on.

    With `kill_after` it is killed so many seconds after its first word.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        failed = 1
        try:
            with os.fdopen(writer, "w") as out:

                def tell(said: Any) -> None:
                    out.write(json.dumps(said) + "\n")
                    out.flush()

                work(tell)
            failed = 0
        finally:  # what the parent goes on with is not for the child
            os._exit(failed)
    os.close(writer)
    with os.fdopen(reader) as told:
        lines = [told.readline()]
        started = time.perf_counter()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        lines += told.readlines()
    _, status = os.waitpid(child, 0)
    if kill_after is None and status:
        raise RuntimeError(f"a run that nobody killed ended with {status}")
    whole = [line for line in lines if line.endswith("\n")]
    return [json.loads(line) for line in whole], time.perf_counter() - started


def stored_items(store: Path) -> int:
    return sum(len(encoder.items()) for encoder in FeatureStore(store).encoders())


def extraction_trial(folder: Path, number: int, reference: np.ndarray, seconds: float) -> dict[str, Any]:
    """One kill and one resume."""
    store = folder / f"trial-{number}"
    told, _ = in_process(lambda tell: extraction(folder, store, tell), random.uniform(0, seconds))  # noqa: S311
    killed = time.monotonic()
    findings = verify_store(FeatureStore(store)).findings
    kept = stored_items(store)
    shown = {one["shown"]: one["done"] for one in told if "shown" in one}
    encoded = [(one["items"], one["at"]) for one in told if "items" in one]
    before = np.cumsum([items for items, _ in encoded])
    lost = [killed - moment for (_, moment), so_far in zip(encoded, before, strict=True) if so_far > kept]
    resumed, _ = in_process(lambda tell: extraction(folder, store, tell))
    result = {
        "readable": not findings,
        "kept": kept,
        "shown_but_lost": max(0, sum(shown.values()) - kept - FAILING),
        "lost_seconds": max(lost, default=0.0),
        "encoded_again": resumed[-1]["encoded"] + kept,
        "bit_equal": bool(np.array_equal(vectors(store), reference)),
    }
    shutil.rmtree(store)
    return result


def vectors(store: Path) -> np.ndarray:
    return load(store, "posts", check=True).to_numpy(missing=-7.0)


def kill_extractions(folder: Path, kills: int) -> dict[str, Any]:
    make_posts(folder)
    make_model(folder / "model")
    told, seconds = in_process(lambda tell: extraction(folder, folder / "whole", tell))
    reference, items = vectors(folder / "whole"), stored_items(folder / "whole")
    trials = [extraction_trial(folder, number, reference, seconds) for number in range(kills)]
    return {
        "kills": kills,
        "seconds_of_a_run": seconds,
        "items": items,
        "batches": sum("items" in one for one in told),
        "readable": sum(trial["readable"] for trial in trials),
        "bit_equal": sum(trial["bit_equal"] for trial in trials),
        "nothing_encoded_twice": sum(trial["encoded_again"] == items for trial in trials),
        "shown_but_lost": sum(trial["shown_but_lost"] for trial in trials),
        "most_lost_seconds": max(trial["lost_seconds"] for trial in trials),
        "kept_items": sorted(trial["kept"] for trial in trials),
    }


def make_scattered(root: Path, first: int, name: str) -> None:
    """A store of many segments: items that stand twice, and items that no data set reaches."""
    store = FeatureStore(root)
    key = EncoderKey({"modality": "text", "schema": 1, "outputs": {"mean": 64}, "dtype": "float32"})
    encoder = store.encoder(key.digest)
    encoder.create(key)
    writer = FeatureWriter(encoder, ["mean"], {})
    for start in range(first, first + 1200, 20):
        numbers = range(start, start + 25)
        writer.write([item_key(str(n)) for n in numbers], {"mean": np.stack([vector(n) for n in numbers])})
    numbers = range(first, first + 1200, 2)
    items = pack_items([item_key(str(n)) for n in numbers])
    arrays = {"items": items, "state": np.ones(len(items), dtype=np.uint8), "row": np.full(len(items), -1)}
    block = placed(encoder, Block("text", key.digest, "mean", 64, arrays))[0]
    texts = {column: np.array([f"{column}{n}" for n in numbers], dtype=object) for column in ("ids", "labels", "split")}
    write_view(store, View(name, {**texts, "groups": np.arange(len(items))}, {"text": block}, {"data": name}))


def vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(64).astype(np.float32)


def right(root: Path, first: int, name: str) -> bool:
    expected = np.stack([vector(n) for n in range(first, first + 1200, 2)])
    return np.array_equal(load(root, name, check=True).to_numpy(), expected)


def kill_upkeep(folder: Path, what: str, kills: int) -> dict[str, Any]:
    """Kills one kind of upkeep at random moments; each time looks, and then lets it finish."""
    make_scattered(folder / "one", 0, "posts")
    make_scattered(folder / "two", 600, "reviews")
    works: dict[str, Callable[[FeatureStore], object]] = {
        "compact": compact_store,
        "gc": collect,
        "merge": lambda store: merge_stores(store, FeatureStore(folder / "two")),
    }

    def work(tell: Callable[[Any], None], root: Path) -> None:
        tell("begin")
        works[what](FeatureStore(root))

    def trial(root: Path, kill_after: float | None) -> float:
        shutil.copytree(folder / "one", root)
        return in_process(lambda tell: work(tell, root), kill_after)[1]

    seconds = trial(folder / "whole", None)
    found = {
        "kills": kills,
        "seconds_of_a_run": seconds,
        "right_after_the_kill": 0,
        "right_in_the_end": 0,
        "cut_short": 0,
    }
    for number in range(kills):
        root = folder / f"trial-{number}"
        trial(root, random.uniform(0, seconds))  # noqa: S311
        found["right_after_the_kill"] += not verify_store(FeatureStore(root)).findings and right(root, 0, "posts")
        before = sorted(path.name for path in root.rglob("*"))
        in_process(lambda tell, root=root: work(tell, root))  # type: ignore[misc]
        found["cut_short"] += before != sorted(path.name for path in root.rglob("*"))
        good = not verify_store(FeatureStore(root)).findings and right(root, 0, "posts")
        found["right_in_the_end"] += good and (what != "merge" or right(root, 600, "reviews"))
        shutil.rmtree(root)
    return found


def targets(found: dict[str, Any]) -> list[Target]:
    one = found["extract"]
    kills, lost = one["kills"], one["most_lost_seconds"]
    rows: list[Target] = [
        ("killed extractions: readable", f"{kills}", f"{one['readable']}", one["readable"] == kills),
        ("resumed: bit-equal to the whole run", f"{kills}", f"{one['bit_equal']}", one["bit_equal"] == kills),
        (
            "resumed: encoded just what was not stored",
            f"{kills}",
            f"{one['nothing_encoded_twice']}",
            one["nothing_encoded_twice"] == kills,
        ),
        ("items lost that progress had shown", "0", f"{one['shown_but_lost']}", one["shown_but_lost"] == 0),
        ("seconds of work lost by a kill", f"<= {MOST_LOST}", f"{lost:.2f}", lost <= MOST_LOST),
    ]
    for what in ("compact", "gc", "merge"):
        two = found[what]
        good = min(two["right_after_the_kill"], two["right_in_the_end"])
        rows.append(
            (f"killed {what}: every vector right, at once and in the end", f"{kills}", f"{good}", good == kills)
        )
    return rows


@click.command()
@click.option("--kills", default=100, show_default=True, help="Of each kind.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found and write no results.")
def main(kills: int, seed: int, as_json: bool) -> None:
    """Kill, look and go on."""
    import transformers  # noqa: F401 - before the forks, so that none pays for it
    from torchvision import models  # noqa: F401

    random.seed(seed)
    with tempfile.TemporaryDirectory() as work:
        found: dict[str, Any] = {"extract": kill_extractions(Path(work) / "extract", kills)}
        for what in ("compact", "gc", "merge"):
            found[what] = kill_upkeep(Path(work) / what, what, kills)
    goals = targets(found)
    if as_json:
        click.echo(json.dumps({"targets": goals, **found}))
        return
    one = found["extract"]
    more = f"A run takes {one['seconds_of_a_run']:.1f} s for {one['items']} items in {one['batches']} batches; of them "
    more += f"{one['kept_items'][0]} to {one['kept_items'][-1]} were stored when it was killed."
    short = ", ".join(f"{what} {found[what]['cut_short']}" for what in ("compact", "gc", "merge"))
    lines = [*target_lines(goals), "", more, f"Kills that came before the work was done: {short}."]
    click.echo(write_result("kills", "Killed with -9", {"machine": machine(), "targets": goals, **found}, lines))


if __name__ == "__main__":
    main()
