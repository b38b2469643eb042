"""What a routing objective may weigh or limit besides quality: how much of it each expert takes."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from router_service.errors import ConfigError, nearest_name
from router_service.recruit.eligibility import call_cost_usd
from router_service.recruit.roster import Case
from router_service.recruit.strength import Floats
from router_service.types import Expert

__all__ = ["CONSTRAINTS", "COST", "call_costs", "check_constraints", "pool_amounts", "require_known"]

COST = "cost_usd"
CONSTRAINTS = ("parameters_b", COST, "latency_s", "energy_j", "age_days")
"""Billions of parameters, USD that a call may cost at most, typical seconds and joules of a completion, and days
between the model's release and the newest one in the pool."""
_POOL_KEYS = {COST: "prices", "age_days": "released"}
"""What states an amount in the pool file where that has another name."""


def check_constraints(amounts: Mapping[str, float], *, where: str) -> None:
    """`ConfigError`, saying where, for a name that is no constraint and for an amount below 0."""
    for name, amount in amounts.items():
        if name not in CONSTRAINTS:
            near = nearest_name(name, CONSTRAINTS)
            guess = f" Did you mean {near!r}?" if near else ""
            raise ConfigError(f"{where} names {name!r}.{guess} Allowed: {', '.join(CONSTRAINTS)}.")
        if not amount >= 0:
            raise ConfigError(f"{where} has {name} = {amount}; it is 0 or more")


def pool_amounts(experts: Sequence[Expert]) -> dict[str, Floats]:
    """The amount of every constraint but the cost, which depends on the query; NaN where unknown."""
    days = [_day(expert) for expert in experts]
    newest = max((day for day in days if not math.isnan(day)), default=math.nan)
    columns = {
        "parameters_b": [expert.parameters_b for expert in experts],
        "latency_s": [expert.latency_s for expert in experts],
        "energy_j": [expert.energy_j for expert in experts],
        "age_days": [newest - day for day in days],
    }
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}


def _day(expert: Expert) -> float:
    """The day of release, counted; NaN where unknown."""
    if expert.released is None:
        return math.nan
    try:
        return datetime.date.fromisoformat(expert.released).toordinal()
    except ValueError:
        raise ConfigError(
            f"expert {expert.id!r} was released on {expert.released!r}; write a day as 2025-01-31"
        ) from None


def call_costs(experts: Sequence[Expert], cases: Sequence[Case]) -> Floats:
    """USD that one call may cost at most, shape (cases, experts), NaN where the price is unknown."""
    rows = [
        [call_cost_usd(expert, case.request.query, case.shortlist.prompt_tokens) for expert in experts]
        for case in cases
    ]
    return np.array(rows, dtype=np.float64).reshape(len(cases), len(experts))


def require_known(experts: Sequence[Expert], names: Iterable[str], *, where: str) -> None:
    """`ConfigError`, saying where a constraint is used, that names the experts of which its amount is unknown."""
    amounts = pool_amounts(experts)
    amounts[COST] = np.array([math.nan if expert.prices is None else 0.0 for expert in experts])
    for name in names:
        unknown = [expert.id for expert, amount in zip(experts, amounts[name], strict=True) if math.isnan(amount)]
        if unknown:
            raise ConfigError(
                f"{where} has {name}, and that of {', '.join(unknown)} is unknown; give `{_POOL_KEYS.get(name, name)}` "
                f"in the pool, or leave {name} out"
            )
