"""The command `pool personas`: an expert writes a persona for each category, and a pool file keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from router_service._cli_engine import with_engine
from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines, print_note, print_table, require_writable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from router_service.engine import Engine
    from router_service.types import Query, RouteFailure, RouteResponse

__all__ = ["PersonasOptions", "write_personas"]

_SAME = "The expert that they are for; the writer itself where nobody is named."


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonasOptions:
    """Who writes personas for whom, about which questions."""

    expert: Annotated[str, typer.Option(help="The expert that writes the personas.", show_default=False)]
    data: Annotated[Path, typer.Option(help="Questions (JSONL) with their categories or skills.", show_default=False)]
    out: Annotated[Path, typer.Option(help="The new pool file.", show_default=False)]
    pool: Annotated[str, typer.Option(help="Built-in pool or pool file.")] = "local"
    config: Annotated[Path | None, typer.Option(help="Configuration file (YAML).", show_default=False)] = None
    target: Annotated[str | None, typer.Option("--for", help=_SAME, show_default=False)] = None
    by: Annotated[Literal["category", "skill"], typer.Option(help="One persona for each of these.")] = "category"
    only: Annotated[
        list[str] | None, typer.Option(help="Only this category or skill; repeat it.", show_default=False)
    ] = None
    examples: Annotated[int, typer.Option(min=1, max=10, help="Questions shown of each.")] = 3
    seed: Annotated[int, typer.Option(help="Seed of the writing.")] = 0
    as_json: JsonOption = False

    @property
    def receiver(self) -> str:
        """The entry that gets the personas."""
        return self.target or self.expert


def write_personas(options: PersonasOptions) -> None:
    """Have an expert describe who answers each category best (ExpertPrompting), and keep the texts in a pool file."""
    from experts_registry.persona_writing import group_questions, pool_with_personas, write_pool, writing_query
    from experts_registry.pool import load_pool, pool_path
    from experts_registry.records import read_questions
    from router_service.errors import ConfigError

    source = pool_path(options.pool)
    if options.out.resolve() == source.resolve():
        raise ConfigError(f"--out is the pool file itself, whose comments would be lost: name another than {source}")
    load_pool(options.pool).expert(options.expert)
    require_writable(options.out)
    keep_in = partial(pool_with_personas, source, expert_id=options.receiver, folder=options.out.parent)
    keep_in(personas={})  # what is wrong with the pool is said before anybody writes
    groups = group_questions(
        read_questions(options.data), by=options.by, only=options.only or (), examples=options.examples
    )
    queries = {label: writing_query(label, shown, seed=options.seed) for label, shown in groups.items()}
    written, problems = _written(options, queries)
    if written:
        write_pool(options.out, keep_in(personas=written))
        load_pool(options.out)
    _report(options, written, problems)


def _written(options: PersonasOptions, queries: Mapping[str, Query]) -> tuple[dict[str, str], dict[str, str]]:
    """The personas by name, and by label why there is none."""
    from dataclasses import replace

    from aggregators.extract import without_thoughts
    from experts_registry.persona_writing import persona_name, read_description
    from router_service.types import RouteControls, RouteResponse

    controls = RouteControls(expert=options.expert)

    async def ask(engine: Engine) -> list[RouteResponse | RouteFailure]:
        return await engine.run([replace(query, controls=controls) for query in queries.values()])

    config = EngineOptions(pool=options.pool, config=options.config).engine_config()
    written: dict[str, str] = {}
    problems: dict[str, str] = {}
    for label, end in zip(queries, with_engine(config, ask), strict=True):
        if not isinstance(end, RouteResponse):
            problems[label] = end.message
            continue
        description = read_description(without_thoughts(end.answer.text))
        if description is None:
            problems[label] = f"what was written describes nobody: {end.answer.text.strip()[:120]!r}"
        elif persona_name(label) in written:
            problems[label] = f"its persona would be called {persona_name(label)!r}, as another's is"
        else:
            written[persona_name(label)] = description
    return written, problems


def _report(options: PersonasOptions, written: Mapping[str, str], problems: Mapping[str, str]) -> None:
    if options.as_json:
        print_json({"pool": str(options.out) if written else None, "personas": written, "problems": problems})
    else:
        if written:
            rows = [[f"{options.receiver}.{name}", text] for name, text in written.items()]
            print_table(f"Personas for {options.receiver}", ["expert", "persona"], rows)
            print_lines(f"wrote {options.out}: {len(written)} personas; profile them like any expert")
        for label, problem in problems.items():
            print_note(f"{options.by} {label!r}: {problem}")
    if problems:
        raise typer.Exit(1)
