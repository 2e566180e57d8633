"""Runs cases in processes of their own, and notices those that raise, crash, hang or take too much memory."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Found = dict[str, Any]
"""What became of a case: `case`, `finding` if something is wrong, `peak_mb`, `seconds` of the processor (of the clock
there is a limit: what else the machine does says nothing of a case), and what the work tells."""
Work = Callable[[int], Found]


@dataclass
class _Child:
    """A process, and the cases that it still has to do."""

    cases: list[int]
    process: int
    told: bytes = b""
    begun: float = field(default_factory=time.monotonic)
    killed: str = ""

    def hear(self, told: bytes, found: dict[int, Found]) -> None:
        """Takes lines of JSON, one a case, in their order."""
        *lines, self.told = (self.told + told).split(b"\n")
        for line in lines:
            one = json.loads(line)
            found[one["case"]] = one
            self.cases.remove(one["case"])
            self.begun = time.monotonic()


def watched(work: Work, cases: Sequence[int], jobs: int, limit: float, memory_mb: int) -> list[Found]:
    """What became of each case, in the order of the cases.

    Args:
        work: is given the case; what it raises is a finding.
        cases: numbers, on which alone a case depends.
        jobs: processes at the same time.
        limit: seconds of the clock that a case may take; then its process is killed.
        memory_mb: that a process may ask for, beyond what it has at its start.
    """
    found: dict[int, Found] = {}
    children: dict[int, _Child] = {}
    for job in range(jobs):
        _start(work, list(cases[job::jobs]), memory_mb, children)
    while children:
        ready, _, _ = select.select(list(children), [], [], 0.2)
        for pipe in ready:
            child = children[pipe]
            told = os.read(pipe, 2**16)
            if told:
                child.hear(told, found)
            else:
                del children[pipe]
                os.close(pipe)
                _, status = os.waitpid(child.process, 0)
                if child.cases:
                    case = child.cases.pop(0)
                    found[case] = {"case": case, "finding": child.killed or f"its process died with status {status}"}
                    _start(work, child.cases, memory_mb, children)
        for child in children.values():
            if time.monotonic() - child.begun > limit and not child.killed:
                child.killed = f"no answer within {limit:g} s"
                os.kill(child.process, signal.SIGKILL)
    return [found[case] for case in cases]


def _start(work: Work, cases: list[int], memory_mb: int, children: dict[int, _Child]) -> None:
    if not cases:
        return
    pipe, tell = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(pipe)
            _live(work, cases, memory_mb, tell)
        finally:  # what the parent goes on with is not for the child
            os._exit(0)
    os.close(tell)
    children[pipe] = _Child(list(cases), process)


def _live(work: Work, cases: Sequence[int], memory_mb: int, tell: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)  # libtiff and others tell there what they think of a file
    most = _status("VmSize") * 1024 + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for case in cases:
        _forget_peak()
        before, started = _status("VmRSS"), time.process_time()
        try:
            one = work(case)
        except BaseException:  # whatever a case raises is what is looked for
            one = {"finding": traceback.format_exc()[-4000:]}
        one["seconds"] = time.process_time() - started
        one["peak_mb"] = max(0.0, (_status("VmHWM") - before) / 1024)
        os.write(tell, json.dumps({"case": case, **one}).encode() + b"\n")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    """Of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
