"""The commands `pool check` and `pool show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines, print_note, print_table

__all__ = ["PoolOptions", "check", "show"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Which pool to look at."""

    pool: Annotated[str, typer.Option(help="Built-in pool or pool file.")] = "local"
    as_json: JsonOption = False


def check(options: PoolOptions) -> None:
    """Check a pool file and that each expert's backend can work with it; calls no model."""
    from experts_registry.pool import load_pool
    from experts_registry.show import check_pool
    from router_service.assembly import make_backends

    pool = load_pool(options.pool)
    backends = make_backends(pool, EngineOptions().engine_config().backends)
    problems = check_pool(pool, lambda expert: backends[expert.backend].check(expert))
    if options.as_json:
        print_json({"pool": pool.name, "experts": pool.ids, "problems": problems, "warnings": pool.warnings})
    else:
        for warning in pool.warnings:
            print_note(f"warning: {warning}")
        if problems:
            rows = [[problem.expert_id, problem.message] for problem in problems]
            print_table(f"Pool {pool.name}: {len(problems)} unusable", ["expert", "problem"], rows)
        usable = len(pool.enabled) - len(problems)
        print_lines(f"pool {pool.name}: {usable} of {len(pool.experts)} experts usable")
    if problems:
        raise typer.Exit(1)


def show(options: PoolOptions) -> None:
    """List a pool's experts with their models, prices and sizes."""
    from experts_registry.pool import load_pool
    from experts_registry.show import pool_table

    pool = load_pool(options.pool)
    rows = pool_table(pool)
    if options.as_json:
        print_json(rows)
        return
    filled = [name for name in (rows[0] if rows else {}) if any(row[name] not in ("", "?") for row in rows)]
    print_table(f"Pool {pool.name}", filled, [[row[name] for name in filled] for row in rows])
