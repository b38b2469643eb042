"""What an upstream's HTTP status means: whether to try again, when, and what to tell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from router_service.errors import ExpertError, ExpertRefused, ExpertTimeout, ExpertUnavailable
from router_service.types import Expert

__all__ = ["complaint_of", "error_for_status", "retry_after_s"]

_SHOWN = 300
"""Characters of an upstream's own message that are passed on."""
_OUT_OF_CREDIT = "insufficient_quota"
"""OpenAI's code of a 429 that no waiting helps against."""


def error_for_status(expert: Expert, status: int, complaint: str, *, wait_s: float | None = None) -> ExpertError:
    """The error for an HTTP status of 300 and above: 408, 429 and 5xx may be tried again, nothing else."""
    message = f"{expert.id} answered HTTP {status}: {complaint}"
    if status in (408, 504):
        return ExpertTimeout(message, expert_id=expert.id, retry_after_s=wait_s)
    if status == 429 and _OUT_OF_CREDIT in complaint:
        return ExpertRefused(f"{message}; top up the account of its api_key", expert_id=expert.id)
    if status == 429 or status >= 500:
        return ExpertUnavailable(message, expert_id=expert.id, retry_after_s=wait_s)
    return ExpertRefused(message + _advice(expert, status), expert_id=expert.id)


def complaint_of(body: bytes | str, expert: Expert) -> str:
    """The upstream's own words in short, one line, its key blotted out."""
    text = body.decode("utf-8", errors="replace") if isinstance(body, bytes) else body
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, Mapping):
        text = _told(parsed) or text
    if expert.api_key is not None and expert.api_key.reveal():
        text = text.replace(expert.api_key.reveal(), "***")
    line = " ".join(text.split())
    return (line[:_SHOWN] + " ..." if len(line) > _SHOWN else line) or "(no message)"


def retry_after_s(value: str | None) -> float | None:
    """The header `Retry-After` in seconds from now, given as a number or as a date; None where it says neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def _told(body: Mapping[str, Any]) -> str:
    """Message and code of the error bodies in use: {"error": {...}}, {"error": "..."}, {"message"}, {"detail"}."""
    error = body.get("error", body)
    if not isinstance(error, Mapping):
        return str(error)
    message = error.get("message") or error.get("detail") or error.get("error")
    codes = [str(error[key]) for key in ("code", "param") if isinstance(error.get(key), str)]
    return f"{message}{f' [{chr(32).join(codes)}]' if codes else ''}" if message else ""


def _advice(expert: Expert, status: int) -> str:
    if status in (401, 403):
        return f"; check the api_key of expert {expert.id!r} in the pool"
    if status == 404:
        return f"; check its address and its model {expert.model!r} in the pool"
    if 300 <= status < 400:
        return "; redirects are not followed, write the final address into the pool"
    return ""
