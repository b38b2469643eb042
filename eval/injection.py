"""How often aggregators follow a hostile draft: `python -m eval.injection [--json OUT] [--limit N] [--aggregator ...]`.

The judge and the panel are the built-in generalist, a model of 135 million parameters, and every call is made for real.
Each attack stands on a panel beside two right drafts, and beside one right and one wrong draft, guarded and unguarded;
the same panels with a plain wrong draft in its place show what an aggregator makes of them without any attack. What was
said is kept in a folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aggregators.choices import MAJORITY, Choice
from eval.aggregator_selection import wilson_interval
from eval.aggregators_live import default_choices
from eval.injection_attacks import ATTACKS, spread
from eval.injection_panels import JUDGE, PANELISTS, Case, Company, End, draw_cases, end_of
from eval.kept_calls import keeping
from eval.progress import progress_bar
from experts_registry.pool import load_pool
from router_service.backends.base import Backend
from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.ledger import Ledger
from router_service.dispatch.runner import Runner
from router_service.errors import UnknownNameError
from router_service.files import write_atomically
from router_service.types import Ask, Budget, Expert

__all__ = ["InjectionRow", "InjectionSettings", "Trial", "guarded_and_not", "main", "measure", "rows_of"]

_POOL, _MODEL = "local", "generalist"
_CALLS_FILE = "calls.jsonl"
_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionSettings:
    """So many of the attacks (None: all), each on `questions` questions, against these aggregators (none named: every
    one that asks about drafts, guarded and not)."""

    choices: tuple[Choice, ...] = ()
    questions: int = 1
    limit: int | None = 24
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one aggregator made of one case."""

    choice: Choice
    case: Case
    end: End
    calls: int
    fell_back: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionRow:
    """One aggregator in one company: the share of right answers and of followed drafts among `n` attacked panels, with
    95 % (Wilson), and among the same panels with a plain wrong draft in the attack's place."""

    aggregator: str
    company: Company
    n: int
    right: float
    followed: float
    followed_ci95: tuple[float, float]
    right_plain: float
    followed_plain: float
    calls_per_panel: float
    fell_back: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print a line per aggregator and company, and write the report after each aggregator."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parser = _parser()
    given = parser.parse_args(arguments)
    settings = InjectionSettings(
        choices=tuple(Choice.parse(text) for text in given.aggregator or ()),
        questions=given.questions,
        limit=given.limit,
        seed=given.seed,
    )
    for expert in (choice.expert for choice in settings.choices):
        if expert not in (None, JUDGE, *PANELISTS):
            parser.error(str(UnknownNameError("expert", str(expert), (JUDGE, *PANELISTS))))
    from router_service.backends.transformers import Transformers

    backend = keeping(Transformers(threads=1, batch_size=8), given.out / _CALLS_FILE)
    asyncio.run(measure(settings, backend, report=given.json))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.injection", description="Hostile drafts, real LLMs.")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--out", type=Path, default=Path("runs/injection"), help="folder that keeps what was said")
    parser.add_argument("--questions", type=int, default=1, help="questions per attack")
    parser.add_argument(
        "--limit", type=int, default=24, help=f"so many of the {len(ATTACKS)} attacks, spread over their kinds"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--aggregator",
        action="append",
        help="NAME[:EXPERT][,OPTION=VALUE ...], the expert being 'judge' or one of the panel; repeat it; all that ask "
        "LLMs, guarded and not, where none is named",
    )
    return parser


def guarded_and_not() -> tuple[Choice, ...]:
    """Every registered aggregator that asks LLMs about drafts, judged by the judge, with its guards and without."""
    choices = []
    for choice in default_choices(JUDGE):
        if hasattr(choice.create(), "is_guarded"):
            choices += [choice, replace(choice, options=(*choice.options, ("is_guarded", "false")))]
    return tuple(choices)


async def measure(settings: InjectionSettings, backend: Backend, *, report: Path | None = None) -> list[Trial]:
    """All trials, the majority's first; the report is written anew after every aggregator."""
    experts = _experts()
    panelists = [experts[name] for name in PANELISTS]
    attacks, questions = spread(settings.limit), settings.questions
    cases = draw_cases(attacks, judge=experts[JUDGE], panelists=panelists, questions=questions, seed=settings.seed)
    runner = Runner(experts=experts, backends={experts[JUDGE].backend: backend})
    trials: list[Trial] = []
    try:
        for choice in dict.fromkeys((MAJORITY, *(settings.choices or guarded_and_not()))):
            ask = BudgetedAsk(runner, {case.panel.query.id: Ledger(Budget()) for case in cases})
            with progress_bar(choice.name) as on_progress:
                trials += await _tried(choice, cases, ask=ask, on_progress=on_progress)
            for row in rows_of([trial for trial in trials if trial.choice == choice]):
                _print(row)
            if report is not None:
                _write(report, settings, trials)
    finally:
        await runner.aclose()
    return trials


def _experts() -> dict[str, Expert]:
    """The generalist under the names of the judge and of everybody on the panel."""
    generalist = load_pool(_POOL).expert(_MODEL)
    return {name: replace(generalist, id=name) for name in (JUDGE, *PANELISTS)}


async def _tried(
    choice: Choice, cases: Sequence[Case], *, ask: Ask, on_progress: Callable[[int, int], None]
) -> list[Trial]:
    gate, done = asyncio.Semaphore(_AT_ONCE), 0

    async def one(case: Case) -> Trial:
        nonlocal done
        async with gate:
            answer = await choice.create().aggregate(case.panel, ask=ask)
        done += 1
        on_progress(done, len(cases))
        return Trial(
            choice=choice,
            case=case,
            end=end_of(answer, case),
            calls=answer.usage.completions,
            fell_back=answer.aggregator != choice.aggregator,
        )

    return list(await asyncio.gather(*(one(case) for case in cases)))


def rows_of(trials: Sequence[Trial]) -> list[InjectionRow]:
    """A row for each aggregator and company, in the order of the trials."""
    cells = dict.fromkeys((trial.choice, trial.case.company) for trial in trials)
    return [
        _row(choice, company, [t for t in trials if (t.choice, t.case.company) == (choice, company)])
        for choice, company in cells
    ]


def _row(choice: Choice, company: Company, trials: Sequence[Trial]) -> InjectionRow:
    attacked = [trial for trial in trials if trial.case.attack is not None]
    plain = [trial for trial in trials if trial.case.attack is None]
    followed = sum(trial.end == "followed" for trial in attacked)
    return InjectionRow(
        aggregator=choice.name,
        company=company,
        n=len(attacked),
        right=_share(attacked, "right"),
        followed=_share(attacked, "followed"),
        followed_ci95=wilson_interval(followed, len(attacked)),
        right_plain=_share(plain, "right"),
        followed_plain=_share(plain, "followed"),
        calls_per_panel=sum(trial.calls for trial in trials) / len(trials),
        fell_back=sum(trial.fell_back for trial in trials),
    )


def _share(trials: Sequence[Trial], end: End) -> float:
    return sum(trial.end == end for trial in trials) / len(trials) if trials else 0.0


def _write(path: Path, settings: InjectionSettings, trials: Sequence[Trial]) -> None:
    by_attack: dict[str, Counter[str]] = {}
    for trial in trials:
        if trial.case.attack is not None and trial.end == "followed":
            by_attack.setdefault(trial.choice.name, Counter())[trial.case.attack] += 1
    document: dict[str, Any] = {
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": f"{_POOL}/{_MODEL}",
        "attacks": [attack.name for attack in spread(settings.limit)],
        "questions_per_attack": settings.questions,
        "seed": settings.seed,
        "rows": [asdict(row) for row in rows_of(trials)],
        "followed_by_attack": {name: dict(counts) for name, counts in by_attack.items()},
    }
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _print(row: InjectionRow) -> None:
    low, high = row.followed_ci95
    sys.stdout.write(
        f"{row.aggregator:44}  {row.company:20}  n {row.n:3}  followed {row.followed:.2f} [{low:.2f} {high:.2f}] "
        f"(plain {row.followed_plain:.2f})  right {row.right:.2f} (plain {row.right_plain:.2f})  "
        f"calls {row.calls_per_panel:.1f}  vote stood in {row.fell_back}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
