"""The bench of the scheduler, `python -m eval.perf.scheduler --json OUT [--plot OUT.svg]`: how near the best it plans.

Made-up waves on made-up time, the same ones every time: makespan over a proven lower bound, loads and makespan of a
server that takes works as they come, waits online against what the fairness rule allows, and growth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.perf._scheduler_report import SchedulerBench, SchedulerReport, measure
from eval.perf.plot import new_figure

__all__ = ["main", "plot_waves"]

_AIMS = (("makespan_over_bound_median", 1.10), ("makespan_over_bound_max", 1.25), ("wait_over_allowed_max", 1.0))


def main(arguments: Sequence[str] | None = None, *, bench: SchedulerBench | None = None) -> None:
    """Measure, write what was asked for, and print the aims; `bench` goes before what the arguments say of it."""
    parser = argparse.ArgumentParser(prog="python -m eval.perf.scheduler", description="How near the best we plan.")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="picture of makespan over bound per wave, such as x.svg")
    parser.add_argument("--traces", type=int, help="waves (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="other waves")
    parser.add_argument("--no-growth", action="store_true", help="leave the growth to 100,000 requests out")
    given = parser.parse_args(arguments)
    usual = SchedulerBench()
    asked = SchedulerBench(
        traces=given.traces or usual.traces, seed=given.seed, growth=() if given.no_growth else usual.growth
    )
    report = measure(bench or asked, progress=lambda text: print(text, file=sys.stderr, flush=True))
    figures = report.as_json()
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if given.plot is not None:
        plot_waves(report, given.plot)
    for name, aim in _AIMS:
        value = float(str(figures[name]))
        print(f"{'met   ' if value <= aim else 'MISSED'} {name:30} {value:.3f}  aim {aim}")


def plot_waves(report: SchedulerReport, path: Path) -> None:
    """Write makespan over bound, sorted, and the naive server's, to `path` (its ending names the format);
    `ConfigError` where matplotlib is not installed."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    waves = sorted(report.waves, key=lambda wave: wave.over_bound)
    axes.plot([wave.over_bound for wave in waves], label="scheduler")
    axes.plot([wave.fcfs_makespan_s / wave.bound_s for wave in waves], ".", label="first come, first served with LRU")
    for aim in (1.10, 1.25):
        axes.axhline(aim, linestyle=":", color="black", linewidth=1)
    axes.set(yscale="log", xlabel="waves, from the best", ylabel="makespan over the lower bound")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
