"""Reads LiteLLM's `model_list` as a pool: every deployment becomes an expert of the `litellm` backend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError

__all__ = ["from_model_list", "is_model_list"]

_BACKEND = "litellm"
_TOKENS_PER_MTOK = 1_000_000
_OTHER_SECTIONS = frozenset(
    {"environment_variables", "general_settings", "litellm_settings", "router_settings", "guardrails", "mcp_servers"}
)
_NOT_APPLIED = re.compile(
    r"rpm|tpm|itpm|otpm|weight|order|tags|tag_regex|tier|max_budget|budget_duration|mock_response|stream_timeout"
    r"|cooldown_time|num_retries|litellm_credential_name|litellm_trace_id|configurable_clientside_auth_params"
    r"|merge_reasoning_content_in_choices|use_in_pass_through|use_litellm_proxy|use_chat_completions_api|keepalive_seconds"
    r"|tiered_pricing|(input|output)_cost_per_\w+|cost_per_second|cache_\w+|fallbacks|default_api_key_\w+"
    r"|aws_\w+|azure_\w+|vertex_\w+|watsonx_\w+|anthropic_\w+|openai_\w+|client_id|client_secret|tenant_id"
    r"|organization|region_name|drop_params|extra_body|extra_headers|headers|thinking|reasoning_effort|seed|n|user|response_format|metadata"
)
"""Keys of `litellm_params` that LiteLLM knows and that are not applied here: named in a warning, not an error.

What a cloud provider needs besides (regions, projects, credentials) LiteLLM also reads from the environment."""
_CALL_OPTIONS = ("api_version",)
"""Keys that the `litellm` backend takes as options of an expert, as they are."""


class _Deployment(StrictModel):
    model_name: str = Field(min_length=1)
    litellm_params: dict[str, Any]
    model_info: dict[str, Any] = Field(default_factory=dict)


class _Section(StrictModel):
    model_list: list[dict[str, Any]] = Field(min_length=1)


class _Parameters(StrictModel):
    """What is read of `litellm_params`; values are checked when the entry is."""

    model: str
    api_base: Any = None
    base_url: Any = None
    api_key: Any = None
    timeout: Any = None
    max_retries: int | None = None
    max_parallel_requests: Any = None
    temperature: Any = None
    top_p: Any = None
    max_tokens: Any = None
    stop: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    input_cost_per_token: float | None = None
    output_cost_per_token: float | None = None
    api_version: Any = None
    custom_llm_provider: str | None = None


class _Info(StrictModel):
    """What is read of `model_info`, which may hold anything besides."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    mode: str | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    supports_vision: bool = False
    supports_audio_input: bool = False
    input_cost_per_token: float | None = None
    output_cost_per_token: float | None = None


def is_model_list(data: Mapping[str, Any]) -> bool:
    """Whether the file is in LiteLLM's shape rather than in ours."""
    return "model_list" in data and "experts" not in data


def from_model_list(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The pool file's content that says the same, and warnings about what is known and not applied.

    Deployments that share a `model_name` become experts of their own: `name`, `name-2`, `name-3`. Raises
    `ConfigError` for a key that LiteLLM does not know either, naming the nearest.
    """
    others = sorted(key for key in data if key in _OTHER_SECTIONS)
    warnings = [f"not read: {', '.join(others)}"] if others else []
    sections = {key: value for key, value in data.items() if key not in _OTHER_SECTIONS}
    listed = parse_model(_Section, sections, "the LiteLLM configuration").model_list
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    for position, raw in enumerate(listed):
        label = f"model_list.{position} ({raw.get('model_name', 'no model_name')!r})"
        try:
            entry = _entry(raw, label, warnings)
        except ConfigError as problem:
            problems.append(problem.message)
        else:
            entries += [entry] if entry is not None else []
    if problems:
        raise ConfigError("\n".join(problems))
    _make_ids_distinct(entries)
    return {"experts": entries}, warnings


def _entry(raw: Mapping[str, Any], label: str, warnings: list[str]) -> dict[str, Any] | None:
    deployment = parse_model(_Deployment, raw, label)
    if "*" in deployment.model_name:
        raise ConfigError(f"{label}: a wildcard names no model; list each model as a deployment of its own")
    given = deployment.litellm_params
    unused = [k for k in given if k not in _Parameters.model_fields and _NOT_APPLIED.fullmatch(k)]
    if unused:
        warnings.append(f"{label}: not applied: {', '.join(sorted(unused))}")
    source = f"litellm_params of {label}"
    parameters = parse_model(_Parameters, {k: v for k, v in given.items() if k not in unused}, source)
    info = parse_model(_Info, deployment.model_info, f"model_info of {label}")
    if info.mode not in (None, "chat", "completion", "responses"):
        warnings.append(f"{label}: left out: its mode is {info.mode!r}, and experts chat")
        return None
    entry = {
        "id": deployment.model_name,
        "model": _model(parameters),
        "backend": _BACKEND,
        "address": parameters.api_base or parameters.base_url,
        "api_key": parameters.api_key,
        "prices": _prices(parameters, info, label=label, warnings=warnings),
        "context_window": info.max_input_tokens,
        "max_output_tokens": _at_most(info.max_output_tokens, info.max_input_tokens),
        "modalities": _modalities(info),
        "sampling": _chosen(parameters, tuple(_SAMPLING)),
        "limits": _limits(parameters),
        "options": _chosen(parameters, _CALL_OPTIONS),
    }
    return {key: value for key, value in entry.items() if value not in (None, {})}


_SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "presence_penalty", "frequency_penalty")


def _model(parameters: _Parameters) -> str:
    """The model with its provider in front, which is LiteLLM's other way to name one."""
    provider = parameters.custom_llm_provider
    if provider is None or parameters.model.startswith(f"{provider}/"):
        return parameters.model
    return f"{provider}/{parameters.model}"


def _chosen(parameters: _Parameters, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(parameters, name) for name in names if getattr(parameters, name) is not None}


def _limits(parameters: _Parameters) -> dict[str, Any]:
    attempts = None if parameters.max_retries is None else parameters.max_retries + 1
    limits = {
        "timeout_s": parameters.timeout,
        "max_attempts": attempts,
        "max_concurrency": parameters.max_parallel_requests,
    }
    return {name: value for name, value in limits.items() if value is not None}


def _modalities(info: _Info) -> list[str]:
    read = {"text": True, "image": info.supports_vision, "audio": info.supports_audio_input}
    return [name for name, is_read in read.items() if is_read]


def _prices(parameters: _Parameters, info: _Info, *, label: str, warnings: list[str]) -> dict[str, float] | None:
    """Prices where both sides are given, in the parameters or in the model's information; else unknown."""
    paid_in = _first(parameters.input_cost_per_token, info.input_cost_per_token)
    paid_out = _first(parameters.output_cost_per_token, info.output_cost_per_token)
    if paid_in is None and paid_out is None:
        return None
    if paid_in is None or paid_out is None:
        missing = "input_cost_per_token" if paid_in is None else "output_cost_per_token"
        warnings.append(f"{label}: its price is unknown: {missing} is not given")
        return None
    return {
        "input_usd_per_mtok": paid_in * _TOKENS_PER_MTOK,
        "output_usd_per_mtok": paid_out * _TOKENS_PER_MTOK,
    }


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _at_most(value: int | None, most: int | None) -> int | None:
    return value if value is None or most is None else min(value, most)


def _make_ids_distinct(entries: Iterable[dict[str, Any]]) -> None:
    """The first deployment of a name keeps it; the next get the lowest free number from 2 on."""
    entries = list(entries)
    names = {entry["id"] for entry in entries}
    taken: set[str] = set()
    for entry in entries:
        name, number = entry["id"], 2
        while entry["id"] in taken or (number > 2 and entry["id"] in names):
            entry["id"] = f"{name}-{number}"
            number += 1
        taken.add(entry["id"])
