"""Personas: one model in several voices, each a virtual expert of its own with a profile of its own."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from router_service.config import read_yaml
from router_service.errors import nearest_name
from router_service.types import Expert

__all__ = ["builtin_personas", "persona_problem", "persona_text", "virtual_experts", "virtual_id"]

_BUILTIN = "builtin:"
_FILE = Path(__file__).parent / "personas_builtin.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@functools.cache
def builtin_personas() -> Mapping[str, str]:
    """The persona texts that come with the package, by name."""
    return {str(name): str(text).strip() for name, text in read_yaml(_FILE).items()}


def persona_text(value: str) -> str:
    """The text of a persona: that of the package for `builtin:NAME`, else the value itself.

    Raises `ValueError` where there is no such text, and for a text without a word.
    """
    if not value.strip():
        raise ValueError("is empty; write a system text, or leave the persona out")
    if not value.startswith(_BUILTIN):
        return value
    name = value.removeprefix(_BUILTIN)
    known = builtin_personas()
    if name not in known:
        near = nearest_name(name, known)
        guess = f" Did you mean {_BUILTIN + near!r}?" if near else ""
        raise ValueError(f"there is no persona {value!r}; the package has {', '.join(map(repr, known))}.{guess}")
    return known[name]


def persona_problem(name: str) -> str | None:
    """Why a persona cannot be called so; None where it can."""
    if _NAME.fullmatch(name):
        return None
    return "is no name of a persona: begin with a letter or digit, and use only letters, digits, _ and -"


def virtual_id(expert_id: str, name: str) -> str:
    """The id of an expert's persona: `EXPERT.NAME`, which can stand in URLs, file names and on command lines."""
    return f"{expert_id}.{name}"


def virtual_experts(expert: Expert, personas: Mapping[str, str]) -> tuple[Expert, ...]:
    """One expert per persona (name -> text), like `expert` but for its id, its persona and its description."""
    return tuple(
        replace(
            expert,
            id=virtual_id(expert.id, name),
            persona=text,
            description=f"{expert.description or expert.model}, as {name}",
        )
        for name, text in personas.items()
    )
