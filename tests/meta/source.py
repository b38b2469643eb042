"""The project's own source as parsed modules, for the tests that hold it to its rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("router_service", "skills", "experts_registry", "aggregators", "eval")


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, its path and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module
    text: str

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the five packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            found.append(Module(name, path, ast.parse(text), text))
    return tuple(found)


@cache
def module_names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


@cache
def lazy_names() -> dict[str, str]:
    """Dotted names that a package hands out only when asked, and the module behind each: its table `_LAZY`."""
    found = {}
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["_LAZY"]:
                found |= {f"{module.name}.{name}": home for name, home in ast.literal_eval(node.value).items()}
    return found


def imports_of(module: Module) -> Iterator[str]:
    """The project's modules that this one imports, anywhere in the file, lazily or not (typing-only ones too)."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in PACKAGES:
                    yield alias.name
        elif isinstance(node, ast.ImportFrom):
            source = _source_of(node, module)
            if source.split(".")[0] not in PACKAGES:
                continue
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole in module_names() else lazy_names().get(whole, source)


def _source_of(node: ast.ImportFrom, module: Module) -> str:
    """The dotted name after `from`, a relative one made absolute."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    package = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*package, *([node.module] if node.module else [])])


def functions_of(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
