"""Plots of the report as SVG text to stand inside a page; they follow its colours, dark or light.

Matplotlib never sees a name that a user chose: labels are drawn as placeholders and replaced in the SVG, escaped; so
no name is taken for mathematics and no font lacks its characters.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, ACCENT, SECOND = "#010203", "#010205", "#010207", "#010209", "#01020b"
COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
}
"""What a drawn colour becomes on the page."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "encode-once",
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 7,
    "ytick.major.pad": 7,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}
POINTS = 72
"""Units of an SVG by matplotlib to the inch; the page shows one unit as one pixel."""


@dataclass(frozen=True)
class Interval:
    """One line of a forest plot: a mean and its interval, which may be open.

    Args:
        label: what it is of, by anyone's words.
        mean: the dot.
        low: lower end, or None.
        high: upper end, or None.
        strong: drawn in the accent colour.
    """

    label: str
    mean: float
    low: float | None = None
    high: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """A vertical line of a forest plot."""

    label: str
    value: float


def forest(intervals: Sequence[Interval], lines: Sequence[Line], axis: str, name: str, narrow: bool = False) -> str:
    """Means and intervals one below the other, in the order given.

    Args:
        intervals: from top to bottom.
        lines: values to compare with.
        axis: title of the axis.
        name: of the plot, which no other plot of the page has.
        narrow: labels above their interval instead of beside it, for small screens.
    """
    drawing = _Drawing(name, "Intervals: " + axis)
    width, step = (350, 40) if narrow else (760, 28)
    height = step * len(intervals) + 48 + 20 * len(lines)
    with drawing.styled():
        figure = drawing.figure(width, height)
        left, top = (4 if narrow else 290), 20 * len(lines) + 4
        axes = drawing.axes(figure, (left, top, width - left - 14, step * len(intervals)))
        for place, one in enumerate(intervals):
            _interval(axes, one, place)
            text, at = drawing.name_of(one.label), (4.0 if narrow else left - 10.0)
            figure.text(
                at / width,
                1 - (top + step * (place + (0.26 if narrow else 0.5))) / height,
                text,
                ha="left" if narrow else "right",
                va="center",
                fontsize=12,
                fontweight="bold" if one.strong else "normal",
            )
        axes.set_ylim(len(intervals) - 0.5, -0.5)
        axes.set_yticks([])
        _vertical(axes, lines, drawing)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(drawing.name_of(axis), labelpad=6)
        if narrow:
            axes.locator_params(axis="x", nbins=5)
        return drawing.svg(figure)


def reliability(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], name: str) -> str:
    """Accuracy over confidence; the diagonal is what a calibrated head would show.

    Args:
        before: bins with `confidence`, `accuracy` and `share` of the head as it is.
        after: the same once calibrated; may be empty.
        name: of the plot, which no other plot of the page has.
    """
    drawing = _Drawing(name, "Reliability: accuracy over confidence")
    with drawing.styled():
        figure = drawing.figure(280, 256)
        axes = drawing.axes(figure, (48, 10, 222, 194))
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 4)), linewidth=1)
        for bins, colour, marker, said in ((before, SECOND, "o", "as it is"), (after, ACCENT, "s", "calibrated")):
            known = [(one.get("confidence"), one.get("accuracy"), one.get("share")) for one in bins]
            points = [(x, y, s) for x, y, s in known if _is_number(x) and _is_number(y) and s != 0]
            if points:
                xs, ys, shares = zip(*points, strict=True)
                sizes = [14 + 110 * (s if _is_number(s) else 0.1) for s in shares]
                axes.plot(xs, ys, color=colour, linestyle="-" if colour == ACCENT else (0, (5, 2)), label=said)
                axes.scatter(xs, ys, s=sizes, marker=marker, color=colour, linewidths=0, zorder=3)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        return drawing.svg(figure)


def learning(epochs: Sequence[Sequence[float | None]], name: str) -> str:
    """Loss over epochs, on the rows that train and on those held out.

    Args:
        epochs: of each, the training loss and the held-out loss or None.
        name: of the plot, which no other plot of the page has.
    """
    drawing = _Drawing(name, "Learning curve: loss over epochs")
    with drawing.styled():
        figure = drawing.figure(280, 256)
        axes = drawing.axes(figure, (52, 10, 218, 194))
        for column, colour, dashes in ((0, SECOND, (0, (5, 2))), (1, ACCENT, "-")):
            points = [(k, one[column]) for k, one in enumerate(epochs, 1) if len(one) > column]
            known = [(k, float(value)) for k, value in points if value is not None and _is_number(value)]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, linestyle=dashes)
                axes.plot(*known[-1], color=colour, marker="s" if column else "o", markersize=5)
        axes.locator_params(axis="x", integer=True, nbins=6)
        axes.locator_params(axis="y", nbins=6)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        return drawing.svg(figure)


def _interval(axes: Axes, one: Interval, place: int) -> None:
    colour = ACCENT if one.strong else INK
    low = one.mean if one.low is None else one.low
    high = one.mean if one.high is None else one.high
    at = place + (0.22 if axes.bbox.width < 400 else 0)
    axes.plot([low, high], [at, at], color=colour, linewidth=3 if one.strong else 2, solid_capstyle="round")
    axes.plot([one.mean], [at], color=colour, marker="D" if one.strong else "o", markersize=7 if one.strong else 6)


def _vertical(axes: Axes, lines: Sequence[Line], drawing: _Drawing) -> None:
    """Lines with their names above the plot, each on a line of its own so that no two overlap."""
    low, high = axes.get_xlim()
    for place, line in enumerate(lines):
        axes.axvline(line.value, color=SECOND, linewidth=1.4, linestyle="-" if place == 0 else (0, (2, 3)), zorder=0)
        left, right = axes.get_xlim()
        beyond = line.value > (min(low, left) + max(high, right)) / 2
        axes.annotate(
            drawing.name_of(line.label),
            (line.value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if beyond else 4, 8 + 20 * (len(lines) - 1 - place)),
            textcoords="offset points",
            ha="right" if beyond else "left",
            color=SECOND,
            fontsize=11,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


class _Drawing:
    """One figure: its placeholders, and how it becomes SVG for the page."""

    def __init__(self, name: str, described: str) -> None:
        self.name, self.described = name, described
        self.names: list[str] = []

    def styled(self) -> Any:
        import matplotlib

        return matplotlib.rc_context(STYLE)  # type: ignore[arg-type]

    def figure(self, width: float, height: float) -> Figure:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width / POINTS, height / POINTS), dpi=POINTS)
        FigureCanvasSVG(figure)
        return figure

    def axes(self, figure: Figure, box: tuple[float, float, float, float]) -> Axes:
        """Axes in a box of left, top, width, height in pixels."""
        width, height = figure.bbox.width, figure.bbox.height
        left, top, wide, high = box
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    def name_of(self, label: str) -> str:
        """The placeholder of a label."""
        self.names.append(label)
        return f"QQ{len(self.names) - 1}QQ"

    def svg(self, figure: Figure) -> str:
        """The figure without prolog and metadata, its ids under its own name, its colours those of the page."""
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        drawn = file.getvalue()
        drawn = drawn[drawn.index("<svg") :].strip()
        drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, flags=re.DOTALL)
        drawn = re.sub(r'\bid="', f'id="{self.name}-', drawn)
        drawn = re.sub(r"url\(#", f"url(#{self.name}-", drawn)
        drawn = re.sub(r'(?:xlink:)?href="#', f'href="#{self.name}-', drawn)
        drawn = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", drawn)
        drawn = re.sub(r"\s*\n\s*", "\n", drawn)
        for colour, variable in COLOURS.items():
            drawn = drawn.replace(colour, variable)
        wide = round(figure.bbox.width)
        head = f'<svg class="plot" style="max-width:{wide}px" role="img" aria-label="{html.escape(self.described)}"'
        box = f'viewBox="0 0 {wide} {round(figure.bbox.height)}"'
        drawn = re.sub(r"^<svg[^>]*>", f'{head} {box} xmlns="http://www.w3.org/2000/svg">', drawn)
        return re.sub(r"QQ(\d+)QQ", lambda found: html.escape(self.names[int(found[1])]), drawn)
