"""Curves and histograms as inline SVG: text stays text, colours are the page's own variables, same input = same bytes.

matplotlib measures with the font it ships, so that no installed font changes the bytes; the reader's own fonts draw.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hantune.data.counts import Class
from hantune.report.data import RunData

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (4.7, 2.75)
"""Inches; small enough that its text is readable where the page is as wide as a phone."""
MAX_POINTS = 400
"""More points than this cannot be told apart; runs of neighbours become their mean."""
SMOOTH_FROM = 30
"""With fewer steps the raw curve is clear enough."""
FEW_CLASSES = 9
"""Of more classes not every one has its text."""

INK, SOFT, LINE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Stand-ins that become CSS variables, so that one drawing suits light, dark and paper."""
VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line", FIRST: "--first", SECOND: "--second"}

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.unicode_minus": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "path.simplify": False,
}

Points = Sequence[tuple[float, float]]


def thinned(curve: Points, limit: int = MAX_POINTS) -> Points:
    """At most ``limit`` points: the means of equal runs of neighbours."""
    if len(curve) <= limit:
        return curve
    edges = [round(index * len(curve) / limit) for index in range(limit + 1)]
    runs = [curve[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def smoothed(curve: Points) -> Points:
    """The curve's moving mean, over a window that shrinks towards the steep start and is cut at the end."""
    reach = max(1, len(curve) // 20)
    mean: list[tuple[float, float]] = []
    for index, (step, _) in enumerate(curve):
        near = min(reach, index)
        window = curve[index - near : index + near + 1]
        mean.append((step, sum(value for _, value in window) / len(window)))
    return mean


def tick(value: float) -> str:
    """The shortest text of a tick: ``2.5``, ``0``, ``1.5e-4``."""
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.6g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def loss_chart(data: RunData) -> str:
    """SVG of training loss (raw and smoothed) and held-out loss over steps; empty when neither was recorded."""
    train = thinned(data.curve("step", "loss"))
    held_out = data.curve("eval", "loss")
    if len(train) < 2 and len(held_out) < 2:
        return ""

    def draw(axes: Axes) -> None:
        if len(train) >= SMOOTH_FROM:
            axes.plot(*zip(*train, strict=True), color=FIRST, linewidth=0.8, alpha=0.4)
            axes.plot(*zip(*smoothed(train), strict=True), color=FIRST, linewidth=1.7)
        elif train:
            axes.plot(*zip(*train, strict=True), color=FIRST, linewidth=1.7)
        if held_out:
            axes.plot(*zip(*held_out, strict=True), color=SECOND, linewidth=1.4, marker="o", markersize=3.5)

    return _svg(_over_steps(draw), "loss", "损失随步数的变化")


def rate_chart(data: RunData) -> str:
    """SVG of the learning rate over steps; empty when it was not recorded."""
    curve = thinned(data.curve("step", "learning_rate"))
    if len(curve) < 2:
        return ""

    def draw(axes: Axes) -> None:
        axes.plot(*zip(*curve, strict=True), color=FIRST, linewidth=1.7)
        axes.set_ylim(bottom=0)

    return _svg(_over_steps(draw), "rate", "学习率随步数的变化")


def histogram(classes: Sequence[Class], salt: str, title: str, limits: Sequence[int] = ()) -> str:
    """SVG of how many values lie in each class, with a line at each of ``limits``; empty where there are none."""
    if not classes:
        return ""
    lows = [each.low for each in classes]

    def draw(axes: Axes) -> None:
        axes.bar(range(len(classes)), [each.number for each in classes], width=0.86, color=FIRST)
        axes.set_xticks(*_class_ticks(classes))
        axes.margins(x=0.02)
        for limit in limits:
            if lows[0] < limit <= classes[-1].high:
                place = sum(low < limit for low in lows) - 0.5
                axes.axvline(place, color=SECOND, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.yaxis.set_major_locator(_integers(5))
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))

    return _svg(draw, salt, title, bottom=0.1)


def _class_ticks(classes: Sequence[Class]) -> tuple[list[float], list[str]]:
    """Where the axis of classes has its texts: below each of a few, else where powers of two begin."""
    if len(classes) <= FEW_CLASSES:
        return list(range(len(classes))), [str(c.low) if c.low == c.high else f"{c.low}-{c.high}" for c in classes]
    powers = [place for place, each in enumerate(classes) if each.low & (each.low - 1) == 0]
    powers = powers[:: 1 + len(powers) // FEW_CLASSES]
    return [place - 0.5 for place in powers], [str(classes[place].low) for place in powers]


def _short(value: float) -> str:
    """A count on an axis: ``800``, ``12 万``, ``1.5 万``."""
    return f"{value:,.0f}" if value < 10_000 else f"{value / 10_000:g} 万"


def _integers(count: int) -> Any:
    """Ticks at whole numbers, at most so many spaces between them."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=True)


def _over_steps(draw: Callable[[Axes], None]) -> Callable[[Axes], None]:
    """What ``draw`` draws, over an axis of steps."""

    def both(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        draw(axes)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(_integers(6))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(lambda value, _: tick(value))
        axes.set_xlabel("步数", labelpad=3)

    return both


def _svg(draw: Callable[[Axes], None], salt: str, title: str, bottom: float = 0.2) -> str:
    """What ``draw`` puts on a pair of axes that begin at ``bottom`` (0..1), as an ``<svg>`` for the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update({**SETTINGS, "svg.hashsalt": f"hantune-{salt}"})
        # The shipped font has no Chinese; it only measures, the reader's fonts draw.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes((0.1, bottom, 0.88, 0.96 - bottom))
        draw(axes)
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _for_page(buffer.getvalue().decode(), title)


def _for_page(svg: str, title: str) -> str:
    """A drawing without file header, own style, fixed size, names or fonts: the page provides all of them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font: ([\d.]+)px 'DejaVu Sans'", r"font-size: \1px", svg).replace("font-family: 'DejaVu Sans'; ", "")
    head = rf'<svg class="chart" viewBox="\1" role="img" aria-label="{title}">'
    svg = re.sub(r'^<svg [^>]*viewBox="([^"]+)"[^>]*>', head, svg)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return re.sub(r"\n\s*", "\n", svg).strip()
