"""Puts a benchmark question to an expert and grades what came back: the one place where right and wrong are decided."""

from __future__ import annotations

import json
import re
import string

from aggregators.equivalence import canonical, same_answer
from aggregators.extract import extract
from router_service.errors import ConfigError, InvalidQuery
from router_service.types import AnswerKind, Message, Query, Question, TaskFormat

__all__ = ["REGEX_PREFIX", "grade", "question_query", "task_format_of"]

REGEX_PREFIX = "re:"
"""A reference answer that starts so is a regular expression; the whole answer must match it, in any case."""

_MAX_MATCHED_CHARS = 10_000
"""A longer answer matches no regular expression: a careless one could take for ever on it."""

_CHOICE_INSTRUCTION = "Answer with the letter of the right option."


def task_format_of(question: Question) -> TaskFormat:
    """What an answer to `question` must look like; `InvalidQuery` where it has more options than there are letters."""
    if len(question.options) > len(string.ascii_uppercase):
        raise InvalidQuery(
            f"question {question.id!r} has {len(question.options)} options, and the letters A to Z name at most "
            f"{len(string.ascii_uppercase)}; leave some out, or ask without options for a literal answer"
        )
    return TaskFormat(kind=question.answer_kind, options=question.options)


def question_query(question: Question, *, seed: int | None = None) -> Query:
    """The query that puts `question`: its options lettered "A) ...", anything else exactly as it is written.

    A number or literal question gets no instruction on how to answer, for a small expert was trained on the bare
    question and does worse with one. What is recorded of the question travels in `metadata`: `skills` (a JSON list),
    `category` and `benchmark`, each only where known. Raises `InvalidQuery` for more than 26 options.
    """
    text, task_format = question.text, task_format_of(question)
    if question.answer_kind is AnswerKind.CHOICE and question.options:
        lines = [
            f"{letter}) {option}" for letter, option in zip(string.ascii_uppercase, question.options, strict=False)
        ]  # task_format_of has seen to it that the letters suffice
        text = "\n".join([text, "", *lines, "", _CHOICE_INSTRUCTION])
    metadata = {"category": question.category, "benchmark": question.benchmark}
    if question.skills:
        metadata["skills"] = json.dumps(list(question.skills), ensure_ascii=False)
    return Query(
        id=question.id,
        messages=(Message(role="user", content=text),),
        task_format=task_format,
        seed=seed,
        metadata={key: value for key, value in metadata.items() if value},
    )


def grade(extracted: str | None, question: Question) -> float:
    """1.0 where `extracted` is the right answer to `question`, else 0.0; no answer is a wrong one.

    A choice is right by letter, or by an option's text; a number by value (math-verify for formulas); a literal by its
    text but for white space and quotes; JSON by value; code by its lines, for running it is not this module's business;
    a free text as a literal, whole or as the answer it states. A reference that starts with `re:` is matched as a
    regular expression. Raises `ConfigError` for a question without a reference answer or with a broken expression.
    """
    if question.answer is None:
        raise ConfigError(
            f"question {question.id!r} has no reference answer, so nothing said to it can be graded; "
            f"give it an `answer` or leave it out"
        )
    if extracted is None or not extracted.strip():
        return 0.0
    if question.answer.startswith(REGEX_PREFIX):
        return float(_matches(extracted.strip(), question))
    return float(_is_right(extracted, question.answer, question))


def _is_right(extracted: str, reference: str, question: Question) -> bool:
    kind = question.answer_kind
    if kind is AnswerKind.CHOICE:
        task_format = task_format_of(question)
        said, right = (extract(text, task_format) or text for text in (extracted, reference))
        return same_answer(said, right, kind)
    if kind is AnswerKind.FREE:
        stated = extract(extracted, TaskFormat(kind=AnswerKind.LITERAL)) or ""
        key = canonical(reference, AnswerKind.LITERAL).casefold()
        return key in {canonical(text, AnswerKind.LITERAL).casefold() for text in (extracted, stated)}
    return same_answer(extracted, reference, kind)


def _matches(extracted: str, question: Question) -> bool:
    pattern = (question.answer or "").removeprefix(REGEX_PREFIX).strip()
    try:
        expression = re.compile(pattern, re.IGNORECASE | re.DOTALL)
    except re.error as broken:
        raise ConfigError(
            f"question {question.id!r}: the reference answer {pattern!r} is no regular expression ({broken}); "
            f"mend it, or drop the prefix {REGEX_PREFIX!r} to have it compared as text"
        ) from broken
    return len(extracted) <= _MAX_MATCHED_CHARS and expression.fullmatch(extracted) is not None
