"""Draw charts as SVG that take their colors from their page, so that they follow light and dark mode."""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["CHART_STYLE", "FAINT", "INK", "PAPER", "SERIES", "drawing", "line_chart", "scatter_chart", "themed_svg"]

# Matplotlib draws with these placeholders; each becomes a CSS variable of the page.
INK, FAINT, PAPER = "#010203", "#010204", "#010205"
SERIES = tuple(f"#0102{value:02x}" for value in range(0x10, 0x18))
_VARIABLES = {INK: "var(--ink-soft)", FAINT: "var(--rule)", PAPER: "var(--card)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(SERIES)
}

# A page must define this once for its charts.
CHART_STYLE = """
:root { --series-0: #2563eb; --series-1: #dc2626; --series-2: #d08700; --series-3: #16a34a;
        --series-4: #9333ea; --series-5: #0891b2; --series-6: #db2777; --series-7: #65a30d; }
@media (prefers-color-scheme: dark) {
:root { --series-0: #60a5fa; --series-1: #f87171; --series-2: #fbbf24; --series-3: #4ade80;
        --series-4: #c084fc; --series-5: #22d3ee; --series-6: #f472b6; --series-7: #a3e635; } }
.chart svg { width: 100%; height: auto; display: block; }
.chart text { font-family: inherit !important; }
"""

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def line_chart(
    series: Series,
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    bottom: float | None = None,
    top: float | None = None,
    size: tuple[float, float] = (9.5, 4.0),
) -> str:
    """Return an ``<svg>`` element with one line per series, for the body of an HTML page with CHART_STYLE.

    Args:
        series: name -> (x values, y values); a series of one value becomes a dot. Colors repeat after eight.
        x_label, y_label: what the axes show, with units. The x axis begins at 0.
        log: a logarithmic y axis.
        bottom, top: ends of the y axis; by default those of the values.
        size: width and height in inches; the page scales the chart to its column.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display
    from matplotlib.ticker import LogLocator, NullLocator

    with drawing(repr((sorted(series), x_label, y_label))):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for index, (name, (xs, ys)) in enumerate(series.items()):
            color = SERIES[index % len(SERIES)]
            marker = "o" if len(xs) < 12 else None
            axes.plot(xs, ys, color=color, linewidth=1.8, marker=marker, markersize=4, label=name)
        _dress(axes, x_label, y_label, len(series))
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=bottom, top=top)
        axes.set_xlim(left=0)
        return themed_svg(figure)


def scatter_chart(series: Series, *, x_label: str, y_label: str, size: tuple[float, float] = (9.5, 4.0)) -> str:
    """Return an ``<svg>`` element with the points of each series; arguments as for :func:`line_chart`."""
    from matplotlib.figure import Figure

    with drawing(repr((sorted(series), x_label, y_label))):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for index, (name, (xs, ys)) in enumerate(series.items()):
            axes.plot(xs, ys, "o", color=SERIES[index % len(SERIES)], markersize=5, label=name)
        _dress(axes, x_label, y_label, len(series))
        axes.margins(0.05)
        return themed_svg(figure)


@contextlib.contextmanager
def drawing(key: str) -> Iterator[None]:
    """Set Matplotlib's style for a figure that is made and turned into SVG inside.

    ``key`` makes the element ids: they differ between the drawings of a page, but not between runs.
    """
    import matplotlib

    salt = hashlib.sha256(key.encode()).hexdigest()[:8]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9}):  # text stays text
        yield


def themed_svg(figure) -> str:
    """Return a Matplotlib figure as an ``<svg>`` element; INK, FAINT, PAPER and SERIES become the page's colors."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg


def _dress(axes, x_label: str, y_label: str, count: int) -> None:
    """Style the axes: two thin spines, a faint horizontal grid, soft labels, a legend without a frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, which="both", length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.margins(x=0.02)
    if count > 1:
        # Above the axes, where no line is.
        axes.legend(
            frameon=False, labelcolor=INK, ncols=8, handlelength=1.4, loc="lower left", bbox_to_anchor=(-0.01, 1.0)
        )
