"""How many tokens a query will take at most, and what an expert will charge for it, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable

from experts_registry.prices import cost_usd
from router_service.types import AudioPart, Expert, ImagePart, Message, Query, TextPart, Usage

__all__ = ["ASSUMED_OUTPUT_TOKENS", "estimate_panel", "estimate_tokens", "estimate_usage", "max_output_tokens"]

ASSUMED_OUTPUT_TOKENS = 1024
"""Longest completion assumed where neither the query nor the expert says one; calls are made with this limit."""

_LETTERS_PER_TOKEN = 3.5
"""English prose takes 4 to 5 characters a token in today's vocabularies; fewer is the careful side."""
_BYTES_PER_FOREIGN_TOKEN = 2.0
"""UTF-8 bytes a token outside ASCII: one token for an accented letter, one and a half for a Chinese character."""
_MESSAGE_TOKENS = 8
"""Role marks and separators of a chat template, per message; once more for the turn that is opened."""
_IMAGE_TOKENS = 1600
"""About what hosted models charge for one large image."""
_AUDIO_BYTES_PER_TOKEN = 250
"""Some 32 tokens a second of speech at 64 kbit/s."""

_ASCII = bytes(range(128))
_DIGITS = b"0123456789"


def estimate_tokens(query: Query) -> int:
    """Prompt tokens of the query, estimated on the careful side: text, images, audio and tools, persona apart.

    Letters count 3.5 to a token, each digit is a token of its own (so several vocabularies have it), and text outside
    ASCII counts by its bytes.
    """
    tokens = float(_MESSAGE_TOKENS)
    for message in query.messages:
        tokens += _MESSAGE_TOKENS + _message_tokens(message)
    for tool in query.tools:
        tokens += _text_tokens(tool)
    return math.ceil(tokens)


def max_output_tokens(expert: Expert, query: Query, *, prompt_tokens: int | None = None) -> int:
    """The longest completion to ask this expert for: what query, expert and the query's token budget allow, at least 1.

    Every call is to be made with this limit, so that `estimate_usage` is a bound and not a guess. `prompt_tokens`
    saves the estimate of the query where it is known.
    """
    limit = output_limit(expert, query, prompt_tokens=prompt_tokens)
    budget = query.budget.max_output_tokens
    return max(1, limit if budget is None else min(limit, budget))


def output_limit(expert: Expert, query: Query, *, prompt_tokens: int | None = None) -> int:
    """`max_output_tokens` before the budget: query over expert, within the model's own limit and what is left of its
    context window after the prompt; 0 or less where nothing is left."""
    asked = query.sampling.max_tokens or expert.sampling.max_tokens or expert.max_output_tokens or ASSUMED_OUTPUT_TOKENS
    limit = asked if expert.max_output_tokens is None else min(asked, expert.max_output_tokens)
    if expert.context_window is None:
        return limit
    prompt = estimate_tokens(query) if prompt_tokens is None else prompt_tokens
    return min(limit, expert.context_window - prompt - persona_tokens(expert))


def estimate_usage(expert: Expert, query: Query, samples: int = 1, *, prompt_tokens: int | None = None) -> Usage:
    """What `samples` completions use at most; `cost_usd` is None where the expert's prices are unknown.

    The prompt is counted once per sample: not every server shares it between samples.
    """
    return estimate_panel([(expert, samples)], query, prompt_tokens=prompt_tokens)


def estimate_panel(panel: Iterable[tuple[Expert, int]], query: Query, *, prompt_tokens: int | None = None) -> Usage:
    """What a panel of experts, each with its number of samples, uses at most; `cost_usd` is None where a price is
    unknown."""
    tokens = estimate_tokens(query) if prompt_tokens is None else prompt_tokens
    completions = prompts = outputs = 0
    cost: float | None = 0.0
    for expert, samples in panel:
        prompt = (tokens + persona_tokens(expert)) * samples
        output = max_output_tokens(expert, query, prompt_tokens=tokens) * samples
        own = cost_usd(expert.prices, prompt_tokens=prompt, completion_tokens=output)
        cost = None if cost is None or own is None else cost + own
        completions, prompts, outputs = completions + samples, prompts + prompt, outputs + output
    return Usage(completions=completions, prompt_tokens=prompts, completion_tokens=outputs, cost_usd=cost)


def persona_tokens(expert: Expert) -> int:
    """Tokens of the system message that the expert's persona adds; 0 where it has none."""
    return math.ceil(_MESSAGE_TOKENS + _text_tokens(expert.persona)) if expert.persona else 0


def _message_tokens(message: Message) -> float:
    if isinstance(message.content, str):
        tokens = _text_tokens(message.content)
    else:
        tokens = sum(_part_tokens(part) for part in message.content)
    return tokens + sum(_text_tokens(call.name + call.arguments) + _MESSAGE_TOKENS for call in message.tool_calls)


def _part_tokens(part: TextPart | ImagePart | AudioPart) -> float:
    if isinstance(part, TextPart):
        return _text_tokens(part.text)
    return _IMAGE_TOKENS if isinstance(part, ImagePart) else len(part.data) * 0.75 / _AUDIO_BYTES_PER_TOKEN


def _text_tokens(text: str) -> float:
    data = text.encode("utf-8", errors="replace")
    foreign = 0 if text.isascii() else len(data.translate(None, _ASCII))
    digits = len(data) - len(data.translate(None, _DIGITS))
    letters = len(data) - foreign - digits
    return letters / _LETTERS_PER_TOKEN + foreign / _BYTES_PER_FOREIGN_TOKEN + digits
