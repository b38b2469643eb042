"""The command `eval replay`: strategies judged on recorded outcomes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_output import print_lines, print_note, print_table, require_writable
from router_service._cli_progress import progress_bar

if TYPE_CHECKING:
    from eval.datasets import Dataset
    from eval.replay import ReplayPlan

__all__ = ["ReplayOptions", "replay"]

_EVERY = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What to judge on what; each list option may be repeated, and every combination is judged."""

    data: Annotated[
        list[Path], typer.Option(help="Folder of recorded outcomes, or one that holds several.", show_default=False)
    ]
    pool: Annotated[list[str] | None, typer.Option(help="Named pool; every one where none is named, or `all` is.")] = (
        None
    )
    recruiter: Annotated[list[str] | None, typer.Option(help="Recruiter to judge; every one where none is named.")] = (
        None
    )
    aggregator: Annotated[list[str] | None, typer.Option(help="Aggregator; majority where none is named.")] = None
    k: Annotated[
        list[str] | None,
        typer.Option(help="Completions per question, or `free` for each recruiter's own; 3 where none is named."),
    ] = None
    split: Annotated[str, typer.Option(help="Split to judge.")] = "test"
    fit_on: Annotated[str, typer.Option(help="Splits to learn from, joined by +.")] = "fit"
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; accuracies are means over them.")] = 1
    seed: Annotated[int, typer.Option(help="The first seed of draws, and that of intervals.")] = 0
    shuffled_control: Annotated[
        bool, typer.Option("--shuffled-control", help="Judge each strategy also as fitted on shuffled grades.")
    ] = False
    embedder: Annotated[str, typer.Option(help="Embedder for skills and neighbours.")] = "minilm_onnx"
    resume: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps what is finished; what it has is not judged again.", show_default=False),
    ] = None
    json_out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the report as JSON there.")] = (
        None
    )


def replay(options: ReplayOptions) -> None:
    """Judge strategies on recorded answers of real models: fitted on fit, judged on test, no model called."""
    import asyncio

    from eval.replay_report import load_datasets, replay_report
    from eval.replay_tables import MARKS, report_tables

    datasets = load_datasets(options.data)
    plan = _plan(options, datasets)
    require_writable(options.json_out)
    with progress_bar("replay") as on_progress:
        report = asyncio.run(replay_report(datasets, plan, on_progress=on_progress))
    if options.json_out is not None:
        report.save(options.json_out)
    for table in report_tables(report):
        print_table(table.title, table.columns, table.rows)
    print_lines(MARKS)
    for remark in report.remarks:
        print_note(remark)


def _plan(options: ReplayOptions, datasets: list[Dataset]) -> ReplayPlan:
    """The options as a plan; what is wrong with them shows here, before anything runs."""
    from eval.replay_plan import ReplayPlan, parse_k
    from eval.replay_report import usable_embedder

    is_pool = any(_EVERY in dataset.pools for dataset in datasets)
    wants_every = _EVERY in (options.pool or ()) and not is_pool
    plan = ReplayPlan(
        pools=() if wants_every else tuple(options.pool or ()),
        recruiters=tuple(options.recruiter or ()),
        aggregators=tuple(options.aggregator or ("majority",)),
        ks=tuple(parse_k(k) for k in options.k or ("3",)),
        seed=options.seed,
        n_seeds=options.seeds,
        fit_on=tuple(part.strip() for part in options.fit_on.split("+") if part.strip()),
        split=options.split,
        has_shuffled_control=options.shuffled_control,
        results_dir=options.resume,
    )
    plan.require(datasets)
    plan.recruiter_names()
    embedder, warning = usable_embedder(options.embedder)
    if warning:
        print_note(f"warning: {warning}")
    return replace(plan, embedder=embedder)
