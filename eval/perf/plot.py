"""The growth of recruiting and of single decisions with the number of experts, as a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.perf.decisions import DecisionSpeed
from router_service.errors import ConfigError

__all__ = ["new_figure", "plot_growth"]

_PANELS = (
    ("recruit_per_cpu_s", "questions a second of one core's work, recruiting alone", 20_000.0),
    ("decision_p50_cpu_ms", "one decision from its embedding, median ms of one core", 1.0),
)
"""Field, title, and the aim (for 32 experts), drawn as a dotted line; what else runs on the machine does not show."""


def new_figure(width_in: float, height_in: float) -> Any:
    """An empty figure of matplotlib; `ConfigError` where that is not installed."""
    try:
        pyplot: Any = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f'the plot needs the package {missing.name!r}, which is not installed; run `pip install "enlist[eval]"`'
        ) from missing
    return pyplot.Figure(figsize=(width_in, height_in), layout="constrained")


def plot_growth(speeds: Sequence[DecisionSpeed], path: Path) -> None:
    """Write the picture to `path` (its ending names the format); `ConfigError` where matplotlib is not installed."""
    figure = new_figure(13, 6)
    names = list(dict.fromkeys(speed.recruiter for speed in speeds))
    for axes, (name, title, aim) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for number, recruiter in enumerate(names):
            points = [(s.experts, getattr(s, name)) for s in speeds if s.recruiter == recruiter and getattr(s, name)]
            if points:
                style = "-o" if number < 10 else "--s"  # ten colours, then again with another mark
                axes.plot(*zip(*points, strict=True), style, markersize=4, color=f"C{number % 10}", label=recruiter)
        axes.axhline(aim, linestyle=":", color="black", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="experts in the pool", title=title)
        sizes = sorted({speed.experts for speed in speeds})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
