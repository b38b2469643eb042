"""What becomes of OpenAI parameters that have no meaning here: ignored with a warning, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from router_service.errors import nearest_name

__all__ = ["IGNORED", "REFUSED", "drop_harmless", "unknown_parameter"]

IGNORED: Mapping[str, str] = {
    "metadata": "nothing is stored to attach it to",
    "prediction": "it only speeds up some models",
    "prompt_cache_key": "there is no prompt cache",
    "prompt_cache_options": "there is no prompt cache",
    "prompt_cache_retention": "there is no prompt cache",
    "reasoning_effort": "each expert's own settings decide",
    "safety_identifier": "nothing is reported to a vendor",
    "service_tier": "there is one tier",
    "store": "nothing is stored",
    "user": "experts are not told who asks",
    "verbosity": "each expert's own settings decide",
}
"""Parameters without influence on whether an answer is right: taken, named in `x-enlist-warnings`, with the reason."""

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "answers are text"),
    "function_call": (("none",), "it is replaced by 'tool_choice'"),
    "functions": (([],), "it is replaced by 'tools'"),
    "logit_bias": (({},), "token ids differ from expert to expert"),
    "logprobs": ((False,), "an answer made of several experts' completions has no token probabilities"),
    "modalities": ((["text"],), "answers are text"),
    "moderation": ((), "nothing is moderated here, and a check you rely on must not be skipped in silence"),
    "n": ((1,), "one answer is made per request; ask for more completions with 'enlist.k'"),
    "parallel_tool_calls": ((True,), "experts propose as many tool calls as they see fit"),
    "top_logprobs": ((0,), "an answer made of several experts' completions has no token probabilities"),
    "web_search_options": ((), "no expert searches the web"),
}
"""Parameters whose silent loss would change the answer: refused, except at the values that ask for nothing special."""


def drop_harmless(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` without parameters that ask for nothing special; another value of such a parameter is an error."""
    kept = {}
    for name, value in data.items():
        if name not in REFUSED:
            kept[name] = value
            continue
        harmless, reason = REFUSED[name]
        if value is not None and not any(_is_same(value, allowed) for allowed in harmless):
            allowed = " or ".join(f"{value!r}" for value in harmless)
            step = f"send {allowed} or leave it out" if harmless else "leave it out"
            raise PydanticCustomError(
                "unsupported_parameter",
                "parameter '{name}' is not supported: {reason}; {step}",
                {"name": name, "reason": reason, "step": step},
            )
    return kept


def unknown_parameter(name: str, allowed: Iterable[str]) -> PydanticCustomError:
    """The error for a parameter nobody knows, with the nearest valid name and all allowed ones."""
    names = sorted(allowed)
    name = name.encode(errors="backslashreplace").decode()  # a lone surrogate fits into no message
    near = nearest_name(name, names)
    return PydanticCustomError(
        "unknown_parameter",
        "unknown parameter '{name}'.{guess} Allowed: {allowed}",
        {"name": name, "guess": f" Did you mean {near!r}?" if near else "", "allowed": ", ".join(names) + "."},
    )


def _is_same(value: object, allowed: object) -> bool:
    """Equal and of one type: True is not 1."""
    return type(value) is type(allowed) and value == allowed
