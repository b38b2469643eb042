"""Measures how well b4 and the rules it is compared with pick right code by tests that may be wrong.

python -m eval.code_choice [--json OUT] [--plot OUT] [--seeds N] [--problems N]

The programs are real: made-up problems, right solutions and mutants of these that fail, tests that are right and tests
that are wrong, every one executed in the sandbox. A setting says how many candidates and tests are drawn, and how many
of each are right; a rule's score is the share of right ones among those it picks (pass@1 with ties averaged).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from aggregators.pass_matrix import PassMatrix, b4_choice, codet_choice, maxpass_choice, mbr_exec_choice
from eval.code_pools import CandidatePool, fill_pool
from eval.code_problems import problem
from eval.metrics import bootstrap_interval, paired_difference
from eval.perf.plot import new_figure
from router_service.dispatch.sandbox import Sandbox
from router_service.errors import ConfigError
from router_service.files import write_atomically

__all__ = ["RULES", "SETTINGS", "RuleScore", "Setting", "draw", "measure", "run_pools"]

Rule = Callable[[PassMatrix], tuple[int, ...]]

RULES: Mapping[str, Rule] = {
    "random": lambda matrix: tuple(range(len(matrix))),
    "mbr_exec": mbr_exec_choice,
    "maxpass": maxpass_choice,
    "codet": codet_choice,
    "b4": b4_choice,
    "b4 (beta0 1e6)": partial(b4_choice, beta0=1_000_000),
    "b4 (alpha, beta0 10)": partial(b4_choice, alpha=10, beta0=10),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How many candidates and tests are drawn, and how many of each are right; `alike` of the wrong candidates are one
    and the same, the mistake that everybody makes."""

    candidates: int
    right: int
    tests: int
    right_tests: int
    alike: int = 1

    @property
    def name(self) -> str:
        """The setting in short."""
        alike = f", {self.alike} wrong alike" if self.alike > 1 else ""
        return f"{self.right}/{self.candidates} right, {self.right_tests}/{self.tests} tests right{alike}"


SETTINGS = tuple(
    Setting(candidates=10, right=right, tests=10, right_tests=right_tests, alike=alike)
    for right, alike in ((1, 1), (2, 1), (2, 4), (4, 1), (4, 4))
    for right_tests in (2, 5, 8)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScore:
    """One rule in one setting: accuracy over problems, each the mean over seeds, its 95 % bootstrap interval, and by
    how much b4 is ahead of it, with the interval of that."""

    setting: str
    rule: str
    accuracy: float
    low: float
    high: float
    b4_ahead: float
    ahead_low: float
    ahead_high: float


def draw(pool: CandidatePool, setting: Setting, seed: int) -> tuple[list[list[bool]], list[bool]]:
    """A pass matrix out of the pool, and which of its rows are right.

    Right candidates are drawn with replacement, as several experts may write the same; wrong ones without, but for
    the one that comes `alike` times. Tests are drawn without replacement; where there are too few, all are taken.
    """
    drawn = random.Random(f"{pool.number} {setting.name} {seed}")
    right = [n for n, is_right in enumerate(pool.right_candidates) if is_right]
    wrong = drawn.sample(
        [n for n, is_right in enumerate(pool.right_candidates) if not is_right],
        setting.candidates - setting.right - setting.alike + 1,
    )
    rows = [*drawn.choices(right, k=setting.right), *wrong, *[wrong[0]] * (setting.alike - 1)]
    columns: list[int] = []
    for is_right, count in ((True, setting.right_tests), (False, setting.tests - setting.right_tests)):
        of_kind = [n for n, right_test in enumerate(pool.right_tests) if right_test is is_right]
        columns += drawn.sample(of_kind, min(count, len(of_kind)))
    return [[pool.passes[row][column] for column in columns] for row in rows], [pool.right_candidates[r] for r in rows]


def measure(pools: Sequence[CandidatePool], *, seeds: int, settings: Sequence[Setting] = SETTINGS) -> list[RuleScore]:
    """Every rule in every setting."""
    scores = []
    for setting in settings:
        grades: dict[str, list[float]] = {name: [] for name in RULES}
        for pool in pools:
            drawn = [draw(pool, setting, seed) for seed in range(seeds)]
            for name, rule in RULES.items():
                grades[name].append(fmean(_grade(rule(matrix), is_right) for matrix, is_right in drawn))
        scores += [_score(setting, name, grades) for name in RULES]
    return scores


def _grade(chosen: Sequence[int], is_right: Sequence[bool]) -> float:
    return fmean(is_right[position] for position in chosen)


def _score(setting: Setting, rule: str, grades: Mapping[str, Sequence[float]]) -> RuleScore:
    low, high = bootstrap_interval(grades[rule])
    ahead = paired_difference(grades["b4"], grades[rule])
    return RuleScore(
        setting=setting.name,
        rule=rule,
        accuracy=fmean(grades[rule]),
        low=low,
        high=high,
        b4_ahead=ahead.mean,
        ahead_low=ahead.low,
        ahead_high=ahead.high,
    )


async def run_pools(count: int, sandbox: Sandbox) -> list[CandidatePool]:
    """The pools of the first `count` problems that have enough wrong candidates and tests."""
    pools: list[CandidatePool] = []
    number = 0
    while len(pools) < count:
        pool = await fill_pool(problem(number), sandbox)
        pools += [pool] if pool is not None else []
        number += 1
    return pools


def _printed(scores: Sequence[RuleScore]) -> str:
    names = list(RULES)
    lines = ["| setting | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for setting in dict.fromkeys(score.setting for score in scores):
        row = {score.rule: score for score in scores if score.setting == setting}
        cells = [f"{100 * row[name].accuracy:.1f}{_mark(row[name])}" for name in names]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mark(score: RuleScore) -> str:
    """`-` where b4 is surely ahead of this rule, `+` where this rule is surely ahead of b4."""
    return "-" if score.ahead_low > 0 else "+" if score.ahead_high < 0 else ""


def _plot(scores: Sequence[RuleScore], path: Path) -> None:
    figure = new_figure(12, 5)
    axes = figure.subplots()
    settings = list(dict.fromkeys(score.setting for score in scores))
    for number, name in enumerate(RULES):
        row = [score for score in scores if score.rule == name]
        places = [place + (number - len(RULES) / 2) * 0.08 for place in range(len(settings))]
        spread = [[s.accuracy - s.low for s in row], [s.high - s.accuracy for s in row]]
        axes.errorbar(places, [s.accuracy for s in row], yerr=spread, fmt="o", markersize=4, label=name)
    axes.set_xticks(range(len(settings)), settings, rotation=40, ha="right", fontsize="x-small")
    axes.set(ylabel="right picks (ties averaged)", ylim=(0, 1))
    axes.grid(visible=True, axis="y", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 2 where there is no sandbox."""
    parser = argparse.ArgumentParser(description="How well b4, codet, maxpass and mbr_exec pick right code.")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    parser.add_argument("--plot", type=Path, help="draw them to this file (its ending names the format)")
    parser.add_argument("--seeds", type=int, default=20, help="draws of candidates and tests for each problem")
    parser.add_argument("--problems", type=int, default=24, help="made-up problems")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        pools = asyncio.run(run_pools(options.problems, Sandbox()))
    except ConfigError as missing:
        print(missing.message, file=sys.stderr)
        return 2
    runs = sum(len(pool.candidates) * len(pool.tests) for pool in pools)
    took_s = time.perf_counter() - started
    print(f"{len(pools)} problems, {runs} executions in {took_s:.0f} s; {options.seeds} draws each; per cent right\n")
    scores = measure(pools, seeds=options.seeds)
    print(_printed(scores))
    print("\n`-`: b4 is surely ahead of this rule; `+`: this rule is surely ahead of b4 (95 %, paired over problems)")
    if options.json is not None:
        summary = {"problems": len(pools), "seeds": options.seeds, "executions": runs}
        write_atomically(options.json, json.dumps({**summary, "scores": [asdict(s) for s in scores]}, indent=1) + "\n")
    if options.plot is not None:
        _plot(scores, options.plot)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
