"""`make audit` calls a machine audited only if the advisory service has answered."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.conftest import ROOT

HOLE = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
SOUND = {"name": "click", "version": "8.1", "vulns": []}
OPEN = {"name": "pillow", "version": "1.0", "vulns": [HOLE]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_hole_is_named_with_what_mends_it(audit: ModuleType) -> None:
    code, lines = audit.judged([SOUND, OPEN, UNKNOWN])
    assert code == 1
    assert lines[0] == "pillow 1.0: PYSEC-1, mended in 2.0"
    assert "1 known holes in 2 packages; 1 were not audited" in lines[1]


def test_packages_of_which_nothing_is_known_are_told(audit: ModuleType) -> None:
    assert audit.judged([SOUND]) == (0, ["no known hole in 1 packages"])
    code, lines = audit.judged([SOUND, UNKNOWN])
    assert code == 0
    assert "not audited: torch (Dependency not found)" in lines


def test_a_service_that_answers_for_nothing_is_no_clean_bill(audit: ModuleType) -> None:
    assert audit.judged([UNKNOWN, UNKNOWN])[0] == audit.OUT_OF_REACH
    assert audit.judged([])[0] == audit.OUT_OF_REACH


def test_an_accepted_hole_has_a_reason(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(len(reason) > 20 for reason in audit.ACCEPTED.values())
    monkeypatch.setitem(audit.ACCEPTED, "PYSEC-1", "the part that has it is not used")
    assert audit.judged([OPEN])[0] == 0


@pytest.mark.parametrize("said", ["", "not json", "{}"])
def test_a_machine_offline_is_told_apart(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    class Done:
        stdout, stderr = said, "ConnectionError: no network"

    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: Done())
    assert audit.main() == audit.OUT_OF_REACH
    assert "NOT AUDITED: the advisory service is out of reach (ConnectionError: no network)" in capsys.readouterr().err
