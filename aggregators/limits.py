"""The caller's `max_tokens` for an answer that stands inside a longer reply: after seven steps, after a discussion."""

from __future__ import annotations

from dataclasses import replace

from router_service.prompt_tokens import text_tokens
from router_service.types import Completion, Query

__all__ = ["within_limit"]

_SLACK_TOKENS = 8
"""Backends count the end of a text, or the marks around it, one way or another."""


def within_limit(written: Completion, query: Query) -> Completion:
    """The completion with its text cut to the query's `max_tokens`, and then `length` as the reason why it ends.

    `written` is the part of a reply that becomes the answer, with the usage of the whole reply. One that was written
    under the limit (its usage tells) stays as it is: its own backend counted. What was not is estimated on the careful
    side.
    """
    limit = query.sampling.max_tokens
    if limit is None or written.usage.completion_tokens <= limit + _SLACK_TOKENS or text_tokens(written.text) <= limit:
        return written
    low, high = 0, len(written.text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text_tokens(written.text[:middle]) <= limit else (low, middle - 1)
    return replace(written, text=written.text[:low].rstrip(), finish_reason="length")
