"""The house keeps its shape: who imports whom, how long commands are, what an import may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {"cache": {"cache"}, "extract": {"extract", "cache"}, "fuse": {"fuse", "cache"}}
CACHE_MAY_USE = {"cache", "numpy", "h5py"} | set(sys.stdlib_module_names)
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imports_of(path: Path) -> list[tuple[str, list[str]]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", [alias.name for alias in node.names]))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_flow(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module, _ in imports_of(path):
        root = module.split(".")[0]
        assert root not in {*MAY_IMPORT, "pipeline"} - MAY_IMPORT[package], f"{path} imports {module}"
        if package == "cache":
            optional = {"export.py": {"pyarrow"}, "remote.py": {"fsspec"}}.get(path.name, set())
            assert root in CACHE_MAY_USE | optional, f"{path} imports {module}"


@pytest.mark.parametrize("path", [*FILES, *ROOT.glob("*.py")], ids=lambda path: str(path.relative_to(ROOT)))
def test_other_packages_are_used_by_what_they_export(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for module, names in imports_of(path):
        root = module.split(".")[0]
        if root in MAY_IMPORT and root != own:
            exported = ast.literal_eval(
                next(
                    node.value
                    for node in ast.parse((ROOT / root / "__init__.py").read_text(encoding="utf-8")).body
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
                )
            )
            assert module == root, f"{path} reaches into {module}"
            assert set(names) <= set(exported), f"{path} imports {names} of {module}"


def test_commands_parse_call_and_print_in_twenty_lines() -> None:
    files = [ROOT / name for name in ("pipeline.py", "cache_commands.py")]
    commands = [
        node
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and any("command" in ast.unparse(one) for one in node.decorator_list)
    ]
    assert {node.name for node in commands} >= {"extract", "fuse", "predict", "cache_list", "demo"}
    for node in commands:
        body = node.body[1:]  # without the docstring, which is the help
        assert body[-1].end_lineno - body[0].lineno + 1 <= 20, node.name


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_command_line_loads_next_to_nothing() -> None:
    assert not loaded_by("import pipeline") & {"torch", "numpy", "h5py", "sklearn", "transformers", "cache", "tqdm"}


@pytest.mark.parametrize("package", ["cache", "fuse", "extract"])
def test_importing_a_package_does_not_load_torch(package: str) -> None:
    assert "torch" not in loaded_by(f"import {package}")


def test_the_libraries_do_not_print() -> None:
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call for call in calls if ast.unparse(call.func) in ("print", "click.echo")], path


def test_every_package_is_named_in_pyproject() -> None:
    named = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for path in FILES:
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert f'"{package}"' in named, f"{package} would be missing from an installation"
