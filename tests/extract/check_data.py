"""A table of posts with everything in it that a check should find."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">\u202e'


def photograph(seed, size=(120, 90)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_bad_posts(folder: Path, splits: bool = True) -> Path:
    """60 posts: p0 to p3 share one text, p4 and p5 one picture, p6 one that is nearly theirs; and much more."""
    draw = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    words = [f"word{number}" for number in range(400)]
    rows = []
    for number in range(60):
        name = f"pictures/{number}.jpg"
        photograph(number).save(folder / name, quality=90)
        label = "good" if number % 3 else "bad"
        rows.append(
            {
                "id": f"p{number}",
                "text": " ".join(draw.choice(words, 12)),
                "image": name,
                "label": label,
                "split": "train" if number % 4 else "test",
                "mark": {"good": "17", "bad": "4"}[label],
                "noise": str(draw.integers(0, 5)),
            }
        )
    for number in range(4):
        rows[number]["text"] = "the very same words in four posts"
    rows[9]["text"] = "The VERY same words, in four posts! https://t.co/x"
    first = photograph(100)
    first.save(folder / "pictures/4.jpg", quality=90)
    (folder / "pictures/5.jpg").write_bytes((folder / "pictures/4.jpg").read_bytes())
    first.resize((60, 45)).save(folder / "pictures/6.jpg", quality=60)
    rows[7]["image"] = "pictures/gone.jpg"
    (folder / "pictures/8.jpg").write_bytes((folder / "pictures/8.jpg").read_bytes()[:700])
    (folder / "pictures/10.jpg").write_bytes(b"<html></html>")
    Image.new("RGB", (200, 40), "red").save(folder / "pictures/11.jpg")
    Image.new("RGB", (70, 80), "blue").save(folder / "pictures/12.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph(13, (200, 100)).save(folder / "pictures/13.jpg", exif=turned)
    photograph(14).save(folder / "pictures/14.gif", save_all=True, append_images=[photograph(15)], duration=100, loop=0)
    rows[14]["image"] = "pictures/14.gif"
    rows[15]["text"] = ""
    rows[16]["label"] = ""
    rows[17]["text"] = f"{HOSTILE} and more"
    rows[18]["text"] = f"{HOSTILE} and more"
    rows[18]["id"] = HOSTILE
    if not splits:
        for row in rows:
            del row["split"]
    with (folder / "posts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_json_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path
