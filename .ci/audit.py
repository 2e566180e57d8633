"""Asks for known holes in the packages that are installed here. `make audit` runs it.

Exit code 0: there are none. 1: there are. 75: the service that knows them is out of reach, and nothing was audited; to
pip-audit alone a package that the service does not answer for is as good as a sound one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

ACCEPTED: dict[str, str] = {}
"""Holes that are left open, by their identifier, each with the reason why that is safe here."""
OUT_OF_REACH = 75
"""A failure that may pass, as sysexits.h has it."""


def main() -> int:
    """Prints what was found."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - words of our own
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"NOT AUDITED: the advisory service is out of reach ({reason[:300]})", file=sys.stderr)  # noqa: T201
        return OUT_OF_REACH
    code, lines = judged(packages)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


def judged(packages: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """The exit code and what is to be said of pip-audit's answer."""
    asked = [one for one in packages if "skip_reason" not in one]
    holes = [(one, hole) for one in asked for hole in one["vulns"] if hole["id"] not in ACCEPTED]
    lines = [
        f"{one['name']} {one['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version yet'}"
        for one, hole in holes
    ]
    unasked = [f"{one['name']} ({one['skip_reason']})" for one in packages if "skip_reason" in one]
    if holes:
        return 1, [*lines, f"{len(holes)} known holes in {len(asked)} packages; {len(unasked)} were not audited"]
    if not asked:
        return OUT_OF_REACH, [f"NOT AUDITED: the advisory service answered for none of {len(packages)} packages"]
    told = [f"no known hole in {len(asked)} packages"]
    return 0, [*told, *([f"not audited: {', '.join(unasked)}"] if unasked else [])]


if __name__ == "__main__":
    sys.exit(main())
