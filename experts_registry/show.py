"""What `enlist pool check` and `enlist pool show` print, as data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from experts_registry.pool import Pool
from router_service.errors import RouterError
from router_service.types import Expert

__all__ = ["PoolProblem", "check_pool", "pool_table"]

_UNKNOWN = "?"
_USER_INFO = re.compile(r"//[^/?#]*@")
"""`name:password@` in front of a URL's host: credentials, which are never printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolProblem:
    """Why one expert cannot be used as its entry stands."""

    expert_id: str
    message: str


def pool_table(pool: Pool) -> list[dict[str, str]]:
    """One row per expert, in the pool's order, column name to text; unknown reads `?`, no key or password shows."""
    return [_row(expert) for expert in pool.experts]


def check_pool(pool: Pool, check_expert: Callable[[Expert], None]) -> list[PoolProblem]:
    """What `check_expert` (a backend's `check`, which raises a `RouterError`) finds with each enabled expert."""
    problems = []
    for expert in pool.enabled:
        try:
            check_expert(expert)
        except RouterError as problem:
            problems.append(PoolProblem(expert_id=expert.id, message=problem.message))
    return problems


def _row(expert: Expert) -> dict[str, str]:
    prices = expert.prices
    return {
        "expert": expert.id,
        "backend": expert.backend,
        "model": expert.model,
        "adapter": expert.adapter or "",
        "address": _USER_INFO.sub("//***@", expert.address or ""),
        "key": "set" if expert.api_key is not None else "",
        "in USD/Mtok": _number(prices.input_usd_per_mtok if prices else None),
        "out USD/Mtok": _number(prices.output_usd_per_mtok if prices else None),
        "context": _number(expert.context_window),
        "parameters (B)": _number(expert.parameters_b),
        "memory (GiB)": _number(expert.memory_gib),
        "reads": ", ".join(sorted(expert.modalities, key=_text_first)),
        "persona": expert.persona or "",
        "enabled": "yes" if expert.is_enabled else "no",
    }


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _text_first(modality: str) -> tuple[bool, str]:
    return modality != "text", modality
