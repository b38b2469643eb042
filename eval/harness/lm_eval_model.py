"""The model `enlist` for lm-evaluation-harness: `python -m eval.harness.lm_eval_model run --model enlist ...`.

Its own `local-chat-completions` drives an Enlist endpoint too, but stops the whole run at the first query that nobody
can answer, and refuses multiple-choice tasks. This one counts such a query as unanswered, and asks those tasks with
lettered options (`eval.harness.choices`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eval.harness.choices import ChoiceQuestion, choice_chat, likelihoods, messages_of
from eval.harness.endpoint import DEFAULT_URL, Chat, Endpoint
from router_service.errors import ConfigError

__all__ = ["Examinee", "main", "register"]

_log = logging.getLogger(__name__)

_ENLIST_OPTIONS = ("recruiter", "aggregator", "k", "answer_kind")
_STOPS = 4
"""OpenAI's limit of stop sequences."""


class Request(Protocol):
    """What is used of the harness's `Instance`: `args` is (context, continuation or generation arguments)."""

    task_name: str | None
    doc_id: int | None

    @property
    def args(self) -> tuple[Any, ...]:
        """The request's arguments."""
        ...


class Examinee:
    """Answers the harness's requests by asking an endpoint; `enlist` goes with every question."""

    def __init__(self, endpoint: Endpoint, enlist: Mapping[str, object]) -> None:
        unknown = sorted(set(enlist) - set(_ENLIST_OPTIONS))
        if unknown:
            raise ConfigError(f"no model argument {unknown[0]!r}; allowed: {', '.join(_ENLIST_OPTIONS)}")
        self.endpoint = endpoint
        self.enlist = enlist

    def generate(self, requests: Sequence[Request]) -> list[str]:
        """The text that answers each request; an empty one where the query failed, which counts as wrong."""
        chats = [
            Chat(messages=messages_of(request.args[0]), parameters=_parameters(request.args[1]), enlist=self.enlist)
            for request in requests
        ]
        replies = self.endpoint.ask(chats)
        self._tell()
        return [reply.text for reply in replies]

    def choose(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """A stand-in for the log-likelihood of each request, those of one question being asked as one choice."""
        grouped: dict[tuple[str | None, int | None, str], list[int]] = {}
        for position, request in enumerate(requests):
            grouped.setdefault((request.task_name, request.doc_id, request.args[0]), []).append(position)
        questions = [
            ChoiceQuestion(
                name=f"{task} {doc_id}",
                context=context,
                options=tuple(requests[position].args[1] for position in positions),
            )
            for (task, doc_id, context), positions in grouped.items()
        ]
        replies = self.endpoint.ask([choice_chat(question, self.enlist) for question in questions])
        self._tell()
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for question, reply, positions in zip(questions, replies, grouped.values(), strict=True):
            for position, likelihood in zip(positions, likelihoods(question, reply), strict=True):
                results[position] = likelihood
        return results

    def _tell(self) -> None:
        for code, count in self.endpoint.failures.items():
            _log.warning("%d queries without an answer so far (%s)", count, code)


def _parameters(generation: Mapping[str, Any]) -> dict[str, Any]:
    """What of the harness's generation arguments a chat completion has a word for."""
    until = generation.get("until") or []
    stops = [until] if isinstance(until, str) else list(until)
    tokens = generation.get("max_gen_toks", generation.get("max_tokens"))
    given = {
        "stop": stops[:_STOPS] or None,
        "max_tokens": tokens,
        "temperature": generation.get("temperature"),
        "top_p": generation.get("top_p"),
    }
    return {name: value for name, value in given.items() if value is not None}


def register() -> None:
    """Make the harness know the model `enlist`; raises `ConfigError` where the harness is not installed.

    Its arguments: `base_url`, `model`, `num_concurrent`, `timeout_s`, and `recruiter`, `aggregator`, `k`,
    `answer_kind` of the `enlist` object.
    """
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as missing:
        raise ConfigError('this needs lm-evaluation-harness; run `pip install "enlist[harness]"`') from missing

    @register_model("enlist")
    class EnlistModel(LM):  # type: ignore[misc]  # the harness has no types
        """An Enlist endpoint as the harness sees it."""

        tokenizer_name = "enlist"

        def __init__(self, base_url: str = DEFAULT_URL, model: str = "auto", **options: Any) -> None:
            super().__init__()
            for of_the_harness in ("batch_size", "max_batch_size", "device"):
                options.pop(of_the_harness, None)
            endpoint = Endpoint(
                base_url,
                model=model,
                concurrency=int(options.pop("num_concurrent", 8)),
                timeout_s=float(options.pop("timeout_s", 600.0)),
            )
            self.examinee = Examinee(endpoint, options)

        def generate_until(self, requests: list[Request], disable_tqdm: bool = False) -> list[str]:
            return self.examinee.generate(requests)

        def loglikelihood(self, requests: list[Request], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return self.examinee.choose(requests)

        def loglikelihood_rolling(self, requests: list[Request], disable_tqdm: bool = False) -> list[float]:
            raise ConfigError("perplexity needs probabilities, and an endpoint that answers has none")

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return _written(chat_history)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return ""


def _written(messages: Sequence[Mapping[str, str]]) -> str:
    import json

    return json.dumps([dict(message) for message in messages], ensure_ascii=False)


def main() -> None:
    """The harness's own command line, with the model `enlist` known to it."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
