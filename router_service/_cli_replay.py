"""The command `eval replay`: strategies judged on recorded outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_output import print_note, print_table
from router_service._cli_progress import progress_bar

if TYPE_CHECKING:
    from eval.replay import ReplayResult

__all__ = ["ReplayOptions", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What to judge on what; each list option may be repeated, and every combination is judged."""

    data: Annotated[Path, typer.Option(help="Folder of recorded outcomes.", show_default=False)]
    pool: Annotated[list[str] | None, typer.Option(help="Named pool of the dataset.", show_default=False)] = None
    recruiter: Annotated[list[str] | None, typer.Option(help="Recruiter to judge.", show_default=False)] = None
    aggregator: Annotated[list[str] | None, typer.Option(help="Aggregator; majority where none is named.")] = None
    k: Annotated[list[int] | None, typer.Option(min=1, help="Completions per question; 3 where none is named.")] = None
    embedder: Annotated[str, typer.Option(help="Embedder for skills and neighbours.")] = "minilm_onnx"
    seed: Annotated[int, typer.Option(help="Seed of draws and intervals.")] = 0
    json_out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the rows as JSON there.")] = None


def replay(options: ReplayOptions) -> None:
    """Judge strategies on recorded answers of real models: fitted on fit, judged on test, no model called."""
    import asyncio

    from eval.datasets import load_dataset
    from eval.replay import ReplayPlan, remarks, usable_embedder
    from eval.replay import replay as run_replay
    from router_service.errors import ConfigError
    from router_service.files import write_atomically

    dataset = load_dataset(options.data)
    if not options.pool or not options.recruiter:
        raise ConfigError(
            "name at least one --pool and one --recruiter; "
            f"pools of {dataset.name}: {', '.join(dataset.pools)}; a baseline to start with: --recruiter best_single"
        )
    embedder, warning = usable_embedder(options.embedder)
    if warning:
        print_note(f"warning: {warning}")
    plan = ReplayPlan(
        pools=tuple(options.pool),
        recruiters=tuple(options.recruiter),
        aggregators=tuple(options.aggregator or ("majority",)),
        ks=tuple(options.k or (3,)),
        embedder=embedder,
        seed=options.seed,
    )
    with progress_bar(dataset.name) as on_progress:
        results = asyncio.run(run_replay(dataset, plan, on_progress=on_progress))
    if options.json_out is not None:
        import json

        write_atomically(options.json_out, json.dumps([result.row.as_json() for result in results], indent=1) + "\n")
    _print(results)
    for remark in remarks(dataset, plan, results):
        print_note(remark)


def _print(results: list[ReplayResult]) -> None:
    columns = ["pool", "recruiter", "aggregator", "k", "accuracy", "95 % interval", "calls/question", "USD/1,000"]
    rows = []
    for result in results:
        row = result.row
        interval = f"{row.ci95[0]:.3f} to {row.ci95[1]:.3f}"
        cost = "unknown" if row.cost_usd_per_1k is None else row.cost_usd_per_1k
        rows.append([row.pool, row.recruiter, row.aggregator, row.k, row.accuracy, interval, row.calls_per_query, cost])
    first = results[0].row
    print_table(f"{first.dataset}: {first.n} test questions", columns, rows)
