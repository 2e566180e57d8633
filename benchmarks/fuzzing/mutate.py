"""Damage to the bytes of a file, as disks, downloads and enemies do it."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

Damage = Callable[[bytearray, random.Random], bytearray]
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 13_377, 60_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Where sizes and offsets go wrong."""


def mutated(raw: bytes, chance: random.Random, most: int = 4) -> bytes:
    """The bytes after one to `most` kinds of damage."""
    found = bytearray(raw)
    for _ in range(chance.randint(1, most)):
        found = chance.choice(DAMAGES)(found, chance)
    return bytes(found)


def _part(raw: bytearray, chance: random.Random) -> slice:
    """A block, mostly small."""
    start = chance.randrange(len(raw) + 1)
    return slice(start, min(len(raw), start + int(chance.choice((1, 4, 16, 64, 512, 4096)) * (0.5 + chance.random()))))


def flip_bits(raw: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 1, 2, 8, 32)) if raw else 0):
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return raw


def change_bytes(raw: bytearray, chance: random.Random) -> bytearray:
    part = _part(raw, chance)
    raw[part] = chance.randbytes(len(raw[part]))
    return raw


def change_head(raw: bytearray, chance: random.Random) -> bytearray:
    """A number of the header: sizes, offsets, counts."""
    kind = chance.choice(("<H", ">H", "<I", ">I", "<B"))
    size = struct.calcsize(kind)
    place = chance.randrange(min(len(raw), chance.choice((32, 64, 256))) + 1)
    if place + size <= len(raw):
        struct.pack_into(kind, raw, place, chance.choice(NUMBERS) & (2 ** (8 * size) - 1))
    return raw


def cut(raw: bytearray, chance: random.Random) -> bytearray:
    return raw[: chance.randrange(len(raw) + 1)]


def cut_start(raw: bytearray, chance: random.Random) -> bytearray:
    return raw[chance.choice((1, 2, 4, chance.randrange(len(raw) + 1))) :]


def zero(raw: bytearray, chance: random.Random) -> bytearray:
    part = _part(raw, chance)
    raw[part] = bytes(len(raw[part]))
    return raw


def remove(raw: bytearray, chance: random.Random) -> bytearray:
    del raw[_part(raw, chance)]
    return raw


def repeat(raw: bytearray, chance: random.Random) -> bytearray:
    part = _part(raw, chance)
    return raw[: part.stop] + raw[part] * chance.choice((1, 1, 2, 100)) + raw[part.stop :]


def insert(raw: bytearray, chance: random.Random) -> bytearray:
    place = chance.randrange(len(raw) + 1)
    return raw[:place] + chance.randbytes(chance.choice((1, 3, 16, 200))) + raw[place:]


def join(raw: bytearray, chance: random.Random) -> bytearray:
    """Twice the file, or its end before its start."""
    place = chance.randrange(len(raw) + 1)
    return chance.choice((raw + raw, raw[place:] + raw[:place], raw + bytearray(1000)))


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    flip_bits,
    change_bytes,
    change_head,
    change_head,
    cut,
    cut_start,
    zero,
    remove,
    repeat,
    insert,
    join,
)


def with_right_checksums(png: bytes) -> bytes:
    """A PNG's chunks with checksums that fit what they hold now: else the damage goes no deeper than them."""
    found, at = bytearray(png), 8
    while at + 12 <= len(found):
        length = int.from_bytes(found[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(found):
            break
        struct.pack_into(">I", found, end, zlib.crc32(found[at + 4 : end]))
        at = end + 4
    return bytes(found)
