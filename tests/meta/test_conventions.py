"""Conventions that a reader relies on: docstrings, sorted public names, the drawn error tree, light imports."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys

import pytest

from router_service import errors
from tests.meta.source import ROOT, functions_of, modules

BANNED_WORDS = ("utils", "helpers", "common", "misc", "manager", "handler")
HEAVY = ("torch", "transformers", "sentence_transformers", "litellm", "faiss", "onnxruntime", "pyarrow", "math_verify")
OPEN_WORK = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")


def test_every_module_says_what_it_is_for() -> None:
    assert not [m.name for m in modules() if not ast.get_docstring(m.tree)]


def test_public_things_have_docstrings() -> None:
    silent = []
    for module in modules():
        for node in module.tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                silent.append(f"{module.name}.{node.name}")
    assert not silent


def test_public_names_exist() -> None:
    """Their order is ruff's business (RUF022)."""
    wrong = []
    for module in modules():
        names = next((n.value for n in module.tree.body if is_all(n) and isinstance(n, ast.Assign)), None)
        if names is None or is_lazy(module.text):
            continue
        here = importlib.import_module(module.name)
        wrong += [f"{module.name}.{name}" for name in ast.literal_eval(names) if not hasattr(here, name)]
    assert not wrong


def is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)


def is_lazy(text: str) -> bool:
    return "def __getattr__" in text


def test_lazy_public_names_resolve() -> None:
    import router_service

    assert all(getattr(router_service, name) is not None for name in router_service.__all__)


def test_no_vague_module_names() -> None:
    vague = [m.name for m in modules() if any(word in m.name.rsplit(".", 1)[-1].split("_") for word in BANNED_WORDS)]
    assert not vague


def test_no_work_left_open() -> None:
    assert not [m.name for m in modules() if OPEN_WORK.search(m.text)]


def test_heavy_packages_are_imported_lazily() -> None:
    eager = []
    for module in modules():
        for node in module.tree.body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            eager += [f"{module.name}: {name}" for name in names if name.split(".")[0] in HEAVY]
    assert not eager


def test_type_hints_are_complete() -> None:
    bare = []
    for module in modules():
        for function in functions_of(module):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if untyped or function.returns is None:
                bare.append(f"{module.name}.{function.name}: {untyped or 'no return type'}")
    assert not bare


def test_importing_the_service_is_light() -> None:
    code = (
        "import time, sys; t = time.process_time(); import router_service; s = time.process_time() - t;"
        f"print(s); print([m for m in {HEAVY!r} + ('fastapi', 'httpx', 'aiohttp', 'numpy') if m in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for _ in range(3)
    ]
    assert all(run.splitlines()[1] == "[]" for run in runs), runs
    assert min(float(run.splitlines()[0]) for run in runs) < 0.3


# --- the error tree -------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, tuple[str | None, str, int]]:
    """Name -> (parent, code, status), read off the drawing in the module's docstring."""
    rows: dict[str, tuple[str | None, str, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    (?P<bars>[│├└─ ]*)(?P<name>[A-Z]\w+)\s+(?P<code>[a-z_]+)\s+(?P<status>\d{3})$", line)
        if match:
            depth = len(match["bars"]) // 4
            path = [*path[:depth], match["name"]]
            rows[match["name"]] = (path[-2] if depth else None, match["code"], int(match["status"]))
    return rows


def test_the_drawing_is_the_tree() -> None:
    built = {}
    todo: list[tuple[type[errors.RouterError], str | None]] = [(errors.RouterError, None)]
    while todo:
        kind, parent = todo.pop()
        built[kind.__name__] = (parent, kind.code, kind.http_status)
        todo += [(sub, kind.__name__) for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    assert drawn_tree() == built


def test_error_codes_are_distinct() -> None:
    codes = [code for _, code, _ in drawn_tree().values()]
    assert len(codes) == len(set(codes))


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'majority'"):
        raise errors.UnknownNameError("aggregator", "majorty", ["majority", "first"])
