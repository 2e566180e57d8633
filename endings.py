"""How every command ends: its result, what failed and how to try it again; and what may go to a terminal.

Imports next to nothing, so that `--help` is instant.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from extract import Downloads

DOWNLOADS = "encode-once.downloads"
"""In click's context, where `read_data` leaves them for `finish`."""
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, colour, ring, hide or turn text around, and halves of characters, which no stream
takes. Line ends and tabs are not among them."""


def visible(text: str) -> str:
    r"""The text with such characters as `\u001b`, which is what JSON calls them, too.

    Ids, labels and names of files come from the data: on a terminal they must not do more than be read.
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@dataclass(frozen=True)
class Failures:
    """What a command could not do although it came to its end.

    Attributes:
        count: how many.
        what: of what, such as `samples`.
        shown: the first ones, each with its reason.
        lists: files that name all of them.
        retry: the whole command that tries them again, to be copied into a shell.
        before: what is to be done before; empty where nothing need be.
        code: the exit code.
    """

    count: int
    what: str
    shown: Sequence[str]
    lists: Sequence[Path]
    retry: str
    before: str = ""
    code: int = 3

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"count": self.count, "what": self.what, "lists": [str(one) for one in self.lists], "retry": self.retry}

    def lines(self) -> list[str]:
        """The same for people."""
        lists = f", listed in {', '.join(map(str, self.lists))}" if self.lists else ""
        before = f"; {self.before}" if self.before else ""
        what = self.what.removesuffix("s") if self.count == 1 else self.what
        return [
            *(f"failed: {one}" for one in self.shown),
            f"{self.count} {what} failed{lists}{before}; to try again:",
            f"  {self.retry}",
        ]


def typed_command() -> str:
    """The command for the record: the same words on every machine."""
    return shlex.join(["pipeline.py", *sys.argv[1:]])


def retry_command(*more: str, without: Iterable[str] = ()) -> str:
    """The command as it was typed, with the Python that runs it, to be copied into a shell.

    Args:
        more: options that are added unless the first of them was typed.
        without: flags that are left out.
    """
    typed = [word for word in sys.argv[1:] if word not in set(without)]
    if more and more[0] not in typed:
        end = typed.index("--") if "--" in typed else len(typed)  # what follows are no options
        typed[end:end] = more
    return shlex.join([*program(), *typed])


def program() -> list[str]:
    """What stands before the arguments, such as `.venv/bin/python pipeline.py`; the name where a program calls us."""
    words, arguments = sys.orig_argv, sys.argv[1:]
    before = len(words) - len(arguments)
    return words[:before] if words[before:] == arguments and before > 0 else ["pipeline.py"]


def say(line: str, err: bool = False) -> None:
    """Prints a line of the result. Raises StoreError where it cannot be written, such as into a file on a full disk."""
    try:
        click.echo(visible(line), err=err)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # click ends quietly
            raise
        from cache import StoreError

        raise StoreError(f"the result cannot be printed: {error.strerror or error}; what was done is kept") from error


def finish(as_json: bool, result: Mapping[str, Any], lines: Iterable[str], failures: Failures | None = None) -> None:
    """Prints for people on stdout, or with --json for people on stderr and one object on stdout.

    Downloads stand first. What failed comes last, stands in the object as `failures` (only where something did), and
    sets the exit code, as downloads that failed do.
    """
    context = click.get_current_context()
    downloads: Downloads | None = context.meta.get(DOWNLOADS)
    for line in (*(downloads.lines() if downloads else ()), *lines, *(failures.lines() if failures else ())):
        say(line, err=as_json)
    if as_json:
        told = dict(result)
        if downloads and downloads.asked:
            told["downloads"] = downloads.as_json()
        if failures:
            told["failures"] = failures.as_json()
        say(json.dumps(told, ensure_ascii=False))
    if failures or (downloads and downloads.failed):
        context.exit(failures.code if failures else 3)
