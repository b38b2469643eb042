"""Which queries the engine takes at all (distinct ids, something to answer, limits that make sense), and whom each lets
be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aggregators.contract import check_contract
from router_service.errors import InvalidQuery
from router_service.types import Budget, Expert, Query, RouteControls

__all__ = ["allowed_experts", "check_query", "require_distinct_ids"]


def require_distinct_ids(queries: Sequence[Query]) -> None:
    """Raise `InvalidQuery` where two queries share an id."""
    seen: set[str] = set()
    for query in queries:
        if query.id in seen:
            raise InvalidQuery(f"two queries share the id {query.id!r}; give each query of a call an id of its own")
        seen.add(query.id)


def check_query(query: Query) -> None:
    """Raise `InvalidQuery` for what no expert could answer; what only some can is left to eligibility."""
    if not query.messages:
        raise InvalidQuery("the query has no messages; send at least one user message")
    has_content = query.text.strip() or query.modalities - {"text"}
    if not has_content and query.messages[-1].role != "tool":
        raise InvalidQuery("the question is empty; send a user message with some text")
    if query.controls.k is not None and query.controls.k < 1:
        raise InvalidQuery(f"k is {query.controls.k}; ask for at least 1 completion")
    _check_budget(query.budget)
    check_contract(query)


def allowed_experts(experts: Mapping[str, Expert], controls: RouteControls) -> Mapping[str, Expert]:
    """Those of the experts, in order, that the caller's controls leave: `experts` itself where they rule nobody out."""
    if not controls.experts_allowed and not controls.experts_denied:
        return experts
    allowed = controls.experts_allowed or tuple(experts)
    return {i: expert for i, expert in experts.items() if i in allowed and i not in controls.experts_denied}


def _check_budget(budget: Budget) -> None:
    for name in ("max_completions", "max_cost_usd", "max_output_tokens", "deadline_s"):
        value = getattr(budget, name)
        if value is not None and not value >= 0:
            raise InvalidQuery(f"budget {name} is {value}; it must be 0 or more, or left out for no limit")
