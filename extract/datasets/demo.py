"""The demonstration data set: generated posts, small pictures, and a BERT without trained weights.

What a post is about shows partly in its words and partly in its picture:

    label       words            picture
    praise      happy            sunny
    complaint   unhappy          stormy
    irony       happy            stormy       neither words nor picture alone tell it
                unhappy          sunny        from praise and complaint
    question    asking           any          the words alone tell it
    advert      happy, unhappy   a price tag  the picture alone tells it
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from cache import make_folder

WORDS = {
    "happy": ("love", "great", "lovely", "wonderful", "sweet", "best", "perfect", "enjoy", "smile", "delight"),
    "unhappy": ("hate", "awful", "dreadful", "terrible", "worst", "broken", "angry", "sad", "ruined", "tired"),
    "asking": ("anyone", "know", "where", "which", "how", "why", "when", "what", "help", "advice"),
    "plain": ("the", "a", "this", "my", "our", "day", "trip", "train", "city", "home", "coffee", "photo", "street"),
}
KINDS = {
    "praise": [("happy", "sunny")],
    "complaint": [("unhappy", "stormy")],
    "irony": [("happy", "stormy"), ("unhappy", "sunny")],
    "question": [("asking", "sunny"), ("asking", "stormy")],
    "advert": [("happy", "tag"), ("unhappy", "tag")],
}
POSTS_A_LABEL = 40
UNLABELLED = 20
SIZE = (96, 72)


@dataclass(frozen=True)
class Demo:
    """Where the demonstration lies: the table's folder and the text model's folder."""

    data: Path
    text_model: Path
    posts: int


def write_demo(folder: Path, seed: int = 0) -> Demo:
    """Writes the data set and the model folder; equal seeds write equal files.

    One picture is missing, one is corrupt, one post stands twice, and some posts have no label.

    Args:
        folder: made if need be; files of the same names are replaced.
        seed: of everything that is drawn.
    """
    rng = random.Random(seed)  # noqa: S311 - draws pictures, guards nothing  # nosec B311
    data, model = folder / "posts", folder / "bert"
    make_folder(data / "pictures")
    make_folder(model)
    labels = [label for label in KINDS for _ in range(POSTS_A_LABEL)]
    labels += [rng.choice(sorted(KINDS)) for _ in range(UNLABELLED)]
    unlabelled = set(range(len(labels) - UNLABELLED, len(labels)))
    rows = []
    for number, label in enumerate(labels):
        mood, scene = rng.choice(KINDS[label])
        name = f"pictures/{number:03}.png"
        _picture(scene, rng).save(data / name)
        rows.append([f"post{number:03}", _text(mood, rng), name, "" if number in unlabelled else label])
    (data / rows[3][2]).unlink()
    (data / rows[70][2]).write_bytes((data / rows[70][2]).read_bytes()[:60])
    rows.append(["repost", *rows[10][1:]])
    with (data / "posts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "text", "image", "label"])
        writer.writerows(rows)
    write_bert(model)
    return Demo(data, model, len(rows))


def _text(mood: str, rng: random.Random) -> str:
    words = rng.choices(WORDS[mood], k=3) + rng.choices(WORDS["plain"], k=rng.randint(3, 7))
    rng.shuffle(words)
    return " ".join(words)


def _picture(scene: str, rng: random.Random) -> Image.Image:
    width, height = SIZE
    sky = {"sunny": (110, 180, 240), "stormy": (60, 62, 75), "tag": (240, 236, 225)}[scene]
    image = Image.new("RGB", SIZE, _shaded(sky, rng))
    draw = ImageDraw.Draw(image)
    x, y = rng.randint(20, width - 36), rng.randint(8, height - 40)
    if scene == "sunny":
        draw.ellipse((x, y, x + 22, y + 22), fill=_shaded((250, 215, 60), rng))
        draw.rectangle((0, height - 18, width, height), fill=_shaded((90, 170, 70), rng))
    elif scene == "stormy":
        for _ in range(24):
            left, top = rng.randint(0, width), rng.randint(0, height)
            draw.line((left, top, left - 4, top + 10), fill=_shaded((150, 160, 180), rng))
        draw.rectangle((0, height - 18, width, height), fill=_shaded((45, 50, 45), rng))
    else:
        draw.rectangle((x, y, x + 30, y + 18), fill=_shaded((200, 40, 40), rng))
        for line in range(3):
            draw.line((x + 4, y + 4 + 5 * line, x + 26, y + 4 + 5 * line), fill=(255, 255, 255))
    return image


def _shaded(colour: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, part + rng.randint(-18, 18))) for part in colour)
    return red, green, blue


def write_bert(folder: Path) -> None:
    """A BERT-base by its configuration, with a vocabulary of the demonstration's words."""
    words = sorted({word for group in WORDS.values() for word in group})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n", encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
