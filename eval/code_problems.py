"""Programming problems made up by a seed: one function of a list of numbers, written in several right ways and, by
small changes to these, in many wrong ones."""

from __future__ import annotations

import ast
import random
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["CodeProblem", "mutants", "problem"]

_EACH = (
    ("x % {k} == 0", "x", "keep the multiples of {k}"),
    ("x > {k}", "x", "keep what is above {k}"),
    ("x <= {k} + 5", "x", "keep what is at most {k} + 5"),
    ("True", "x * {k} + 1", "multiply each by {k} and add 1"),
    ("True", "abs(x - {k})", "take each one's distance from {k}"),
    ("x != {k}", "x // {k}", "drop {k}, and divide the others by {k}, rounding down"),
    ("i % 2 == 0", "x - i", "keep every other one, less its position"),
    ("True", "x if x % 2 == 0 else -x", "negate the odd ones"),
)
"""Steps on each number: which are kept, what becomes of them, in words."""

_WHOLE = (
    ("xs = sorted(xs)", "xs = list(xs)\nxs.sort()", "sort them"),
    ("xs = xs[::-1]", "xs = list(reversed(xs))", "turn their order round"),
    (
        "xs = [b - a for a, b in zip(xs, xs[1:])]",
        "xs = [xs[i + 1] - xs[i] for i in range(len(xs) - 1)]",
        "take the differences of neighbours",
    ),
    (
        "xs = list(dict.fromkeys(xs))",
        "seen = []\nfor x in xs:\n    if x not in seen:\n        seen.append(x)\nxs = seen",
        "keep the first of equal ones",
    ),
    ("xs = xs[:{k}] + xs[{k} + 1:]", "xs = [x for i, x in enumerate(xs) if i != {k}]", "leave out the one at {k}"),
    (
        "xs = [sum(xs[:i + 1]) for i in range(len(xs))]",
        "t = 0\nys = []\nfor x in xs:\n    t += x\n    ys.append(t)\nxs = ys",
        "take running sums",
    ),
)
"""Steps on the list, in two ways."""

_LAST = (
    ("return xs", "return [x for x in xs]", "return the list"),
    ("return sum(xs)", "t = 0\nfor x in xs:\n    t += x\nreturn t", "return the sum"),
    ("return max(xs, default=0)", "return sorted(xs)[-1] if xs else 0", "return the largest, or 0"),
    ("return len(xs)", "t = 0\nfor x in xs:\n    t += 1\nreturn t", "return how many are left"),
    (
        "return sum(xs[0::2]) - sum(xs[1::2])",
        "return sum(x if i % 2 == 0 else -x for i, x in enumerate(xs))",
        "return the sum with alternating signs",
    ),
)
"""The last step, in two ways."""

_SWAPPED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Mod: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mod,),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
_NAMES = {"sum": "max", "max": "min", "len": "sum", "sorted": "list", "abs": "int"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeProblem:
    """What is to be done, in words, and programs that do it: `solve(xs)` takes a list of whole numbers."""

    number: int
    words: str
    right: tuple[str, ...]


def problem(number: int) -> CodeProblem:
    """The problem of that number: two to four steps, drawn by it, each of whose spellings is right."""
    drawn = random.Random(f"problem {number}")
    steps: list[tuple[str, str]] = []
    words = []
    for _ in range(drawn.randint(1, 3)):
        k = str(drawn.randint(2, 6))
        if drawn.random() < 0.6:
            condition, value, said = (part.replace("{k}", k) for part in drawn.choice(_EACH))
            steps.append((_comprehension(condition, value), _loop(condition, value)))
        else:
            one, other, said = (part.replace("{k}", k) for part in drawn.choice(_WHOLE))
            steps.append((one, other))
        words.append(said)
    one, other, said = drawn.choice(_LAST)
    steps.append((one, other))
    spellings = [[a for a, _ in steps], [b for _, b in steps], [step[n % 2] for n, step in enumerate(steps)]]
    right = tuple(dict.fromkeys(_function(lines) for lines in spellings))
    return CodeProblem(number=number, words=", ".join([*words, said]), right=right)


def _comprehension(condition: str, value: str) -> str:
    return f"xs = [{value} for i, x in enumerate(xs) if {condition}]"


def _loop(condition: str, value: str) -> str:
    return f"ys = []\nfor i, x in enumerate(xs):\n    if {condition}:\n        ys.append({value})\nxs = ys"


def _function(steps: list[str]) -> str:
    return ast.unparse(ast.parse("def solve(xs):\n" + textwrap.indent("\n".join(steps), "    ")))


def mutants(source: str) -> Iterator[str]:
    """Programs that differ from `source` in one place: an operator, a number, a function, or a step left out."""
    count = sum(1 for _ in ast.walk(ast.parse(source)))
    for place in range(count):
        for variant in range(3):
            tree = ast.parse(source)
            node = list(ast.walk(tree))[place]
            if _changed(node, variant):
                yield ast.unparse(ast.fix_missing_locations(tree))


def _changed(node: ast.AST, variant: int) -> bool:
    """Make the node's change of that number, where it has one."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        changes = (node.value + 1, node.value - 1)
        if variant < len(changes):
            node.value = changes[variant]
        return variant < len(changes)
    if isinstance(node, ast.Name) and node.id in _NAMES and variant == 0:
        node.id = _NAMES[node.id]
        return True
    if isinstance(node, ast.FunctionDef) and variant < len(node.body) - 1:
        del node.body[variant]
        return True
    return _operator_changed(node, variant)


def _operator_changed(node: ast.AST, variant: int) -> bool:
    if isinstance(node, ast.BinOp | ast.AugAssign):
        others = _SWAPPED.get(type(node.op), ())
        if variant < len(others):
            node.op = others[variant]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare):
        others = _SWAPPED.get(type(node.ops[0]), ())
        if variant < len(others):
            node.ops[0] = others[variant]()  # type: ignore[call-overload]
    else:
        return False
    return variant < len(others)
