"""The command `eval assert`: a file of route tests, passed or failed, for people, programs and CI servers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router_service._cli_engine import with_engine
from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines, require_writable

if TYPE_CHECKING:
    from eval.route_assertions import RouteResult
    from eval.route_checks import RouteTests
    from router_service.engine import Engine

__all__ = ["AssertOptions", "assert_routes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertOptions(EngineOptions):
    """Which checks, and where the results go; what is given here replaces what the file names."""

    as_json: JsonOption = False

    file: Annotated[
        Path, typer.Argument(metavar="FILE.yaml", help="Questions with what is expected.", show_default=False)
    ]
    junit: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write JUnit XML there, for CI.", show_default=False)
    ] = None


def assert_routes(options: AssertOptions) -> None:
    """Check that questions are routed as expected; no expert is asked. Exit code 1 where a check fails."""
    from eval.route_checks import load_route_tests

    tests = load_route_tests(options.file)
    config = _with_file(options, tests).engine_config()
    require_writable(options.junit)

    async def work(engine: Engine) -> list[RouteResult]:
        from eval.route_assertions import check_routes

        return await check_routes(engine, tests)

    started = time.perf_counter()
    results = with_engine(config, work)
    if options.junit is not None:
        _write_junit(options.junit, options.file.name, results, duration_s=time.perf_counter() - started)
    if options.as_json:
        n_failed = sum(not result.passed for result in results)
        checks = [result.as_json() for result in results]
        print_json({"file": options.file, "passed": len(results) - n_failed, "failed": n_failed, "checks": checks})
    else:
        _print(results)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _with_file(options: AssertOptions, tests: RouteTests) -> AssertOptions:
    """The options, and where one is not given what the file of checks names."""
    return replace(
        options,
        config=options.config or (Path(tests.config) if tests.config else None),
        pool=options.pool or tests.pool,
        artefact=options.artefact or (Path(tests.artefact) if tests.artefact else None),
    )


def _write_junit(path: Path, suite: str, results: list[RouteResult], *, duration_s: float) -> None:
    from eval.junit import JunitCase, junit_xml
    from router_service.files import write_atomically

    cases = [
        JunitCase(
            name=result.check.title,
            problems=result.problems,
            details="\n".join((f"decided: {result.decided}", *result.reasons)),
        )
        for result in results
    ]
    write_atomically(path, junit_xml(suite, cases, duration_s=duration_s))


def _print(results: list[RouteResult]) -> None:
    for result in results:
        print_lines(f"{'pass' if result.passed else 'FAIL'}  {result.check.title}")
        print_lines(f"      {result.decided}", style="dim")
        for line in (*result.problems, *(f"why: {reason}" for reason in result.reasons)):
            print_lines(f"      {line}")
    n_failed = sum(not result.passed for result in results)
    print_lines(f"{len(results) - n_failed} passed, {n_failed} failed", style="dim")
