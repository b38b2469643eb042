"""The backend `litellm`: experts of every provider that the package litellm knows, by its model names."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from router_service.backends._chat_backend import ChatBackend, Piece
from router_service.backends._chat_reply import StreamedReply, read_replies
from router_service.backends._chat_request import chat_request, request_seed
from router_service.backends._options import read_options
from router_service.backends._upstream_errors import complaint_of, error_for_status, retry_after_s
from router_service.backends.base import BACKENDS
from router_service.errors import ConfigError, ExpertError, ExpertUnavailable
from router_service.types import Assignment, Completion, Expert, TokenDelta, Usage

__all__ = ["Litellm", "LitellmOptions"]

_INSTALL = 'pip install "enlist[litellm]"'
_BAD_VERSIONS = ("1.82.7", "1.82.8", "1.107.")
"""Releases that carried malware (2026-03, BerriAI/litellm issues 24512 and 24518; 2026-10): never imported."""
_SETTINGS = {"suppress_debug_info": True, "telemetry": False, "drop_params": False}
"""No printing, no calling home, and a parameter that a model does not support is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LitellmOptions:
    """What a pool entry may say in `options` for this backend."""

    supports_n: bool = True
    """Ask for several samples in one request where litellm says that the model can."""
    api_version: str = ""
    """Version of the API, for providers that want one (Azure)."""


@BACKENDS.register("litellm")
class Litellm(ChatBackend):
    """Calls `litellm.acompletion` with the expert's model (`anthropic/...`, `gemini/...`), key and address.

    The package is imported when the first expert is checked or asked, without telemetry, and with its own price list
    as shipped. Parameters that a model does not support are an error, seeds and `n` apart. Options: `LitellmOptions`.
    """

    def takes_n(self, expert: Expert) -> bool:
        """As option and litellm's table of parameters say."""
        return read_options(expert, LitellmOptions).supports_n and "n" in _supported(expert)

    async def request(self, expert: Expert, assignment: Assignment, *, first: int, samples: int) -> list[Completion]:
        """One call, read whole."""
        litellm = await asyncio.to_thread(_litellm)
        started = time.perf_counter()
        arguments = _arguments(expert, assignment, first) | ({"n": samples} if samples > 1 else {})
        with _told_as_expert_errors(expert):
            response = await litellm.acompletion(**arguments)
            completions = read_replies(response.model_dump(), expert=expert, assignment=assignment, first=first)
        latency_s = time.perf_counter() - started
        return [_priced(replace(c, latency_s=latency_s), expert) for c in completions[:samples]]

    async def stream(self, expert: Expert, assignment: Assignment) -> AsyncGenerator[Piece, None]:
        """One call, read as it comes."""
        litellm = await asyncio.to_thread(_litellm)
        started = time.perf_counter()
        arguments = _arguments(expert, assignment, assignment.first_sample) | {"stream": True}
        if "stream_options" in _supported(expert):
            arguments["stream_options"] = {"include_usage": True}
        reply = StreamedReply(expert=expert, assignment=assignment)
        with _told_as_expert_errors(expert):
            chunks = await litellm.acompletion(**arguments)
            try:
                async for chunk in chunks:
                    text = reply.add(chunk.model_dump())
                    if text:
                        yield TokenDelta(query_id=assignment.query.id, text=text)
            finally:
                await _close(chunks)
            # litellm makes up a last chunk that says "stop"; what the provider itself said is kept apart
            if getattr(chunks, "received_finish_reason", reply.finish_reason) is None:
                raise ExpertUnavailable(
                    f"{expert.id}'s stream was cut: it ended without finish_reason", expert_id=expert.id
                )
        yield _priced(replace(reply.completion(), latency_s=time.perf_counter() - started), expert)

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` where litellm is missing, a known bad release, or knows no provider for the model."""
        read_options(expert, LitellmOptions)
        litellm = _litellm()
        try:
            litellm.get_llm_provider(model=expert.model, api_base=expert.address)
        except litellm.exceptions.BadRequestError:
            raise ConfigError(
                f"expert {expert.id!r}: litellm knows no provider for the model {expert.model!r}; write it as "
                "provider/model, for instance anthropic/claude-sonnet-4-5 or openai/NAME with an address"
            ) from None

    async def aclose(self) -> None:
        """Close litellm's shared connections, if it was ever loaded."""
        if _litellm.cache_info().currsize:
            await _litellm().close_litellm_async_clients()


@cache
def _litellm() -> Any:
    """The package, set up quietly; importing it takes seconds, so it is done once and late."""
    _refuse_bad_release()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network for prices
    try:
        package = importlib.import_module("litellm")
    except ImportError as missing:
        raise ConfigError(f"the backend litellm needs the package litellm: {_INSTALL}") from missing
    for name, value in _SETTINGS.items():
        setattr(package, name, value)
    return package


def _refuse_bad_release() -> None:
    try:
        version = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"the backend litellm needs the package litellm: {_INSTALL}") from None
    check_release(version)


def check_release(version: str) -> None:
    """Raise `ConfigError` for a release of litellm that must not be imported."""
    if f"{version}.".startswith(tuple(bad if bad.endswith(".") else f"{bad}." for bad in _BAD_VERSIONS)):
        raise ConfigError(
            f"litellm {version} is a release that carried malware; it was not imported. Remove it, check the machine, "
            f"change its keys, and install another one: {_INSTALL}"
        )


def _supported(expert: Expert) -> list[str]:
    """OpenAI's parameters that litellm can translate for the model; none where it does not know it."""
    return _litellm().get_supported_openai_params(model=expert.model) or []


def _arguments(expert: Expert, assignment: Assignment, first: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": expert.model,
        **chat_request(expert, assignment.query),
        "timeout": expert.limits.timeout_s,
        "num_retries": 0,
        "max_retries": 0,  # the runner retries, within the query's deadline and budget
    }
    if "seed" in _supported(expert):
        arguments["seed"] = request_seed(assignment, first)
    if expert.api_key is not None:
        arguments["api_key"] = expert.api_key.reveal()
    if expert.address is not None:
        arguments["api_base"] = expert.address
    if api_version := read_options(expert, LitellmOptions).api_version:
        arguments["api_version"] = api_version
    return arguments


def _priced(completion: Completion, expert: Expert) -> Completion:
    """The cost by litellm's list where the pool has no price; unknown stays unknown, so does an own server's."""
    usage = completion.usage
    if expert.prices is not None or expert.address is not None or not (usage.prompt_tokens + usage.completion_tokens):
        return completion
    try:
        parts = _litellm().cost_per_token(
            model=expert.model, prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
        )
    except Exception:  # litellm has no single error for a model it has no price of
        return completion
    priced = Usage(
        completions=usage.completions,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cost_usd=float(sum(parts)),
    )
    return replace(completion, usage=priced)


@contextmanager
def _told_as_expert_errors(expert: Expert) -> Iterator[None]:
    """litellm's exceptions by their HTTP status; what has none is passed on."""
    try:
        yield
    except ExpertError:
        raise
    except ValueError as malformed:
        raise ExpertUnavailable(f"{expert.id} sent no chat reply: {malformed}", expert_id=expert.id) from None
    except Exception as error:
        status = getattr(error, "status_code", None)
        if not isinstance(status, int) or status < 300:
            raise
        wait_s = retry_after_s(_headers(error).get("retry-after"))
        raise error_for_status(expert, status, complaint_of(str(error), expert), wait_s=wait_s) from None


def _headers(error: Exception) -> Mapping[str, str]:
    for owner in (error, getattr(error, "response", None)):
        for name in ("litellm_response_headers", "headers"):
            headers = getattr(owner, name, None)
            if headers:
                return {str(key).lower(): str(value) for key, value in headers.items()}
    return {}


async def _close(chunks: Any) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()
