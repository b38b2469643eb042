"""Puts a multiple-choice task, made for comparing probabilities of texts, as a question with lettered options."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.harness.endpoint import Chat, Reply
from router_service.errors import ConfigError
from router_service.types import stable_seed

__all__ = ["CHOSEN", "NOT_CHOSEN", "ChoiceQuestion", "choice_chat", "chosen", "likelihoods", "messages_of"]

CHOSEN, NOT_CHOSEN = (0.0, True), (-100.0, False)
"""What stands in for the log-likelihood of an option, and whether it is what the model would say: of the option that
was answered, and of any other. Accuracies come out right from these, plain or normalised by length; nothing else."""

_INSTRUCTION = "Answer with the letter of the right option."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceQuestion:
    """A context and the texts that may follow it. `name` is of this question alone."""

    name: str
    context: str
    options: tuple[str, ...]


def messages_of(context: str) -> tuple[Mapping[str, str], ...]:
    """The chat that a context holds: a JSON list of messages where the harness made one, else the text of a user."""
    if context.startswith('[{"role"'):
        return tuple(json.loads(context))
    return ({"role": "user", "content": context},)


def choice_chat(question: ChoiceQuestion, enlist: Mapping[str, object]) -> Chat:
    """The question with its options lettered below it, unless they are the letters themselves.

    Raises `ConfigError` where the task compares something else than the ends of one text.
    """
    options = [option.strip() for option in question.options]
    letters = list(string.ascii_uppercase[: len(options)])
    if not question.context.strip() or len(options) < 2 or len(options) > len(string.ascii_uppercase):
        raise ConfigError(
            f"{question.name} cannot be asked as a multiple choice: it needs a question and 2 to 26 options, here are "
            f"{len(options)}; an endpoint that answers has no probabilities, so take the task's generating variant"
        )
    listed = [] if options == letters else [f"{letter}) {text}" for letter, text in zip(letters, options, strict=True)]
    *before, last = messages_of(question.context)
    content = "\n".join([last["content"], "", *listed, *([""] if listed else []), _INSTRUCTION])
    return Chat(
        messages=(*before, {**last, "content": content}),
        enlist={**enlist, "answer_kind": "choice", "options": options},
    )


def chosen(question: ChoiceQuestion, reply: Reply) -> int:
    """The position of the option that was answered; where none can be read, one drawn by the question's name.

    A harness takes the likeliest option and has no word for "no answer"; drawing one at random is what MMLU-Pro's own
    scorer does, and keeps the first option from being everybody's guess.
    """
    letters = string.ascii_uppercase[: len(question.options)]
    if reply.extracted is not None and len(reply.extracted) == 1 and reply.extracted in letters:
        return letters.index(reply.extracted)
    return stable_seed("no answer", question.name) % len(question.options)


def likelihoods(question: ChoiceQuestion, reply: Reply) -> Sequence[tuple[float, bool]]:
    """One stand-in per option, in their order."""
    answered = chosen(question, reply)
    return [CHOSEN if position == answered else NOT_CHOSEN for position in range(len(question.options))]
