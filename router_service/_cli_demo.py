"""The command `demo`: real questions, real local models, the whole pipeline, and one table at the end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from router_service._cli_options import JsonOption
from router_service._cli_output import print_json, print_lines, print_note, print_table
from router_service._cli_progress import progress_bar

if TYPE_CHECKING:
    from eval.demo import DemoReport
    from experts_registry.artefact import Artefact
    from router_service.backends.transformers import LoadReport
    from router_service.config import EngineConfig
    from router_service.types import Question

__all__ = ["DemoOptions", "demo"]

_POOL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How many questions of each task, and where everything is kept."""

    fit: Annotated[int, typer.Option(min=1, help="Fit questions per task: what experts are profiled on.")] = 15
    test: Annotated[int, typer.Option(min=1, help="Held-out questions per task: what the table is about.")] = 40
    out: Annotated[Path, typer.Option(help="Folder for questions, profiles and the report.")] = Path("runs/demo")
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0
    as_json: JsonOption = False


def demo(options: DemoOptions) -> None:
    """Profile the built-in experts on fit questions, then answer held-out ones by routing and by each expert alone."""
    from eval.demo import write_report

    started = time.perf_counter()
    config = _config(options)
    fit, test = _questions(options, "fit"), _questions(options, "test")
    artefact = _profile(config, fit, options.out / "profiles")
    report, loads = _compare(config, artefact, test)
    write_report(options.out / "report.json", report)
    if options.as_json:
        print_json({"report": options.out / "report.json", "rows": [row.record() for row in report.rows]})
        return
    _print_report(report, len(test))
    print_lines(_loads(loads))
    print_lines(f"{options.out}: questions, profiles, report.json; {time.perf_counter() - started:.0f} s in all")


def _config(options: DemoOptions) -> EngineConfig:
    from router_service.config import EngineConfig

    return EngineConfig(pool=_POOL, seed=options.seed)


def _questions(options: DemoOptions, split: Literal["fit", "test"]) -> list[Question]:
    """The split's questions over all tasks, written to a file as well, where a reader can look at them."""
    from experts_registry.local.tasks import TASKS, generate
    from experts_registry.records import write_questions

    n = options.fit if split == "fit" else options.test
    path = options.out / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    questions = [question for task in TASKS for question in generate(task, split, n=n)]
    write_questions(path, questions)
    return questions


def _profile(config: EngineConfig, questions: list[Question], folder: Path) -> Artefact:
    from eval.profiling import ProfilingJob, profile_experts
    from eval.profiling_folder import ProfilingFolder
    from router_service.assembly import asking_only, build_engine

    print_note(f"profiling every expert of pool {config.pool!r} on {len(questions)} fit questions")

    async def work() -> Artefact:
        engine = build_engine(asking_only(config))
        try:
            with ProfilingFolder(folder) as kept, progress_bar("profiling") as on_progress:
                job = ProfilingJob(questions=tuple(questions))
                return (await profile_experts(engine, job, kept, on_progress=on_progress)).artefact
        finally:
            await engine.aclose()

    return asyncio.run(work())


def _compare(config: EngineConfig, artefact: Artefact, questions: list[Question]) -> tuple[DemoReport, LoadReport]:
    """All rows, and what the first one, the routed panel from cold, loaded."""
    from eval.demo import compare, summarise
    from eval.reuse import ReusingBackend
    from experts_registry.pool import load_pool
    from router_service.backends.transformers import Transformers

    engine = Transformers()  # not the one that profiled: routing starts with nothing in memory
    backends = {"transformers": ReusingBackend(engine)}
    print_note(f"answering {len(questions)} held-out questions by each strategy")
    rows, loads = [], None
    for row in compare(load_pool(config.pool), artefact, questions, backends=backends, config=config):
        rows.append(row)
        loads = loads or engine.load_report
        print_note(f"  {row.name}: {row.accuracy:.3f}, {row.new_calls} new completions in {row.wall_s:.0f} s")
    asyncio.run(engine.aclose())
    assert loads is not None
    return summarise(rows, artefact), loads


def _print_report(report: DemoReport, n: int) -> None:
    categories = sorted(report.rows[0].per_category)
    columns = ["strategy", "accuracy", "95 %", "calls", *categories]
    panels = [row for row in report.rows if row.name in report.gains]
    alone = sorted((row for row in report.rows if row.name not in report.gains), key=lambda row: row.accuracy)
    lines = []
    for row in (*alone, *reversed(panels)):
        name = f"{row.name} (best single)" if row.name == report.best_single else row.name
        interval = f"{row.ci95[0]:.3f} to {row.ci95[1]:.3f}"
        shares = [f"{row.per_category[category]:.2f}" for category in categories]
        lines.append([name, row.accuracy, interval, f"{row.calls_per_query:.1f}", *shares])
    print_table(f"Accuracy on {n} held-out questions", columns, lines)
    for name, (mean, low, high) in report.gains.items():
        print_lines(
            f"{name} against the best single expert: {100 * mean:+.1f} points "
            f"(95 % {100 * low:+.1f} to {100 * high:+.1f})"
        )


def _loads(loads: LoadReport) -> str:
    return (
        f"model loads of the routed panel from cold: {len(loads.base_loads)} base, "
        f"{len(loads.adapter_loads)} adapters, {loads.switches} switches"
    )
