"""How commands print: one JSON document, rich tables, and one clean line for an error."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router_service.errors import ConfigError
from router_service.types import Secret

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "jsonable",
    "print_error",
    "print_json",
    "print_lines",
    "print_note",
    "print_table",
    "require_writable",
    "shown_cost",
]

_FILE_WIDTH = 200
"""Columns of a table that goes to a file or a pipe, where nobody's terminal is too narrow."""


def jsonable(value: Any) -> Any:
    """A value of the vocabulary as JSON can hold it: dataclasses by field, secrets hidden, vectors left out."""
    if isinstance(value, Secret):
        return "***"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        visible = [field.name for field in dataclasses.fields(value) if field.repr]
        return {name: jsonable(getattr(value, name)) for name in visible}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, frozenset | set):
        return sorted(jsonable(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")


def print_error(message: str) -> None:
    """One red line on standard error (further lines only where the message has them)."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    console.print("error:", style="bold red", end=" ", highlight=False)
    console.print(message, markup=False, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output; numbers stand right, None is an empty cell."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    console.print(_table(title, columns, [list(row) for row in rows]))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for position, name in enumerate(columns):
        is_numeric = all(isinstance(row[position], int | float | None) for row in rows)
        table.add_column(name, justify="right" if is_numeric and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def shown_cost(cost_usd: float | None) -> str:
    """A cost for people; unknown is said, never shown as nothing."""
    return "cost unknown" if cost_usd is None else f"${cost_usd:.6f}"


def print_lines(text: str, *, style: str | None = None) -> None:
    """A text on standard output, nothing in it read as markup, long lines left whole."""
    from rich.console import Console

    Console(soft_wrap=True).print(text, style=style, markup=False, highlight=False)


def require_writable(path: Path | None) -> None:
    """Raise `ConfigError` where no file can be written at `path`, before work is done that would be lost; makes missing
    folders."""
    if path is None:
        return
    why = "it is a folder" if path.is_dir() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as impossible:
        why = f"its folder cannot be made ({impossible.strerror})"
    else:
        why = why or (None if os.access(path.parent, os.W_OK) else "its folder allows no new file")
    if why is not None:
        raise ConfigError(f"cannot write {path}: {why}; name another file")


def print_note(text: str) -> None:
    """A remark on standard error, where it disturbs no output."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(text, style="yellow", markup=False, highlight=False)
