"""Nothing grows past what one can read; the allow-list may only shrink."""

from __future__ import annotations

import ast
import statistics

from tests.meta.source import functions_of, modules

MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400
MAX_PARAMETERS = 6
MAX_POSITIONAL = 3
MEDIAN_FUNCTION_LINES = 8
LINES_OF_19_IN_20_FUNCTIONS = 35

ALLOWED: frozenset[str] = frozenset()


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the function without its docstring."""
    last = node.end_lineno or node.lineno
    total = last - node.lineno + 1
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return total - ((first.end_lineno or first.lineno) - first.lineno + 1 if has_docstring else 0)


def test_functions_are_short() -> None:
    long = [
        f"{m.name}.{f.name}: {lines_of(f)} lines"
        for m in modules()
        for f in functions_of(m)
        if lines_of(f) > MAX_FUNCTION_LINES and f"{m.name}.{f.name}" not in ALLOWED
    ]
    assert not long


def test_most_functions_are_shorter() -> None:
    twentieths = statistics.quantiles((lines_of(f) for m in modules() for f in functions_of(m)), n=20)
    assert twentieths[9] <= MEDIAN_FUNCTION_LINES
    assert twentieths[18] <= LINES_OF_19_IN_20_FUNCTIONS


def test_modules_are_short() -> None:
    long = {m.name: len(m.text.splitlines()) for m in modules()}
    assert not {name: n for name, n in long.items() if n > MAX_MODULE_LINES and name not in ALLOWED}


def test_parameters_are_few_and_named() -> None:
    crowded = []
    for module in modules():
        for function in functions_of(module):
            if is_wire(function):
                continue
            arguments = function.args
            positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls")]
            total = len(positional) + len(arguments.kwonlyargs)
            name = f"{module.name}.{function.name}"
            if (total > MAX_PARAMETERS or len(positional) > MAX_POSITIONAL) and name not in ALLOWED:
                crowded.append(f"{name}: {total} parameters, {len(positional)} positional")
    assert not crowded


def is_wire(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Command-line commands spell out the flags of a page: their parameters are an interface, not a design."""
    return any(
        "command" in ast.unparse(decorator) or "callback" in ast.unparse(decorator)
        for decorator in function.decorator_list
    )
