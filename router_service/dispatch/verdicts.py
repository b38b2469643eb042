"""Verdicts: what a backend handed over or raised, made into a finished completion (priced, extracted, or failed)."""

from __future__ import annotations

import logging
from dataclasses import replace

from aggregators.extract import extract
from experts_registry.prices import cost_usd
from router_service.dispatch.planner import SampleKey
from router_service.errors import ExpertError, ExpertTimeout, RouterError
from router_service.types import NOT_NEEDED, Completion, CompletionError, Expert, Query, Usage

__all__ = ["CANCELLED", "EMPTY", "charge_of", "error_of", "failed_completion", "finished_completion"]

EMPTY = "empty_completion"
"""Code of a completion without text and tool calls; worth one more try."""
CANCELLED = "cancelled"
"""Code of a completion that was ended because nobody waits for it any more."""

_MAY_HAVE_WORKED = frozenset({ExpertTimeout.code, ExpertError.code, EMPTY, CANCELLED, NOT_NEEDED})
"""Codes of failures before which the expert may have worked, and charges for it."""

_log = logging.getLogger(__name__)


def finished_completion(
    completion: Completion, *, expert: Expert, query: Query, extracts_answers: bool = False
) -> Completion:
    """The completion with its cost and its extracted answer filled in where the backend left them out.

    One that says nothing at all is a failure, unless its backend `extracts_answers` by itself; so is one that cannot
    be read, and that one alone.
    """
    try:
        return _finished(completion, expert=expert, query=query, extracts_answers=extracts_answers)
    except Exception as odd:  # a foreign backend's values are not checked before
        message = f"backend {expert.backend!r} gave a completion of {expert.id} that cannot be read: {odd}"
        _log.warning("%s", message, exc_info=odd)
        key = (completion.query_id, completion.expert_id, completion.sample)
        return failed_completion(key, CompletionError(code=ExpertError.code, message=message), expert=expert)


def _finished(completion: Completion, *, expert: Expert, query: Query, extracts_answers: bool) -> Completion:
    if not isinstance(completion.text, str):
        raise TypeError(f"its text is {completion.text!r}, and a text is needed")
    usage = Usage() + completion.usage  # counts that are no numbers show here
    completion = replace(completion, usage=_priced(usage, expert) if usage.cost_usd is None else usage)
    if not completion.succeeded or extracts_answers:
        return completion
    if not completion.text.strip() and not completion.tool_calls:
        why = f" (it stopped for: {completion.finish_reason})" if completion.finish_reason else ""
        error = CompletionError(code=EMPTY, message=f"{expert.id} answered nothing{why}", is_retryable=True)
        return replace(completion, error=error)
    if completion.extracted is None:
        return replace(completion, extracted=extract(completion.text, query.task_format))
    return completion


def failed_completion(
    key: SampleKey, error: CompletionError, *, expert: Expert, latency_s: float = 0.0, has_worked: bool = False
) -> Completion:
    """A completion that failed as a whole; what it cost is unknown where the expert may have worked meanwhile."""
    query_id, expert_id, sample = key
    has_worked = has_worked or error.code in _MAY_HAVE_WORKED
    usage = Usage(completions=1, cost_usd=None if has_worked and not _is_free(expert) else 0.0)
    return Completion(
        query_id=query_id, expert_id=expert_id, sample=sample, usage=usage, latency_s=latency_s, error=error
    )


def charge_of(completion: Completion, at_most: Usage) -> Usage:
    """What the completion counts against its query's limits: what it used, and the estimate where nobody knows."""
    usage = completion.usage
    if _is_uncounted(completion):
        usage = replace(usage, prompt_tokens=at_most.prompt_tokens, completion_tokens=at_most.completion_tokens)
    return replace(usage, cost_usd=at_most.cost_usd) if usage.cost_usd is None else usage


def _is_uncounted(completion: Completion) -> bool:
    """Whether the expert may have written tokens that nobody told us of."""
    usage, error = completion.usage, completion.error
    if usage.prompt_tokens or usage.completion_tokens:
        return False
    if error is None:
        return True
    return usage.completions > 0 and (usage.cost_usd is None or error.code in _MAY_HAVE_WORKED)


def error_of(error: Exception, expert: Expert, *, limit_s: float) -> CompletionError:
    """What a backend raised, as data; the expert's key never shows."""
    if isinstance(error, ExpertError):
        return CompletionError(
            code=error.code,
            message=_without_secret(error.message, expert),
            is_retryable=error.retryable,
            retry_after_s=error.retry_after_s,
        )
    if isinstance(error, TimeoutError):
        message = f"{expert.id} did not answer within {limit_s:g} s; raise limits.timeout_s if it needs longer"
        return CompletionError(code=ExpertTimeout.code, message=message, is_retryable=True)
    message = _without_secret(f"{type(error).__name__}: {error}", expert)
    if isinstance(error, RouterError):
        return CompletionError(code=error.code, message=message)
    _log.warning("backend %s broke on expert %s: %s", expert.backend, expert.id, message)
    return CompletionError(code=ExpertError.code, message=f"backend {expert.backend!r} broke on {expert.id}: {message}")


def _priced(usage: Usage, expert: Expert) -> Usage:
    """Cost by the expert's prices, where the backend named none; without token counts it stays unknown."""
    if _is_free(expert):
        return replace(usage, cost_usd=0.0)
    if not usage.prompt_tokens and not usage.completion_tokens:
        return usage
    cost = cost_usd(expert.prices, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
    return replace(usage, cost_usd=cost)


def _is_free(expert: Expert) -> bool:
    prices = expert.prices
    return prices is not None and prices.input_usd_per_mtok == 0 and prices.output_usd_per_mtok == 0


def _without_secret(text: str, expert: Expert) -> str:
    secret = expert.api_key.reveal() if expert.api_key is not None else ""
    return text.replace(secret, "***") if secret else text
