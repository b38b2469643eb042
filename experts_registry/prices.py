"""What tokens cost at an expert's prices."""

from __future__ import annotations

from router_service.types import Prices

__all__ = ["cost_usd"]

_TOKENS_PER_MTOK = 1_000_000


def cost_usd(prices: Prices | None, *, prompt_tokens: int, completion_tokens: int) -> float | None:
    """USD for so many tokens; None where the prices are unknown, which is not 0."""
    if prices is None:
        return None
    paid_in = prompt_tokens * prices.input_usd_per_mtok
    paid_out = completion_tokens * prices.output_usd_per_mtok
    return (paid_in + paid_out) / _TOKENS_PER_MTOK
