"""All heads as a page, generated from the registry, and their short form for a terminal."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fuse.estimators import FusionHead
from fuse.head import Head
from fuse.registry import HEADS


def heads_lines() -> list[str]:
    """Two lines a head: what it is, and its formula."""
    width = max(map(len, HEADS))
    return [f"{name.ljust(width)}  {_short(head)}\n{' ' * width}  {head.formula}" for name, head in HEADS.items()]


def _short(head: Head) -> str:
    notes = [
        "classes only" if head.regressor is None else "",
        "reads tokens: extract --tokens" if head.reads_tokens else "",
        f"at most {head.any_class.most_modalities} modalities" if head.any_class.most_modalities else "",
    ]
    said = "; ".join(note for note in notes if note)
    return f"{head.summary} ({said})" if said else head.summary


def heads_content() -> dict[str, Any]:
    """What `fuse --head list --json` prints, by name."""
    return {
        name: {
            "summary": head.summary,
            "formula": head.formula,
            "source": head.source,
            "use": head.use,
            "missing": head.missing,
            "tasks": [task for task, kind in _classes(head).items()],
            "tokens": head.reads_tokens,
            "params": _params(head),
        }
        for name, head in HEADS.items()
    }


def heads_page(seconds: Mapping[str, float], measured: str) -> str:
    """The page of all heads in Markdown.

    Args:
        seconds: of one training, by head, as measured; a head that is not there has no figure.
        measured: how, in a sentence.
    """
    listed = [
        "| head | formula | seconds | tokens | regression |",
        "|---|---|---|---|---|",
        *(_row(head, seconds) for head in HEADS.values()),
    ]
    chapters = [line for head in HEADS.values() for line in _chapter(head, seconds)]
    shared = [line for kind in _bases() for line in _shared(kind)]
    return "\n".join(
        [
            "# All heads",
            "",
            "Generated from `fuse.HEADS` by `python benchmarks/heads_page.py`; do not edit.",
            "",
            "`z_m` and `x_m` are the vector of modality m, standardised by column on the training rows and divided by",
            "the root of its width; `[a; b]` is concatenation, `*` the product by element. In Python:",
            "`fuse.make_classifier(name, **params)`, `fuse.make_regressor(name, **params)`, or its classes.",
            "On the command line: `pipeline.py fuse --head NAME --set KEY=VALUE`.",
            "",
            measured,
            "",
            *listed,
            "",
            *chapters,
            "# Parameters that heads share",
            "",
            *shared,
        ]
    )


def _classes(head: Head) -> dict[str, type[FusionHead]]:
    found = {"classification": head.classifier, "regression": head.regressor}
    return {task: kind for task, kind in found.items() if kind is not None}


def _params(head: Head) -> dict[str, Any]:
    """Defaults of a head's own parameters, those that differ from what heads share, and what its name implies."""
    kind = head.any_class
    shared = {one.name: one.default for base in _bases() for one in fields(base) if one.name in base.__annotations__}
    defaults = kind().get_params(deep=False)
    own = {name: value for name, value in defaults.items() if name not in shared or value != shared[name]}
    return {**own, **head.params}


def _row(head: Head, seconds: Mapping[str, float]) -> str:
    cost = f"{seconds[head.name]:.1f}" if head.name in seconds else ""
    formula = head.formula.replace("|", "\\|")
    marks = ("yes" if head.reads_tokens else "", "yes" if head.regressor else "")
    return f"| [{head.name}](#{head.name}) | `{formula}` | {cost} | {marks[0]} | {marks[1]} |"


def _chapter(head: Head, seconds: Mapping[str, float]) -> list[str]:
    names = ", ".join(f"`{kind.__name__}`" for kind in _classes(head).values())
    params = ", ".join(f"`{name}={value!r}`" for name, value in _params(head).items()) or "none"
    most = head.any_class.most_modalities
    lines = [
        f"## {head.name}",
        "",
        f"{head.summary[0].upper()}{head.summary[1:]}.",
        "",
        f"- Formula: `{head.formula}`",
        f"- Source: {head.source}",
        f"- When: {head.use}",
        f"- Modalities: {f'at most {most}' if most else 'any number'}"
        + ("; token vectors (`extract --tokens`)" if head.reads_tokens else ""),
        f"- A modality that a row lacks: {head.missing}",
        f"- Classes: {names}",
        f"- Parameters of its own: {params}",
    ]
    if head.name in seconds:
        lines.append(f"- Cost: {seconds[head.name]:.1f} s")
    return [*lines, "", *_described(head.any_class), ""]


def _described(kind: type[FusionHead]) -> list[str]:
    """What the docstrings of a head and of its own bases say, parameters as a list."""
    shared = _bases()
    own = [one for one in reversed(kind.__mro__) if issubclass(one, FusionHead) and one not in shared]
    texts = [(inspect.getdoc(one) or "").partition("Args:")[2] for one in own if "__doc__" in vars(one)]
    return _parameters("\n".join(texts))


def _shared(kind: type[FusionHead]) -> list[str]:
    """One chapter of shared parameters."""
    about, _, args = (inspect.getdoc(kind) or "").partition("Args:")
    return [f"## {kind.__name__}", "", *about.strip().splitlines(), "", *_parameters(args), ""]


def _parameters(text: str) -> list[str]:
    """The `Args` of a docstring as a list; what is learned is left out."""
    text = text.partition("Learned:")[0]
    joined = re.sub(r"\n\s{6,}", " ", text)
    found = re.findall(r"^\s*([\w, ]+): (.+)$", joined, flags=re.MULTILINE)
    return [f"- `{name}`: {said}" for name, said in found if name != "Others"]


def _bases() -> tuple[type[FusionHead], ...]:
    """Classes whose parameters many heads share."""
    from fuse.estimators import FusionClassifier
    from fuse.gradient import GradientClassifier, GradientHead, GradientRegressor
    from fuse.tokens import TokenHead

    return FusionHead, FusionClassifier, GradientHead, GradientClassifier, GradientRegressor, TokenHead
