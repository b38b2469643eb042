"""The commands `aggregator select` and `aggregator show`: which aggregator pays for which questions, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_engine import with_engine
from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines, print_note, print_table
from router_service._cli_progress import progress_bar

if TYPE_CHECKING:
    from aggregators.choices import Choice
    from eval.aggregator_selection import AggregatorSelection, CellEvidence
    from experts_registry.artefact import Artefact
    from router_service.config import EngineConfig
    from router_service.engine import Engine

__all__ = ["SelectOptions", "ShowOptions", "select", "show"]

_CALLS_FILE = "aggregator.calls.jsonl"
"""What candidates were answered, beside the artefact, so that no call is paid for twice; it may be deleted."""

_PANEL_COLUMNS = (
    "panels", "aggregator", "accuracy", "low", "high", "own calls", "majority", "weighted", "p", "fell back", "short",
)  # fmt: skip
_SCREEN_COLUMNS = ("aggregator", "accuracy", "low", "high", "own calls", "fell back", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectOptions(EngineOptions):
    """Which aggregators to try; the artefact must be one made by `enlist profile`."""

    as_json: JsonOption = False

    candidate: Annotated[
        list[str] | None,
        typer.Option(help="NAME, NAME:EXPERT or NAME:EXPERT,OPTION=VALUE; repeat it.", show_default=False),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions:
    """Whose selection to show."""

    artefact: Annotated[Path, typer.Option(help="Folder written by `enlist profile`.", show_default=False)]
    as_json: JsonOption = False


def select(options: SelectOptions) -> None:
    """Try aggregators on recorded panels and let `selected` use what beats the vote at equal calls; run again, it
    pays for no call twice."""
    from experts_registry.artefact import Artefact
    from router_service.assembly import AGGREGATOR_SELECTION_FILE, asking_only
    from router_service.errors import ConfigError

    config = options.engine_config()
    folder = config.artefact  # never the one shipped with a pool: what is found out here is written there
    if folder is None:
        raise ConfigError(
            "aggregator select needs graded completions: --artefact DIR, made by `enlist profile --out DIR`"
        )
    artefact = Artefact.load(folder)
    candidates = _candidates(options, artefact)

    async def work(engine: Engine) -> AggregatorSelection:
        return await _selection(engine, artefact, candidates, config=config)

    selection = with_engine(asking_only(config), work)
    selection.save(folder / AGGREGATOR_SELECTION_FILE)
    _print_selection(selection, as_json=options.as_json)


def show(options: ShowOptions) -> None:
    """Print what was selected, and all evidence behind it."""
    from eval.aggregator_selection import AggregatorSelection
    from router_service.assembly import AGGREGATOR_SELECTION_FILE

    _print_selection(AggregatorSelection.load(options.artefact / AGGREGATOR_SELECTION_FILE), as_json=options.as_json)


async def _selection(
    engine: Engine, artefact: Artefact, candidates: tuple[Choice, ...], *, config: EngineConfig
) -> AggregatorSelection:
    from eval.aggregator_selection import SelectionJob, select_aggregator
    from eval.file_memo import FileMemo
    from eval.profiling_folder import recorded_completions
    from router_service.dispatch.ask import BudgetedAsk
    from router_service.dispatch.ledger import Ledger
    from router_service.types import Budget

    assert config.artefact is not None
    for choice in candidates:
        if choice.expert is not None:
            engine.pool.expert(choice.expert)  # a misspelt writer shows before any call is paid for
    memo = FileMemo(config.artefact / _CALLS_FILE)
    if memo.n_kept:
        print_note(f"{memo.n_kept} calls of earlier runs are kept in {config.artefact / _CALLS_FILE}")
    job = SelectionJob(
        pool=engine.pool,
        artefact=artefact,
        completions=recorded_completions(config.artefact, artefact.outcomes),
        candidates=candidates,
        config=config,
    )
    ledgers = {question.id: Ledger(Budget()) for question in artefact.questions}
    ask = BudgetedAsk(engine.runner.remembering(memo), ledgers)
    with progress_bar("trials") as on_progress:
        return await select_aggregator(job, ask=ask, progress=on_progress)


def _candidates(options: SelectOptions, artefact: Artefact) -> tuple[Choice, ...]:
    """As asked for; else `auto`, and synthesis by the expert that is best on the fit questions."""
    from aggregators.choices import Choice

    if options.candidate:
        return tuple(Choice.parse(text) for text in options.candidate)
    best = max(artefact.profiles.values(), key=lambda profile: profile.overall.rate())
    return Choice(aggregator="auto"), Choice(aggregator="synthesise", expert=best.expert_id)


def _print_selection(selection: AggregatorSelection, *, as_json: bool) -> None:
    if as_json:
        print_json(selection.document)
        return
    screened = [
        [one.choice.name, one.accuracy, *one.ci95, one.own_calls, one.fallbacks, "out" if one.screened_out else ""]
        for one in selection.screenings
    ]
    n = selection.screenings[0].n if selection.screenings else 0
    print_table(f"{n} panels of one right and two wrong completions", _SCREEN_COLUMNS, screened)
    title = (
        f"{selection.overall.n} panels as recruited by {selection.recruiter}, k = {selection.k}; votes at equal calls"
    )
    print_table(title, _PANEL_COLUMNS, [row for cell in selection.cells for row in _rows(cell)])
    for cell in selection.cells:
        print_lines(f"{_title(cell)}: {cell.chosen.name} ({cell.reason})")


def _rows(cell: CellEvidence) -> Iterator[list[object]]:
    for one in cell.candidates:
        chosen = "*" if one.choice == cell.chosen else ""
        yield [
            _title(cell), f"{one.choice.name}{chosen}", one.accuracy, *one.ci95, round(one.own_calls, 2),
            one.equal.get("majority"), one.equal.get("weighted"), f"{one.p_value:.2g}", one.fallbacks, one.n_short,
        ]  # fmt: skip


def _title(cell: CellEvidence) -> str:
    name = " ".join(part for part in (cell.category, cell.kind) if part) or "all"
    return f"{name} ({cell.n}, {cell.n_disputed} disputed)"
