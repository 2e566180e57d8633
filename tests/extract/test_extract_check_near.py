"""Near contents: what the quick search finds is what comparing all with all finds."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from extract.check import near
from extract.check.near import near_pictures, near_texts, normalised, picture_hash
from extract.decode import decode_image


def pairs_of(n, close):
    return [(one, other) for other in range(n) for one in range(other) if close(one, other)]


def leaders(n, pairs):
    """The rule in its plainest words: each joins the first leader that it is near to, or becomes one."""
    near_to, found = set(pairs), []
    for other in range(n):
        found.append(next((one for one in range(other) if found[one] == one and (one, other) in near_to), other))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 12))
def test_pictures_are_found_as_by_comparing_all_with_all(seed, n, flips):
    draw = np.random.default_rng(seed)
    bits = draw.integers(0, 2, (3, 128))[draw.integers(0, 3, n)]
    for row in bits:
        places = draw.choice(128, draw.integers(0, flips + 1), replace=False)
        row[places] ^= 1
    hashes = np.packbits(bits.astype(np.uint8), axis=1)
    small = draw.integers(0, 256, (2, 256))[draw.integers(0, 2, n)].astype(np.uint8)
    alike = np.corrcoef(small.astype(float)) >= 0.95
    pairs = pairs_of(n, lambda a, b: (bits[a] != bits[b]).sum() <= 7 and alike[a, b])
    found = near_pictures(hashes, small)
    assert found.leader.tolist() == leaders(n, pairs)
    assert (found.pairs, found.checked, found.complete) == (len(pairs), n, True)


WORDS = ["rain", "sun", "snow", "wind", "cloud", "storm", "fog", "hail"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40))
def test_texts_are_found_as_by_comparing_all_with_all(seed, n):
    draw = np.random.default_rng(seed)
    base = [" ".join(draw.choice(WORDS, 12)) for _ in range(4)]
    texts = []
    for _ in range(n):
        words = base[draw.integers(4)].split()
        for place in draw.choice(12, draw.integers(0, 3), replace=False):
            words[place] = str(draw.choice([*WORDS, "x"]))
        texts.append(" ".join(words[: draw.integers(1, 13)]))
    texts = list(dict.fromkeys([*texts, "ab", "天气很好我们去公园散步吧", "天气很好我们去公园散步"]))
    sets = [{text[at : at + 3] for at in range(len(text) - 2)} for text in texts]

    def close(a, b):
        return bool(sets[a]) and bool(sets[b]) and len(sets[a] & sets[b]) >= 0.8 * len(sets[a] | sets[b]) - 1e-9

    pairs = pairs_of(len(texts), close)
    found = near_texts(texts)
    assert found.leader.tolist() == leaders(len(texts), pairs)
    assert (found.pairs, found.complete) == (len(pairs), True)
    assert pairs, "two of them are always near"


def test_small_steps_do_not_add_up():
    bits = np.zeros((30, 128), dtype=np.uint8)
    for row in range(1, 30):
        bits[row] = bits[row - 1]
        bits[row, row * 4 : row * 4 + 4] = 1
    small = np.tile(np.arange(256, dtype=np.uint8), (30, 1))
    found = near_pictures(np.packbits(bits, axis=1), small)
    apart = (bits != bits[found.leader]).sum(axis=1)
    assert apart.max() <= 7
    assert found.pairs == 29
    assert len(set(found.leader.tolist())) > 10


def test_what_was_not_compared_is_said(monkeypatch):
    monkeypatch.setattr(near, "NEXT", 3)
    hashes = np.zeros((20, 16), dtype=np.uint8)
    small = np.tile(np.arange(256, dtype=np.uint8), (20, 1))
    assert not near_pictures(hashes, small).complete
    monkeypatch.setattr(near, "MOST_WORK", 500)
    found = near_texts([f"the very same words again and again {number}" for number in range(60)])
    assert not found.complete
    assert 0 < found.checked < 60


def photograph(seed=0, size=(300, 200)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(picture, **options):
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return decode_image(file.getvalue())


def test_copies_of_a_picture_are_near_and_other_pictures_are_not():
    first = photograph()
    copies = [saved(first, quality=30), first.resize((150, 100)), first.resize((90, 60)), first.convert("L")]
    copies.append(Image.eval(first, lambda value: int(value * 0.8)))
    others = [photograph(seed) for seed in range(1, 30)]
    taken = [picture_hash(one.convert("RGB")) for one in [first, *copies, *others]]
    found = near_pictures(np.stack([hash_ for hash_, _ in taken]), np.stack([small for _, small in taken]))
    assert found.leader[:6].tolist() == [0] * 6
    assert found.leader[6:].tolist() == list(range(6, 35))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("RT @some_one: What a DAY!!! https://t.co/abc", "what a day"),
        ("what a day", "what a day"),
        ("  “What a day…” www.example.org", "what a day"),
        ("#happy :) 😀", "happy 😀"),
        ("@a @b http://x.y", ""),
        ("\uff21\uff22\uff23 caf\u0065\u0301", "abc café"),
        ("50 % of 3,000 $", "50 of 3 000"),
        ("今天\u3000天气\uff0c很好。", "今天 天气 很好"),
    ],
)
def test_texts_without_their_form(text, plain):
    assert normalised(text) == plain


def test_nothing_is_near_to_nothing():
    assert near_texts([]).leader.tolist() == []
    assert near_texts(["alone in here"]).leader.tolist() == [0]
    empty = near_pictures(np.zeros((0, 16), np.uint8), np.zeros((0, 256), np.uint8))
    assert (empty.leader.tolist(), empty.pairs) == ([], 0)
