"""The backend `echo`: answers from a template without any model; for tests, demonstrations and rehearsed failures."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from string import Formatter

from experts_registry.estimate import max_output_tokens
from router_service import errors
from router_service.backends._options import read_options
from router_service.backends.base import BACKENDS, Backend
from router_service.errors import ConfigError, ExpertError, UnknownNameError
from router_service.types import (
    Assignment,
    Completion,
    CompletionError,
    Expert,
    ExpertBatch,
    TokenDelta,
    Usage,
    stable_seed,
)

__all__ = ["Echo", "EchoOptions"]

_FIELDS = frozenset({"text", "expert_id", "sample", "query_id"})
_FAILURES = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ExpertError)
}
"""The ways in which an expert can fail, by their codes."""
_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """What a pool entry may say in `options` for this backend."""

    reply: str = "{text}"
    """Template of the answer; fields {text}, {expert_id}, {sample} and {query_id}."""
    latency_s: float = 0.0
    """Seconds before the first word."""
    per_token_s: float = 0.0
    """Seconds before each word."""
    fail_rate: float = 0.0
    """Share of the completions that fail, drawn by seed."""
    fail_code: str = "expert_unavailable"
    """Error code of those, one of `ExpertError`'s tree; timeouts and unavailability are worth a retry."""


@BACKENDS.register("echo")
class Echo(Backend):
    """Says its template, in which {text} is the last user message; tokens are words; a stop sequence ends it. Options:
    `EchoOptions`."""

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        """Each sample after its own time, one after the other."""
        options = read_options(expert, EchoOptions)
        for assignment in batch.assignments:
            for sample in range(assignment.first_sample, assignment.first_sample + assignment.samples):
                started = time.perf_counter()
                words, completion = _said(expert, assignment, sample)
                await asyncio.sleep(options.latency_s)
                for word in words:
                    await asyncio.sleep(options.per_token_s)
                    if assignment.streams:
                        yield TokenDelta(query_id=assignment.query.id, text=word)
                yield replace(completion, latency_s=time.perf_counter() - started)

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` for an unknown option or error code, a bad template, a negative time, or a rate outside
        0 to 1."""
        options = read_options(expert, EchoOptions)
        try:
            fields = {name for _, name, _, _ in Formatter().parse(options.reply) if name is not None}
        except ValueError as malformed:
            raise ConfigError(f"expert {expert.id!r}: option 'reply' is not a template: {malformed}") from None
        if unknown := fields - _FIELDS:
            raise ConfigError(
                f"expert {expert.id!r}: option 'reply' has the unknown field {min(unknown)!r}; "
                f"allowed: {', '.join(sorted(_FIELDS))}; write {{{{ for a brace"
            )
        for name, most in (("latency_s", math.inf), ("per_token_s", math.inf), ("fail_rate", 1)):
            value = getattr(options, name)
            if not 0 <= value <= most:
                raise ConfigError(f"expert {expert.id!r}: option {name!r} is {value}; it must lie in 0 to {most}")
        if options.fail_code not in _FAILURES:
            unknown_code = UnknownNameError("error code", options.fail_code, _FAILURES)
            raise ConfigError(f"expert {expert.id!r}: option 'fail_code': {unknown_code.message}")


def _said(expert: Expert, assignment: Assignment, sample: int) -> tuple[list[str], Completion]:
    """What is said for a sample, in words with their spaces, and as a completion; `length` where the limit cuts it."""
    query = assignment.query
    prompt_tokens = sum(len(message.text.split()) for message in query.messages)
    base = Completion(query_id=query.id, expert_id=expert.id, sample=sample)
    error = _drawn_failure(expert, assignment, sample)
    if error is not None:
        return [], replace(base, error=error, usage=Usage(completions=1, prompt_tokens=prompt_tokens, cost_usd=None))
    reply = read_options(expert, EchoOptions).reply.format(
        text=query.text, expert_id=expert.id, sample=sample, query_id=query.id
    )
    for stop in query.sampling.stop or expert.sampling.stop:
        reply = reply.split(stop, 1)[0] if stop else reply
    words = _WORD.findall(reply)
    limit = max_output_tokens(expert, query)
    kept = words[:limit]
    usage = Usage(completions=1, prompt_tokens=prompt_tokens, completion_tokens=len(kept), cost_usd=None)
    finish_reason = "length" if len(words) > limit else "stop"
    return kept, replace(base, text="".join(kept), finish_reason=finish_reason, usage=usage)


def _drawn_failure(expert: Expert, assignment: Assignment, sample: int) -> CompletionError | None:
    options = read_options(expert, EchoOptions)
    draw = random.Random(stable_seed(assignment.seed, expert.id, sample, "fail")).random()
    if draw >= options.fail_rate:
        return None
    kind = _FAILURES[options.fail_code]
    return CompletionError(
        code=kind.code,
        message=f"{expert.id} fails as its option fail_rate says",
        is_retryable=kind.is_retryable_by_default,
    )
