"""Executes the candidates of a made-up problem on its tests, in the sandbox, to a pool that matrices are drawn from."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from aggregators.code_tests import judge_program
from eval.code_problems import CodeProblem, mutants
from router_service.dispatch.sandbox import Sandbox
from router_service.types import Program

__all__ = ["CandidatePool", "fill_pool"]

_WRONG = 12
_TESTS_EACH = 20
"""Right tests of a problem, and wrong ones."""
_HIDDEN = 60
"""Further inputs, on which it shows who is right."""

_VALUES = """
import json, sys
given = json.loads(sys.stdin.read())
told = []
for source in given["sources"]:
    values = []
    for xs in given["inputs"]:
        space = {}
        try:
            exec(source, space)
            values.append(repr(space["solve"](list(xs))))
        except Exception as error:
            values.append(type(error).__name__)
    told.append(values)
print(json.dumps(told))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePool:
    """One problem's candidates by tests, executed: `passes[candidate][test]`; who and what of them is right."""

    number: int
    candidates: tuple[str, ...]
    right_candidates: tuple[bool, ...]
    tests: tuple[str, ...]
    right_tests: tuple[bool, ...]
    passes: tuple[tuple[bool, ...], ...]


async def fill_pool(problem: CodeProblem, sandbox: Sandbox) -> CandidatePool | None:
    """Run everything; None for a problem that has too few wrong candidates that fail, or too few wrong values.

    A wrong test demands, half of the time, what some wrong candidate returns (a mistake shared by coder and tester),
    else a value that is off by a little.
    """
    drawn = random.Random(f"pool {problem.number}")
    inputs = [[drawn.randint(-9, 15) for _ in range(drawn.randint(0, 8))] for _ in range(_HIDDEN + 2 * _TESTS_EACH)]
    changed = list(dict.fromkeys(text for source in problem.right for text in mutants(source)))
    drawn.shuffle(changed)
    sources = [*problem.right, *changed]
    values = await _values(sources, inputs, sandbox)
    reference, right = values[0], len(problem.right)
    if any(row != reference for row in values[1:right]):
        raise AssertionError(f"the spellings of problem {problem.number} differ: {problem.words}")
    wrong = [n for n in range(right, len(sources)) if values[n][:_HIDDEN] != reference[:_HIDDEN]][:_WRONG]
    slips = _slips(inputs, values, wrong, drawn=drawn)
    if len(wrong) < _WRONG or len(slips) < _TESTS_EACH // 2:
        return None
    at = range(_HIDDEN, _HIDDEN + _TESTS_EACH)
    tests = [f"assert solve({inputs[n]}) == {reference[n]}" for n in at]
    off = [f"assert solve({inputs[n]}) == {_off(reference[n], drawn)}" for n in at[: _TESTS_EACH - len(slips)]]
    tests = list(dict.fromkeys([*tests, *slips, *off]))
    candidates = [*problem.right, *(sources[n] for n in wrong)]
    return CandidatePool(
        number=problem.number,
        candidates=tuple(candidates),
        right_candidates=tuple(n < right for n in range(len(candidates))),
        tests=tuple(tests),
        right_tests=tuple(test.endswith(f" == {reference[inputs.index(_input(test))]}") for test in tests),
        passes=await _passes(candidates, tests, sandbox),
    )


def _input(test: str) -> list[int]:
    found: list[int] = json.loads(test.removeprefix("assert solve(").split(") == ")[0])
    return found


def _slips(
    inputs: Sequence[list[int]], values: Sequence[Sequence[str]], wrong: Sequence[int], *, drawn: random.Random
) -> list[str]:
    """Tests that demand a wrong candidate's value, where that is a value and not the right one."""
    found = []
    for n in range(_HIDDEN + _TESTS_EACH, len(inputs)):
        told = sorted({values[w][n] for w in wrong} - {values[0][n]})
        told = [value for value in told if value[0] in "[-0123456789"]
        if told:
            found.append(f"assert solve({inputs[n]}) == {drawn.choice(told)}")
    return found[: _TESTS_EACH // 2]


def _off(value: str, drawn: random.Random) -> str:
    """A value near the right one."""
    there = json.loads(value)
    if isinstance(there, int):
        return str(there + drawn.choice([-2, -1, 1, 2]))
    return str([*there[:-1], there[-1] + 1] if there else [0])


async def _values(sources: Sequence[str], inputs: Sequence[list[int]], sandbox: Sandbox) -> list[list[str]]:
    ended = await sandbox.run(
        Program(source=_VALUES, stdin=json.dumps({"sources": list(sources), "inputs": list(inputs)}))
    )
    if not ended.passed:
        raise AssertionError(f"the values could not be worked out: {ended.stopped_by} {ended.stderr[-300:]}")
    told: list[list[str]] = json.loads(ended.stdout)
    return told


async def _passes(candidates: Sequence[str], tests: Sequence[str], sandbox: Sandbox) -> tuple[tuple[bool, ...], ...]:
    programs = [judge_program(source, tests, names={"solve"}, test_s=2.0) for source in candidates]
    rows = [ended.stdout.split("\n") for ended in await sandbox.run_all(programs)]
    return tuple(tuple(f"{n} pass" in row for n in range(len(tests))) for row in rows)
