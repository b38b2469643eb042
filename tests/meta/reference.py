"""Renders the reference of every configuration key from the schemas: `python -m tests.meta.reference` rewrites it."""

from __future__ import annotations

import re
import types
import typing

from pydantic import BaseModel

from experts_registry.pool_schema import ExpertEntry, LimitsEntry, PoolFile, PricesEntry, SamplingEntry
from router_service.config import ClusterConfig, DispatchConfig, EngineConfig
from router_service.http.settings import ServerSettings
from tests.meta.source import ROOT

PAGE = ROOT / "docs" / "reference" / "configuration.md"

_INTRODUCTION = """# Configuration

Every key there is, made from the schemas by `python -m tests.meta.reference`. An unknown key is an error that names
the nearest valid one; `${VAR}`, `${VAR:-default}` and `os.environ/VAR` are replaced in every text.

The engine reads a YAML file (`--config FILE`), the server takes environment variables (`ENLIST_` and the key in upper
case) and flags, and a pool is a YAML file of its own.
"""

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Engine", EngineConfig),
    ("Engine: `dispatch`", DispatchConfig),
    ("Engine: `cluster`", ClusterConfig),
    ("Server", ServerSettings),
    ("Pool file", PoolFile),
    ("Pool file: an expert, and `defaults`", ExpertEntry),
    ("Expert: `prices`", PricesEntry),
    ("Expert: `sampling`", SamplingEntry),
    ("Expert: `limits`", LimitsEntry),
)


def page() -> str:
    """The whole reference page."""
    return "\n".join([_INTRODUCTION, *(_section(title, model) for title, model in _SECTIONS)])


def _section(title: str, model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_kind(field.annotation)} | {_default(field)} | {_text(model, name)} |"
        for name, field in model.model_fields.items()
    ]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", " ".join((model.__doc__ or "").split()), "", *head, *rows, ""])


def _kind(annotation: object) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(a) for a in arguments if a is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin in (list, tuple, frozenset):
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    names = {"str": "text", "SecretStr": "text", "Secret": "text", "Path": "path", "float": "number", "int": "integer"}
    name = getattr(annotation, "__name__", str(annotation))
    return {"bool": "true or false", "Any": "anything", **names}.get(name, name)


def _default(field: typing.Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = getattr(value, "name", "")
    if isinstance(value, frozenset):
        value = ", ".join(sorted(value))
    return "unset" if value in (None, "", (), {}) else f"`{value}`"


def _text(model: type[BaseModel], name: str) -> str:
    for kind in model.__mro__:  # a field redefined without a docstring keeps its parent's
        field = getattr(kind, "model_fields", {}).get(name)
        if field is not None and field.description:
            return re.sub(r"\s+", " ", field.description)
    return ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
