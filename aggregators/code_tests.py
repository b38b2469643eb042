"""Candidates of code and tests for it: what a test is, how tests are read out of a text, and how they are run."""

from __future__ import annotations

import ast
import functools
import importlib.resources
import json
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aggregators.extract import without_thoughts
from router_service.types import ExecutingAsk, Execution, Program, Query

__all__ = ["CheckedCandidates", "check_candidates", "defined_names", "judge_program", "read_tests", "signatures"]

_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_ASSERT = re.compile(r"^\s*(?:[-*]\s+|\d+[.)]\s+)?`?(assert\b.*)$")

_MAX_TEST_CHARS = 4000
_MAX_TEST_LINES = 12
"""How far a test that was cut out of a text which is no Python may reach."""


# --- what candidates define ----------------------------------------------------------------------------------------


def defined_names(source: str) -> frozenset[str]:
    """The functions, classes and variables that a program defines at its top; none where it is no Python."""
    names: set[str] = set()
    for node in _body(source) or ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= _bound(node)
    return frozenset(names)


def signatures(source: str) -> tuple[str, ...]:
    """How the functions and classes at the top of a program are called: `add(a, b)`; private ones left out."""
    found = []
    for node in _body(source) or ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            found.append(f"{node.name}({', '.join(argument.arg for argument in node.args.args)})")
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found.append(node.name)
    return tuple(found)


def _body(source: str) -> list[ast.stmt] | None:
    """The statements of a program; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in what a model wrote
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# --- reading tests -------------------------------------------------------------------------------------------------


def read_tests(text: str, names: Collection[str], *, limit: int) -> tuple[str, ...]:
    """The tests in `text` that use one of `names`, `limit` at most, each once: an `assert`, behind what it needs of the
    imports and assignments before it.

    Thoughts are left out; fenced blocks are read, or the whole text where there are none. What does not parse as a
    whole is read line by line. Equal tests are those of equal syntax trees, whatever their blanks and messages.
    """
    said = without_thoughts(text)
    blocks = [match[1] for match in _FENCE.finditer(said)] or [said]
    found: dict[str, str] = {}
    for block in blocks:
        for test in _tests_of(block):
            if len(test) <= _MAX_TEST_CHARS and _uses(test, names):
                found.setdefault(test, test)
    return tuple(found)[:limit]


def _tests_of(block: str) -> Iterator[str]:
    body = _body(block)
    if body is None:
        body = [node for start in _assert_starts(block) for node in start]
    yield from _tests_among(body)


def _tests_among(body: Sequence[ast.stmt], before: Sequence[ast.stmt] = ()) -> Iterator[str]:
    """The tests of a list of statements and of the functions in it that take no arguments (`def test_...():`)."""
    seen = list(before)
    for node in body:
        if isinstance(node, ast.Assert):
            bare = ast.Assert(test=node.test, msg=None)
            with suppress(RecursionError, ValueError):  # one nested too deep to be written out again is none
                yield _written((*_needed(bare, seen), bare))
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom):
            seen.append(node)
        elif isinstance(node, ast.FunctionDef) and not node.args.args:
            yield from _tests_among(node.body, seen)


def _written(statements: Sequence[ast.stmt]) -> str:
    return "\n".join(map(ast.unparse, statements))


def _needed(test: ast.stmt, before: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Those of the statements before that bind what the test uses, in their order."""
    wanted, needed = _used(test), []
    for node in reversed(before):
        if _bound(node) & wanted:
            needed.append(node)
            wanted |= _used(node)
    return needed[::-1]


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _used(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _uses(test: str, names: Collection[str]) -> bool:
    return any(_used(node) & set(names) for node in _body(test) or ())


def _assert_starts(block: str) -> Iterator[list[ast.stmt]]:
    """Each `assert` of a text that is no Python as a whole: its line, without bullet and backticks, and as many lines
    after it as it takes to parse."""
    lines = block.splitlines()
    for number, line in enumerate(lines):
        start = _ASSERT.match(line)
        if start is None:
            continue
        first = start[1].rstrip().removesuffix("`")
        for length in range(_MAX_TEST_LINES):
            body = _body("\n".join([first, *lines[number + 1 : number + 1 + length]]))
            if body is not None:
                yield body[:1]
                break


# --- running them --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedCandidates:
    """The pass matrix: a row for each candidate, a column for each test that could be used on all of them.

    `first_tests` tells how many of the tests given first are among the columns; they come first there too.
    """

    matrix: tuple[tuple[bool, ...], ...]
    tests: tuple[str, ...]
    first_tests: int = 0


async def check_candidates(
    sources: Sequence[str],
    tests: Sequence[str],
    *,
    ask: ExecutingAsk,
    query: Query,
    test_s: float,
    first_tests: int = 0,
) -> CheckedCandidates:
    """Run every test on every candidate, equal candidates once; a test that could not be run on a candidate counts as
    not passed. Raises `ConfigError` where nothing can be run here."""
    distinct = list(dict.fromkeys(sources))
    names = frozenset[str]().union(*(defined_names(source) for source in distinct))
    programs = [judge_program(source, tests, names=names, test_s=test_s) for source in distinct]
    executions = await ask.execute(query, programs)
    verdicts = {source: _verdicts(ended, len(tests)) for source, ended in zip(distinct, executions, strict=True)}
    usable = [n for n in range(len(tests)) if not any(verdicts[source][n] == "unusable" for source in distinct)]
    return CheckedCandidates(
        matrix=tuple(tuple(verdicts[source][n] == "pass" for n in usable) for source in sources),
        tests=tuple(tests[n] for n in usable),
        first_tests=sum(n < first_tests for n in usable),
    )


def judge_program(source: str, tests: Sequence[str], *, names: Collection[str], test_s: float) -> Program:
    """The program that puts a candidate to its tests, each within `test_s` seconds (see `_code_judge`)."""
    head = json.dumps({"source": source, "names": sorted(names), "test_s": test_s})
    parts = [part.encode("utf-8", "replace") for part in (head, *tests)]
    stdin = b"".join(b"%08d" % len(part) + part for part in parts)
    return Program(source=_judge_source(), stdin=stdin.decode("utf-8"))


@functools.cache
def _judge_source() -> str:
    return importlib.resources.files("aggregators").joinpath("_code_judge.py").read_text("utf-8")


def _verdicts(ended: Execution, count: int) -> tuple[str, ...]:
    """The verdict on each test, `fail` where the judge never came to it."""
    said = dict(line.split(" ", 1) for line in ended.stdout.splitlines() if " " in line)
    return tuple(said.get(str(number), "fail") for number in range(count))
