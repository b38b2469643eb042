"""The bench of routing, `python -m eval.perf.routing --json OUT [--plot OUT.svg]`: how fast decisions are made.

Recruiting alone, one decision given its embedding, a cold decision beside its embedding, growth with the number of
experts, and what batches and remembered texts save; made-up data, always the same, and one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.perf.report import Aim, RoutingBench, RoutingReport

__all__ = ["THREADS", "main"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS")


def main(arguments: Sequence[str] | None = None, *, bench: RoutingBench | None = None) -> None:
    """Measure, write what was asked for, and print the aims; `bench` goes before what the arguments say of it."""
    for variable in THREADS:  # read when the libraries are first imported, so nothing here imports them earlier
        os.environ[variable] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    given = _parser().parse_args(arguments)
    from eval.perf.report import measure

    report = measure(bench or _bench(given), progress=lambda text: print(text, file=sys.stderr, flush=True))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    if given.plot is not None:
        from eval.perf.plot import plot_growth

        plot_growth(report.growth, given.plot)
    print(_summary(report))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.perf.routing", description="How fast decisions are made.")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="picture of the growth with the number of experts, such as x.svg")
    parser.add_argument("--recruiter", action="append", help="only this one; repeat it for several")
    parser.add_argument("--embedder", action="append", help="only this one; repeat it for several")
    parser.add_argument("--experts", type=int, action="append", help="pool size of the growth; repeat it for several")
    parser.add_argument("--repeats", type=int, help="repetitions that medians are taken over")
    return parser


def _bench(given: argparse.Namespace) -> RoutingBench:
    from eval.perf.report import RoutingBench

    usual = RoutingBench()
    return RoutingBench(
        recruiters=tuple(given.recruiter or usual.recruiters),
        embedders=tuple(given.embedder or usual.embedders),
        growth_experts=tuple(given.experts or usual.growth_experts),
        repeats=given.repeats or usual.repeats,
    )


def _summary(report: RoutingReport) -> str:
    """One line per aim: met, met but for other load on the machine (`by cpu`), or missed; then what was left out."""
    lines = [
        f"{_verdict(aim)} {aim.what:20} {aim.of:22} {aim.value:12,.2f} (cpu {aim.value_cpu:,.2f})  aim {aim.limit:,.2f}"
        for aim in report.aims
    ]
    left_out = [f"left out: {speed.recruiter}: {speed.skipped}" for speed in report.recruiters if speed.skipped]
    left_out += [f"left out: {cost.embedder}: {cost.skipped}" for cost in report.embedders if cost.skipped]
    return "\n".join(lines + left_out)


def _verdict(aim: Aim) -> str:
    return "met   " if aim.is_met else "by cpu" if aim.is_met_cpu else "MISSED"


if __name__ == "__main__":
    main()
