"""Layouts of other packages, really installed: a module and its dist-info in a folder of sys.path."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import DataError, UsageError
from extract import LAYOUTS, originals, read_manifest

MODULE = """
    from extract import Layout, Sample, checked_manifest

    def recognise(path):
        return path.suffix == ".memes"

    def read(path, columns):
        lines = path.read_text().splitlines()
        samples = [Sample(str(n), {"text": line}, line=n) for n, line in enumerate(lines, 1)]
        return checked_manifest(path, "memes", samples, notes={"columns": dict(columns)})

    LAYOUT = Layout("memes", "a file of one meme a line (*.memes)", recognise, read)
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package into a folder of its own."""

    def call(package: str = "memes-reader", name: str = "memes", value: str = "LAYOUT", text: str = MODULE) -> None:
        site = tmp_path / f"site-{package}"
        module = package.replace("-", "_")
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[encode_once.layouts]\n{name} = {module}:{value}\n")
        (site / f"{module}.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, module, raising=False)  # of another test
        monkeypatch.syspath_prepend(str(site))

    return call


@pytest.fixture
def memes(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "all.memes"
    path.parent.mkdir()
    path.write_text("such a day\nmuch sun\n")
    return path


def test_an_installed_layout_is_recognised_named_and_read_again(install: Install, memes: Path, bench):
    with pytest.raises(DataError, match="is a file, which is no layout that is known"):
        read_manifest(memes)
    install()
    for layout in (None, "memes"):
        manifest = read_manifest(memes, layout)
        assert manifest.layout == "memes"
        assert [(one.id, one.inputs["text"]) for one in manifest.samples] == [("1", "such a day"), ("2", "much sun")]
    done = bench.extract(manifest, bench.text)
    assert originals(done.view, ["2"]).found["2"].texts == {"text": "much sun"}
    (memes.parent / "notes.md").touch()
    with pytest.raises(DataError, match=r"\n  memes: a file of one meme a line \(\*.memes\)"):
        read_manifest(memes.parent)
    with pytest.raises(UsageError, match=r"there is no layout 'meme'; choose one of mvsa, .*, folders, memes"):
        read_manifest(memes, "meme")
    assert "memes" not in LAYOUTS


BROKEN = {
    "import": ("raise RuntimeError('out of tune')", "LAYOUT", r"cannot be imported: RuntimeError: out of tune"),
    "lacking": ("", "LAYOUT", r"cannot be imported: AttributeError: .*LAYOUT"),
    "another thing": ("LAYOUT = {}", "LAYOUT", r"must be an extract.Layout of that name, found a dict"),
    "another name": (
        MODULE.replace('"memes", "a', '"jokes", "a'),
        "LAYOUT",
        r"must be .*found a Layout called 'jokes'",
    ),
    "recognise": (MODULE.replace('path.suffix == ".memes"', "1 / 0"), "LAYOUT", r"failed on .*: ZeroDivisionError"),
    "read": (MODULE.replace("lines = ", "lines = 1 / 0 + "), "LAYOUT", r"failed on .*all.memes: ZeroDivisionError"),
    "result": (
        MODULE.replace("return checked", "return 5; checked"),
        "LAYOUT",
        r"gave a int for .*, expected a Manifest",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_layout_is_named_and_only_where_it_is_needed(install: Install, memes: Path, kind: str):
    text, value, message = BROKEN[kind]
    install("bad-jokes", text=text, value=value)
    whole = rf"^the layout 'memes' of the package bad-jokes \(bad_jokes:LAYOUT\) {message}.*; tell its authors, or"
    with pytest.raises((UsageError, DataError), match=whole):
        read_manifest(memes)
    (memes.parent / "posts.csv").write_text("id,text\n1,a\n")
    assert read_manifest(memes.parent).layout == "table"
    assert read_manifest(memes.parent, "table").layout == "table"


def test_what_a_layout_says_itself_is_passed_on(install: Install, memes: Path):
    install(
        text=MODULE.replace(
            "lines = ", "from cache import DataError; raise DataError('no memes today')\n        lines = "
        )
    )
    with pytest.raises(DataError, match=r"^no memes today$"):
        read_manifest(memes)


@pytest.mark.parametrize(("name", "other"), [("table", "encode-once itself"), ("memes", "memes-reader")])
def test_a_name_that_is_taken_is_refused(install: Install, memes: Path, name: str, other: str):
    install()
    install("other-memes", name=name)
    with pytest.raises(UsageError, match=rf"the layout '{name}' of the package .* has the name of one of ") as caught:
        read_manifest(memes)
    assert "other-memes" in str(caught.value)
    assert other in str(caught.value)
    (memes.parent / "posts.csv").write_text("id,text\n1,a\n")
    assert read_manifest(memes.parent).layout == "table"
