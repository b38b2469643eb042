"""Reading tests out of what experts write, and judging candidates by them in the sandbox."""

from __future__ import annotations

import datetime
import decimal
import fractions
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregators._code_judge import Unsendable, exception_of, judge, pack, unpack
from aggregators.code_tests import check_candidates, defined_names, judge_program, read_tests, signatures
from router_service.dispatch.sandbox import Sandbox
from router_service.types import user_query
from tests.aggregators.coding import FakeExecutingAsk, frames
from tests.sandboxes import needs_sandbox

ADD = frozenset({"add"})


ONE, TWO = "assert add(1, 2) == 3", "assert add(2, 2) == 4"


@pytest.mark.parametrize(
    ("text", "tests"),
    [
        ("```python\nassert add(1, 2) == 3\nassert add(2,2)==4\n```", [ONE, TWO]),
        ("<think>assert add(9, 9) == 9</think>assert add(1, 2) == 3", [ONE]),
        ("assert add(1,2)==3, 'three'\nassert add( 1, 2 ) == 3", [ONE]),
        ("Here you are:\n- `assert add(1, 2) == 3`\n2. assert add(2, 2) == 4\nassert oops(", [ONE, TWO]),
        ("Sure!\nassert add(\n    1,\n    2,\n) == 3\nassert add(1", [ONE]),
        (
            "```\nimport math\nx = 2\ny = 9\nassert math.isclose(add(x, 1), 3)\n```",
            ["import math\nx = 2\nassert math.isclose(add(x, 1), 3)"],
        ),
        (
            "def test_add():\n    a, b = 1, 2\n    assert add(a, b) == 3\ntest_add()",
            ["a, b = (1, 2)\nassert add(a, b) == 3"],
        ),
        ("```\nassert True\nassert other(1) == 1\nassert add(1, 2)\n```", ["assert add(1, 2)"]),
        ("```\nassert add(1, 2) == 3\n```\nand\n```\nassert add(2, 2) == 4\n```", [ONE, TWO]),
        ("I cannot.", []),
        ("", []),
        ("```python\nassert add('" + "x" * 5000 + "', '')\n```", []),
    ],
)
def test_tests_are_read_out_of_what_was_written(text, tests) -> None:
    assert list(read_tests(text, ADD, limit=10)) == tests


def test_no_more_are_read_than_were_asked_for() -> None:
    text = "\n".join(f"assert add({n}, 1) == {n + 1}" for n in range(20))
    assert len(read_tests(text, ADD, limit=7)) == 7


@given(text=st.text(max_size=300))
def test_no_text_breaks_the_reading(text) -> None:
    read_tests("```\n" + text, ADD, limit=5)
    read_tests("assert add(" + text, ADD, limit=5)
    defined_names(text)


def test_what_a_program_defines() -> None:
    source = "import os\nfrom math import pi as P\nLIMIT: int = 3\na, b = 1, 2\n"
    source += "def add(x, y=1, *z): ...\nclass Box: ...\ndef _own(): ..."
    assert defined_names(source) == {"LIMIT", "a", "b", "add", "Box", "_own"}
    assert signatures(source) == ("add(x, y)", "Box")
    assert defined_names("def (") == frozenset()


# --- values on the wire --------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers() | st.text(), max_size=4)
        | st.sets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)


def refuse(value: object) -> object:
    raise Unsendable(repr(value))


@given(value=PLAIN)
def test_plain_values_come_over_as_they_are(value) -> None:
    there = unpack(json.loads(json.dumps(pack(value, refuse))), refuse)
    assert there == value
    assert type(there) is type(value)


class Sly(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def test_values_of_other_kinds_come_over_as_what_they_are_made_of() -> None:
    assert unpack(pack([Sly(3)], refuse), refuse) != [4]
    assert pack({"a": (1, {2})}, refuse) == ["d", ["a", ["t", 1, ["s", 2]]]]
    assert pack(decimal.Decimal("1.50"), refuse) == ["n", "decimal", "Decimal", "1.50"]
    assert pack(fractions.Fraction(1, 3), refuse) == ["n", "fractions", "Fraction", "1/3"]
    assert unpack(pack(datetime.date(2020, 1, 2), refuse), refuse) == datetime.date(2020, 1, 2)


@pytest.mark.parametrize("value", [len, object(), [lambda: 1], {1: json}])
def test_what_cannot_be_copied_is_refused(value) -> None:
    with pytest.raises(Unsendable):
        pack(value, refuse)


def test_an_endless_value_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(Unsendable):
        pack(endless, refuse)


def test_exceptions_come_over_by_name() -> None:
    assert isinstance(exception_of("ValueError", "no"), ValueError)
    assert type(exception_of("Odd", "no")).__name__ == "Odd"
    assert not isinstance(exception_of("SystemExit", "0"), SystemExit)


def test_the_judge_judges_nowhere_but_in_a_sandbox() -> None:
    with pytest.raises(SystemExit, match="in the sandbox alone"):
        judge()


# --- judging -------------------------------------------------------------------------------------------------------

MIXED = """
import collections
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item); return self
    def __len__(self): return len(self.items)
    def __eq__(self, other): return self.items == other.items
def add(a, b): return a + b
def count(n): yield from range(n)
def ones():
    while True: yield 1
def fails(x): raise ValueError(x)
def buggy(x): return undefined
def slow(x):
    while True: pass
def tally(x): return collections.Counter(x)
math = None
def abs(x): return 0
"""


@needs_sandbox
async def test_the_verdicts_are_pythons_own() -> None:
    expected = {
        "assert add(1, 2) == 3": "pass",
        "assert add(1, 2) == 4": "fail",
        "assert add([1], [(2, 'x')]) == [1, (2, 'x')]": "pass",
        "assert add(b'a', b'b') == b'ab'": "pass",
        "assert math.isclose(add(0.1, 0.2), 0.3)": "pass",
        "from math import isclose\nassert isclose(add(0.1, 0.2), 0.3)": "pass",
        "assert abs(add(1, 1)) == 0": "fail",
        "assert all(add(x, 1) == x + 1 for x in range(5))": "pass",
        "assert isinstance(add(1, 1), int)": "pass",
        "assert tally('aab') == {'a': 2, 'b': 1}": "pass",
        "assert list(count(3)) == [0, 1, 2]": "pass",
        "assert next(ones()) == 1": "pass",
        "assert Stack().push(1).push(2).items == [1, 2]": "pass",
        "assert len(Stack().push(1)) == 1": "pass",
        "assert not Stack()": "pass",
        "assert Stack().push(1) == Stack().push(1)": "pass",
        "assert Stack().push(1) == [1]": "fail",
        "assert fails(1) == 1": "fail",
        "try:\n    fails(1)\n    assert False\nexcept ValueError:\n    pass": "pass",
        "assert buggy(1) == 1": "fail",
        "assert slow(1) == 1": "fail",
        "assert absent(1) == 1": "unusable",
        "assert add(lambda: 1, 2) == 3": "unusable",
        "assert add(": "unusable",
        "assert add(2, 2) == 4": "pass",
    }
    names = defined_names(MIXED) | {"missing"}
    program = judge_program(MIXED, [*expected, "assert missing(1) == 1"], names=names, test_s=0.5)
    ended = await Sandbox().run(program)
    said = [line.split(" ", 1)[1] for line in ended.stdout.splitlines()]
    assert dict(zip(expected, said, strict=False)) == expected
    assert said[-1] == "fail"


@needs_sandbox
@pytest.mark.parametrize("source", ["def (", "raise ValueError", "import os; os._exit(0)", "\0", "while True: pass"])
async def test_a_candidate_that_never_comes_to_be_passes_nothing(source) -> None:
    ended = await Sandbox().run(judge_program(source, ["assert add(1, 1) == 2"] * 2, names=ADD, test_s=0.3))
    assert ended.stdout == "0 fail\n1 fail\n"


def test_the_program_of_a_judge_holds_the_candidate_and_the_tests() -> None:
    program = judge_program("größe = 1", ["assert größe == 1", ""], names={"größe"}, test_s=1.5)
    candidate, tests = frames(program.stdin)
    assert candidate == {"source": "größe = 1", "names": ["größe"], "test_s": 1.5}
    assert tests == ["assert größe == 1", ""]


async def test_equal_candidates_are_run_once_and_unusable_tests_are_left_out() -> None:
    ask = FakeExecutingAsk()
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a"
    tests = ["assert add(lambda: 1, 1)", "assert add(1, 1) == 2", "assert add(1, 0) == 1"]
    checked = await check_candidates(
        [right, wrong, right], tests, ask=ask, query=user_query("q", "?"), test_s=1.0, first_tests=2
    )
    assert ask.executed == [right, wrong]
    assert checked.matrix == ((True, True), (False, True), (True, True))
    assert checked.tests == tuple(tests[1:])
    assert checked.first_tests == 1


@pytest.mark.parametrize("tail", [" + 1" * 700, ".a" * 700, " == " + "-" * 700 + "1"])
def test_a_test_nested_too_deep_to_be_written_out_is_none(tail: str) -> None:
    assert read_tests(f"{ONE}\nassert add(1, 2){tail}", ADD, limit=9) == (ONE,)


def test_a_line_of_blanks_is_read_at_once() -> None:
    start = time.perf_counter()
    assert read_tests("no Python\nassert" + " " * 20_000 + "x)\n" + ONE, ADD, limit=9) == (ONE,)
    assert time.perf_counter() - start < 2.0
