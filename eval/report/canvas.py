"""A pair of axes in the page's colours: markers with tooltips, lines, log scales where values are far apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.report.inline_svg import INK, LINE, MUTED, SURFACE, inline_svg
from router_service.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Canvas", "Drawing"]

_SIZE_IN = (5.2, 3.9)
"""Small, so that its letters stay readable when the page makes it as wide as a phone."""

_WIDE_RANGE = 6
"""An axis whose ends are further apart than this factor is logarithmic."""

_STEPS = tuple(step * 10.0**power for power in range(-6, 7) for step in (1, 2, 5))
_LONG_LABEL = 28

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure for the page: the svg element, its heading, the same in words for who cannot see it, and the key to the
    numbers in it."""

    svg: str
    heading: str
    description: str
    key: tuple[str, ...] = ()


class Canvas:
    """One figure in the making. `name` keeps its ids apart from those of other figures of a page."""

    def __init__(self, name: str, *, x: str, y: str) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError as missing:
            raise ConfigError('drawing a report needs matplotlib; run `pip install "enlist[eval]"`') from missing
        self.name = name
        self.tooltips: dict[str, str] = {}
        self.figure: Figure = Figure(figsize=_SIZE_IN, layout="constrained")
        self.axes: Axes = self.figure.subplots()
        self.axes.set_xlabel(x, color=INK, fontsize=9.5)
        self.axes.set_ylabel(y, color=INK, fontsize=9.5)
        self.axes.tick_params(colors=MUTED, labelsize=9, length=3)
        self.axes.grid(visible=True, color=LINE, linewidth=0.6)
        self.axes.set_axisbelow(True)
        for side, spine in self.axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(MUTED)

    def point(self, at: Point, tooltip: str, *, color: str, marker: str = "o", **style: Any) -> None:
        """A marker that tells what it is when it is pointed at."""
        gid = f"point{len(self.tooltips)}"
        self.tooltips[gid] = tooltip
        look = {"markersize": 5, "markeredgecolor": SURFACE, "markeredgewidth": 0.6, **style}
        self.axes.plot([at[0]], [at[1]], marker=marker, color=color, linestyle="none", gid=gid, **look)

    def line(self, points: Sequence[Point], *, color: str, **style: Any) -> None:
        """A line through points, in their order."""
        self.axes.plot([x for x, _ in points], [y for _, y in points], color=color, **style)

    def spread(self, at: Point, ends: Point, *, color: str) -> None:
        """An upright interval through a point."""
        self.axes.plot([at[0], at[0]], list(ends), color=color, linewidth=1, alpha=0.7)

    def number(self, at: Point, text: str, *, is_above: bool) -> None:
        """A number beside a point, for the key under the figure; neighbours above and below do not collide."""
        place, align = ((-4, 4), "right") if is_above else ((4, -12), "left")
        look: dict[str, Any] = {"color": INK, "fontsize": 9, "fontweight": "bold", "ha": align}
        self.axes.annotate(text, at, xytext=place, textcoords="offset points", **look)

    def level(self, y: float, label: str, **style: Any) -> None:
        """A level line across the whole width."""
        self.axes.axhline(y, linewidth=1.1, label=label, **style)

    def spread_x(self, values: Sequence[float], *, ticks: Sequence[float] = ()) -> None:
        """A logarithmic x axis where positive values are far apart; `ticks` are the ones to write out (else 1-2-5)."""
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        if values and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
            self.axes.set_xscale("log")
            self.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            self.axes.xaxis.set_minor_locator(NullLocator())
            ticks = [tick for tick in ticks or _STEPS if min(values) / 1.1 <= tick <= max(values) * 1.1]
        if ticks:
            self.axes.xaxis.set_major_locator(FixedLocator(list(ticks)))

    def drawn(self, heading: str, description: str, *, key: Sequence[str] = ()) -> Drawing:
        """The finished figure, its legend below the axes, where it covers nothing."""
        handles, labels = self.axes.get_legend_handles_labels()
        if handles:
            self.figure.legend(
                handles,
                labels,
                loc="outside lower left",
                ncols=1 if max(map(len, labels)) > _LONG_LABEL else 2,
                fontsize=8.5,
                frameon=False,
                labelcolor=INK,
                handletextpad=0.5,
            )
        svg = inline_svg(self.figure, name=self.name, title=f"{heading}. {description}", tooltips=self.tooltips)
        return Drawing(svg=svg, heading=heading, description=description, key=tuple(key))
