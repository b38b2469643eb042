"""Panels of code, and a fake right to execute: it runs programs of the tests' own making, right here."""

from __future__ import annotations

import json

from router_service.types import AnswerKind, Execution, TaskFormat, user_query
from tests.aggregators.panels import FakeAsk, panel, said

CODE = TaskFormat(kind=AnswerKind.CODE)

RIGHT = "def add(a, b):\n    return a + b"
RIGHT_TOO = "def add(a, b):\n    return b + a"
WRONG = "def add(a, b):\n    return a - b"
WRONG_TOO = "def add(a, b):\n    return -b + a"
BROKEN = "def add(a, b):\n    return nope"
NO_PYTHON = "def add(a, b)"

TESTS = "```python\nassert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(2, 2) == 4\n```"


def code_panel(*sources, tests=None, p=None, samples=None):
    """A panel of programs, by ann, ben, cyd ...; `tests` are the caller's."""
    names = ("ann", "ben", "cyd", "dan", "eve", "fay", "gil")
    members = [
        said(name, source, text=f"```python\n{source}\n```", task_format=CODE)
        for name, source in zip(names, sources, strict=False)
    ]
    query = user_query("q", "Write add(a, b).", task_format=CODE)
    if tests is not None:
        query = type(query)(**{**_fields(query), "metadata": {"tests": tests}})
    return panel(members, query=query, task_format=CODE, p=p)


def _fields(value):
    return {name: getattr(value, name) for name in value.__slots__}


def frames(stdin):
    """What a judge's program is given: the candidate, and its tests."""
    parts, rest = [], stdin.encode()
    while rest:
        length = int(rest[:8])
        parts.append(rest[8 : 8 + length].decode())
        rest = rest[8 + length :]
    return json.loads(parts[0]), parts[1:]


class FakeExecutingAsk(FakeAsk):
    """A `FakeAsk` that also executes; `refuses` is raised in its place. `executed` remembers the sources."""

    def __init__(self, text="", *, refuses=None, **options):
        super().__init__(text, **options)
        self.refuses = refuses
        self.executed = []

    async def execute(self, query, programs):
        if self.refuses is not None:
            raise self.refuses
        return [self._judged(program) for program in programs]

    def _judged(self, program):
        candidate, tests = frames(program.stdin)
        self.executed.append(candidate["source"])
        lines = [f"{number} {_verdict(candidate['source'], test)}" for number, test in enumerate(tests)]
        return Execution(exit_code=0, stdout="\n".join(lines) + "\n")


def _verdict(source, test):
    space = {}
    try:
        exec(source, space)
        exec(test, space)
    except Exception:
        return "unusable" if "lambda" in test else "fail"
    return "pass"
