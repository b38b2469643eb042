"""Aggregators that ask LLMs, live: `python -m eval.aggregators_live --json OUT [--aggregator NAME ...] [--out FOLDER]`.

The experts of the built-in pool `local` answer held-out questions of its task families through the engine; every
aggregator works on the same drafts, and its own calls are made for real. What experts said is kept in FOLDER, so that
an interrupted run goes on, and one more aggregator costs only its own calls.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import inspect
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregators.base import AGGREGATORS, CallingAggregator
from aggregators.choices import Choice
from eval.kept_calls import KeptCalls, keeping
from eval.live_panels import LivePanels
from eval.live_rows import VOTES, LiveRow, LiveTable
from eval.live_selection import select_live
from eval.progress import progress_bar
from experts_registry.artefact import Artefact
from experts_registry.local.tasks import TASKS, Split, generate
from experts_registry.pool import load_pool
from router_service.assembly import artefact_folder
from router_service.config import EngineConfig
from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.types import Question

__all__ = ["LiveSettings", "default_choices", "live_questions", "main", "measure"]

_POOL = "local"
_CALLS_FILE = "calls.jsonl"
_SELECTION_FILE = "aggregator.json"
_COLUMNS = (
    ("aggregator", 24), ("accuracy", 8), ("95 %", 13), ("calls", 5), ("disputed", 8), ("vs majority, same drafts", 24),
    ("vs majority, equal calls", 24), ("fell back", 9), ("model s", 7),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """What to run: `questions` over all families, `k` drafts of each `recruiter`; `writer` writes and judges wherever
    an aggregator takes an expert and none is named."""

    questions: int = 320
    k: int = 3
    recruiter: str = "calibrated"
    writer: str = "generalist"
    seed: int = 0
    choices: tuple[Choice, ...] = ()
    selection: Path | None = None
    """Where the selection among `choices` is written, made on fit questions; `selected` then runs by it. None: no."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print a line an aggregator, and write the report after each, so that what is finished can be read."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    given = _parser().parse_args(arguments)
    settings = LiveSettings(
        questions=given.questions,
        k=given.k,
        recruiter=given.recruiter,
        writer=given.writer,
        seed=given.seed,
        choices=tuple(Choice.parse(text) for text in given.aggregator or ()),
        selection=given.out / _SELECTION_FILE if given.select else None,
    )
    from router_service.backends.transformers import Transformers

    backend = keeping(Transformers(), given.out / _CALLS_FILE)
    asyncio.run(measure(settings, backend, given.json))


def _parser() -> argparse.ArgumentParser:
    usual = LiveSettings()
    parser = argparse.ArgumentParser(prog="python -m eval.aggregators_live", description="Aggregators with real LLMs.")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--out", type=Path, default=Path("runs/aggregators"), help="folder that keeps what was said")
    parser.add_argument("--questions", type=int, default=usual.questions, help="held-out questions over all families")
    parser.add_argument("--k", type=int, default=usual.k, help="drafts per question")
    parser.add_argument("--recruiter", default=usual.recruiter, help="who chooses the experts that draft")
    parser.add_argument("--writer", default=usual.writer, help="expert that writes or judges where none is named")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument(
        "--aggregator",
        action="append",
        help="NAME[:EXPERT][,OPTION=VALUE ...]; repeat it; all that ask LLMs where none is named",
    )
    parser.add_argument(
        "--select", action="store_true", help="choose among them on fit questions, and run `selected` by that as well"
    )
    return parser


async def measure(settings: LiveSettings, backend: KeptCalls, report: Path) -> list[LiveRow]:
    """The votes' rows, then one row for each aggregator; `report` is written anew after every row."""
    panels, folder = _panels(settings, backend)
    table = LiveTable(panels, recruiter=settings.recruiter, k=settings.k)
    choices = settings.choices or default_choices(settings.writer)
    if settings.selection is not None:
        with progress_bar("selecting") as on_progress:
            selection = await select_live(
                panels, choices, folder=folder, recruiter=settings.recruiter, k=settings.k, on_progress=on_progress
            )
        selection.save(settings.selection)
        _print(f"selected on fit: {selection.overall.chosen.name} ({selection.overall.reason})")
        choices = (*choices, Choice(aggregator="selected", options=(("path", str(settings.selection)),)))
    rows: list[LiveRow] = []
    try:
        _print(_line([name for name, _ in _COLUMNS]))
        for choice in dict.fromkeys((*VOTES, *choices)):
            with progress_bar(choice.name) as on_progress:
                row = await table.row(choice, on_progress=on_progress)
            rows.append(row)
            _print(_line(_cells(row)))
            _write(report, settings, rows, oracle=await table.oracle())
    finally:
        await backend.aclose()
    return rows


def default_choices(writer: str) -> tuple[Choice, ...]:
    """Every registered aggregator that may ask LLMs, with `writer` wherever an expert can be named."""
    choices = []
    for name in AGGREGATORS.names():
        made = AGGREGATORS.create(name)
        if name != "selected" and (isinstance(made, CallingAggregator) or not made.keeps_text):
            takes_expert = "expert" in inspect.signature(AGGREGATORS.factory(name)).parameters
            choices.append(Choice(aggregator=name, expert=writer if takes_expert else None))
    return tuple(choices)


def _panels(settings: LiveSettings, backend: KeptCalls) -> tuple[LivePanels, Path]:
    """The panels, and the folder of the artefact that they are recruited by."""
    config = EngineConfig(pool=_POOL, seed=settings.seed)
    folder = artefact_folder(config)
    if folder is None:
        raise ConfigError(f"pool {_POOL!r} has no artefact, so nobody can be recruited; install the package whole")
    panels = LivePanels(
        pool=load_pool(_POOL),
        artefact=Artefact.load(folder),
        questions=live_questions(settings.questions, "test"),
        backend=backend,
        config=config,
    )
    return panels, folder


def live_questions(many: int, split: Split) -> tuple[Question, ...]:
    """`many` questions of one split of the pool, as evenly over its task families as can be."""
    each, more = divmod(many, len(TASKS))
    counts = [each + (place < more) for place in range(len(TASKS))]
    return tuple(q for task, n in zip(TASKS, counts, strict=True) for q in generate(task, split, n=n))


def _write(path: Path, settings: LiveSettings, rows: Sequence[LiveRow], *, oracle: float) -> None:
    document: dict[str, Any] = {
        "made_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {os.environ.get('OMP_NUM_THREADS')} thread",
        "pool": _POOL,
        "questions": settings.questions,
        "recruiter": settings.recruiter,
        "k": settings.k,
        "seed": settings.seed,
        "oracle_of_drafts": oracle,
        "rows": [row.record() for row in rows],
    }
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _cells(row: LiveRow) -> list[str]:
    same, equal = row.vs_same_drafts["majority"], row.vs_equal["majority"]
    return [
        row.name,
        f"{row.accuracy:.3f}",
        f"{row.ci95[0]:.3f}-{row.ci95[1]:.3f}",
        f"{row.calls_per_query:.2f}",
        "" if row.accuracy_disputed is None else f"{row.accuracy_disputed:.3f}",
        f"{same.mean:+.3f} [{same.low:+.3f} {same.high:+.3f}]",
        f"{equal.mean:+.3f} [{equal.low:+.3f} {equal.high:+.3f}]",
        str(row.fallbacks),
        f"{row.model_s:.0f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)).rstrip()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
