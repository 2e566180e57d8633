"""Contents that are nearly the same: pictures by a perceptual hash, texts by the pieces that they have in common.

Both look for pairs without comparing all with all, and gather them around leaders (Hartigan 1975, "Clustering
algorithms"): in the order of the data, each content joins the first leader that it is near to, or becomes one. So
every member of a group is near to the group's first, and no chain of small steps makes one group of what is not alike.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

DISTANCE, ALIKE = 7, 0.95
"""Pictures are near when at most so many of 128 bits differ, and small grey copies correlate at least so."""
SHARED, GRAM, LONGEST = 0.8, 3, 2000
"""Texts are near when they share so much of their runs of 3 characters (Jaccard), of the first 2000 characters."""
SIDE, SMALL = 9, 16
_BANDS = 8  # of 16 bits: two hashes that differ in 7 bits at most have one in common
NEXT = 2000
"""Hashes of a bucket that each is compared with; only thousands of pictures that are nearly all alike have more."""
MOST_PAIRS = 2_000_000
MOST_WORK = 200_000_000
"""Pairs of equal rare pieces that are counted among texts, in all: about 60 000 posts, and a minute or so."""
_AT_ONCE = 4_000_000
_COLUMNS = 2**22
_NAMES = re.compile(r"https?://\S+|www\.\S+|(?:\brt\s+)?@\w+")


@dataclass(frozen=True)
class Near:
    """Which of `n` contents are near to each other.

    Attributes:
        leader: `int64 (n,)`, the first content of the group that each is in, its own number if it is in none.
        pairs: how many pairs are near.
        checked: how many contents were compared with those before them.
        complete: whether no pair was left out for want of time.
    """

    leader: np.ndarray
    pairs: int
    checked: int
    complete: bool = True


def picture_hash(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """What a picture looks like from afar.

    The hash says of a grey copy of 9 x 9 pixels whether each gets brighter to the right, and whether it does
    downwards (Krawetz 2013, "Kind of like that"; both directions as in Hoyt's package dhash).

    Returns:
        The hash, `uint8 (16,)`, and a grey copy, `uint8 (256,)`.
    """
    grey = picture.convert("L")
    tiny = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.int16)
    right, down = tiny[:-1, :-1] < tiny[:-1, 1:], tiny[:-1, :-1] < tiny[1:, :-1]
    small = np.asarray(grey.resize((SMALL, SMALL), Image.Resampling.BOX), dtype=np.uint8)
    return np.packbits(np.concatenate([right.ravel(), down.ravel()])), small.ravel()


def near_pictures(hashes: np.ndarray, small: np.ndarray) -> Near:
    """Pictures of which at most 7 of 128 bits differ and whose grey copies correlate by 0.95 or more.

    Two such hashes share one of 8 bands of 16 bits at least, so that only those are compared (Norouzi, Punjani and
    Fleet 2012, "Fast search in Hamming space with multi-index hashing").

    Args:
        hashes: `uint8 (n, 16)` of different pictures that are not of one colour.
        small: `uint8 (n, 256)`, their grey copies.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    bands = np.ascontiguousarray(hashes).view(np.uint16)
    found: set[tuple[int, int]] = set()
    complete = True
    for number in range(_BANDS):
        order = np.argsort(bands[:, number], kind="stable")
        band = bands[order, number]
        place = np.arange(len(order))
        for step in range(1, len(order)):
            place = place[place + step < len(order)]
            place = place[band[place] == band[place + step]]
            if not len(place):
                break
            if step > NEXT or len(found) > MOST_PAIRS:
                complete = False
                break
            one, other = order[place], order[place + step]  # a stable order: the earlier one first
            close = np.bitwise_count(words[one] ^ words[other]).sum(axis=1) <= DISTANCE
            one, other = one[close], other[close]
            alike = _correlations(small[one], small[other]) >= ALIKE
            found.update(zip(one[alike].tolist(), other[alike].tolist(), strict=True))
    return _gathered(len(hashes), np.array(sorted(found), dtype=np.int64).reshape(-1, 2), len(hashes), complete)


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of rows with rows, `float64 (n,)`; NaN, which is near to nothing, where one is the same all over."""
    a, b = (part - part.mean(axis=1, keepdims=True) for part in (one.astype(np.float64), other.astype(np.float64)))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return found


def normalised(text: str) -> str:
    """A text without case, punctuation, links, @names and RT, one space between words; emoji stay."""
    plain = _NAMES.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(plain.translate(_signs()).split())


@cache
def _signs() -> dict[int, str]:
    """Punctuation, signs of arithmetic and money, and what cannot be seen; every other symbol may mean something."""
    left_out = {"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "Cc", "Cf"}
    return {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in left_out}


def near_texts(texts: Sequence[str]) -> Near:
    """Texts that share at least 0.8 of their runs of 3 characters (Jaccard), all pairs of them.

    Two such sets share a piece even among the rarest few of each, and only those are compared (Bayardo, Ma and
    Srikant 2007, "Scaling up all pairs similarity search").

    Args:
        texts: different ones, as `normalised` gives them; the first 2000 characters count.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    n = len(texts)
    if n < 2:
        return Near(np.arange(n), 0, n)
    pieces = HashingVectorizer(
        analyzer="char", ngram_range=(GRAM, GRAM), lowercase=False, norm=None, binary=True, n_features=_COLUMNS
    )
    pieces.set_params(alternate_sign=False, dtype=np.float32)
    sets = _rarest_first(pieces.transform(text[:LONGEST] for text in texts))
    sizes = np.diff(sets.indptr)
    prefix = _prefixes(sets, sizes)
    held = np.bincount(prefix.indices, minlength=1)
    work = np.bincount(np.repeat(np.arange(n), np.diff(prefix.indptr)), held[prefix.indices], minlength=n).cumsum()
    checked = int(np.searchsorted(work, MOST_WORK, side="right"))
    turned = prefix.T.tocsr()
    pairs, start = [np.zeros((0, 2), dtype=np.int64)], 0
    while start < checked:
        done = work[start - 1] if start else 0
        stop = min(max(start + 1, int(np.searchsorted(work, done + _AT_ONCE, side="right"))), checked)
        pairs.append(_shared(sets, sizes, prefix[start:stop] @ turned, start))
        start = stop
        if sum(map(len, pairs)) > MOST_PAIRS:
            checked = stop
    return _gathered(n, np.concatenate(pairs), checked, checked == n)


def _rarest_first(sets: Any) -> Any:
    """The same sets, of which only pieces that are in use have a column, those in the fewest sets first."""
    used, place, counts = np.unique(sets.indices, return_inverse=True, return_counts=True)
    rank = np.empty(len(used), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(used))
    sets = type(sets)((sets.data, rank[place], sets.indptr), shape=(sets.shape[0], max(1, len(used))))
    sets.sort_indices()
    return sets


def _prefixes(sets: Any, sizes: np.ndarray) -> Any:
    """Of each set so many of its rarest pieces that two near sets must share one."""
    keep = sizes - np.ceil(SHARED * sizes - 1e-9).astype(np.int64) + 1
    position = np.arange(len(sets.indices)) - np.repeat(sets.indptr[:-1], sizes)
    within = position < np.repeat(np.where(sizes > 0, keep, 0), sizes)
    starts = np.concatenate([[0], np.cumsum(np.where(sizes > 0, keep, 0))])
    return type(sets)((sets.data[within], sets.indices[within], starts), shape=sets.shape)


def _shared(sets: Any, sizes: np.ndarray, candidates: Any, start: int) -> np.ndarray:
    """Near pairs `(P, 2)` among candidates, whose row r is set `start + r`; the earlier one first."""
    candidates = candidates.tocoo()
    one, other = candidates.col.astype(np.int64), candidates.row.astype(np.int64) + start
    fits = (one < other) & (np.minimum(sizes[one], sizes[other]) >= SHARED * np.maximum(sizes[one], sizes[other]))
    one, other = one[fits], other[fits]
    near = np.zeros(len(one), dtype=bool)
    for at in range(0, len(one), 50_000):
        chunk = slice(at, at + 50_000)
        common = np.asarray(sets[one[chunk]].multiply(sets[other[chunk]]).sum(axis=1)).ravel()
        near[chunk] = common >= SHARED * (sizes[one[chunk]] + sizes[other[chunk]] - common) - 1e-6
    return np.stack([one[near], other[near]], axis=1)


def _gathered(n: int, pairs: np.ndarray, checked: int, complete: bool) -> Near:
    """Pairs `(P, 2)`, the earlier content first, as groups around leaders."""
    leader = list(range(n))
    placed: set[int] = set()
    for one, other in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if other not in placed and leader[one] == one:
            leader[other] = one
            placed.add(other)
    return Near(np.array(leader, dtype=np.int64), len(pairs), checked, complete)
