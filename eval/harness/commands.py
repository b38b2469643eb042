"""Writes the command that lets a harness ask an Enlist endpoint, with the settings that keep its figures honest."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval.harness.endpoint import DEFAULT_URL
from router_service.errors import UnknownNameError

__all__ = ["HARNESSES", "HarnessCommand", "HarnessPlan", "harness_command"]

HARNESSES = ("inspect", "lm-eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessPlan:
    """What to run where; `further` is passed on as it is. Options that are None are left to the service."""

    tasks: tuple[str, ...]
    url: str = DEFAULT_URL
    model: str = "auto"
    recruiter: str | None = None
    aggregator: str | None = None
    k: int | None = None
    answer_kind: str | None = None
    concurrency: int = 8
    limit: int | None = None
    further: tuple[str, ...] = ()

    @property
    def enlist(self) -> dict[str, object]:
        """The `enlist` object of every request."""
        given = {name: getattr(self, name) for name in ("recruiter", "aggregator", "k", "answer_kind")}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def api_url(self) -> str:
        """The address that OpenAI's clients want, which ends in /v1."""
        return f"{self.url.rstrip('/').removesuffix('/v1')}/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessCommand:
    """A command with the environment variables it needs unless they are set."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(
            [*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), shlex.join(self.words)]
        )


def harness_command(harness: str, plan: HarnessPlan) -> HarnessCommand:
    """The command for `lm-eval` or `inspect`; raises `UnknownNameError` for any other."""
    if harness == "lm-eval":
        return HarnessCommand(words=(sys.executable, *_lm_eval(plan)))
    if harness == "inspect":
        return HarnessCommand(words=tuple(_inspect(plan)), environment={"ENLIST_API_KEY": "unused"})
    raise UnknownNameError("harness", harness, HARNESSES)


def _lm_eval(plan: HarnessPlan) -> Sequence[str]:
    """With chat templates, so that few-shot examples arrive as a conversation; the model is `eval.harness`'s own."""
    arguments = {"base_url": plan.api_url, "model": plan.model, "num_concurrent": plan.concurrency, **plan.enlist}
    words = ["-m", "eval.harness.lm_eval_model", "run", "--model", "enlist", "--model_args"]
    words += [",".join(f"{name}={value}" for name, value in arguments.items())]
    words += ["--tasks", ",".join(plan.tasks), "--apply_chat_template"]
    words += ["--limit", str(plan.limit)] if plan.limit is not None else []
    return [*words, *plan.further]


def _inspect(plan: HarnessPlan) -> Sequence[str]:
    """One try a question and errors scored as wrong: by default Inspect would ask a question that no expert can answer
    again for ever, and each try is paid for."""
    words = ["inspect", "eval", *plan.tasks, "--model", f"openai-api/enlist/{plan.model}"]
    words += ["--model-base-url", plan.api_url, "--max-connections", str(plan.concurrency)]
    words += ["--max-retries", "0", "--no-fail-on-error", "--score-on-error"]
    words += ["--extra-body", json.dumps({"enlist": plan.enlist})] if plan.enlist else []
    words += ["--limit", str(plan.limit)] if plan.limit is not None else []
    return [*words, *plan.further]
