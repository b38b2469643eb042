"""Collects questions and outcomes that are spread over many files, and notices what contradicts or repeats itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eval.convert.base import Problem, Recording
from eval.question_text import normalised_text
from router_service.types import Outcome, Question

__all__ = ["Answered", "Gathering", "grade_of", "number_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What one model said to a question: the answer as read, its grade 0..1, the text and the cost; None is unknown."""

    model: str
    extracted: str | None = None
    correct: float = 0.0
    response: str | None = None
    cost_usd: float | None = None
    sample: int = 0


class Gathering:
    """Fills up file by file; `recording` gives what is consistent.

    A question that files tell differently (text, options or reference answer) is left out for every model and becomes
    a problem: kept for some models only, it would count as wrong for the others. Of two records of one model, question
    and sample the first counts.
    """

    def __init__(self) -> None:
        self._questions: dict[str, tuple[Question, str]] = {}
        self._contradicted: dict[str, str] = {}
        self._outcomes: dict[tuple[str, str, int], Outcome] = {}
        self._responses: dict[tuple[str, str], str] = {}
        self._problems: list[Problem] = []
        self._notes: list[str] = []

    def add(self, question: Question, answered: Answered, *, place: str) -> None:
        """One model's answer to `question`, found at `place`."""
        unwritable = _unwritable(question, answered)
        if unwritable is not None:
            self.report(place, unwritable)
            return
        first, first_place = self._questions.setdefault(question.id, (question, place))
        if _content(first) != _content(question):
            self._contradicted.setdefault(question.id, f"{place} tells it otherwise than {first_place}")
            return
        key = (question.id, answered.model, answered.sample)
        if key in self._outcomes:
            self.report(place, f"question {question.id} of model {answered.model} a second time; the first one counts")
            return
        self._outcomes[key] = Outcome(
            dataset="",
            split=question.split,
            question_id=question.id,
            expert_id=answered.model,
            sample=answered.sample,
            extracted=answered.extracted,
            correct=answered.correct,
            cost_usd=answered.cost_usd,
        )
        if answered.response is not None and answered.sample == 0:
            self._responses[question.id, answered.model] = answered.response

    def report(self, place: str, what: str) -> None:
        """A record that cannot be used."""
        self._problems.append(Problem(place=place, what=what))

    def note(self, text: str) -> None:
        """Something a reader of the dataset must know."""
        self._notes.append(text)

    def recording(self) -> Recording:
        """Everything consistent, and every problem, in the order found."""
        contradictions = tuple(
            Problem(place=f"question {question_id}", what=f"left out for every model, since {what}")
            for question_id, what in self._contradicted.items()
        )
        return Recording(
            questions=tuple(q for q, _ in self._questions.values() if q.id not in self._contradicted),
            outcomes=tuple(o for o in self._outcomes.values() if o.question_id not in self._contradicted),
            responses={key: text for key, text in self._responses.items() if key[0] not in self._contradicted},
            problems=(*self._problems, *contradictions),
            notes=tuple(self._notes),
        )


def _unwritable(question: Question, answered: Answered) -> str | None:
    """Why the files of a dataset cannot hold this; None where they can."""
    said = {"the answer read": answered.extracted, "the response": answered.response}
    named = {"category": question.category, "subject": question.subject, "the reference answer": question.answer}
    options = {f"option {number}": option for number, option in enumerate(question.options, start=1)}
    for name, value in ({"the question": question.text, **named, **options, **said}).items():
        if value is None:
            continue
        if not isinstance(value, str):
            return f"{name} is {value!r:.60}, not a text"
        try:
            value.encode()
        except UnicodeEncodeError as half:
            return f"{name} holds half a character ({half.object[half.start]!a}) at position {half.start}"
    return None


def _content(question: Question) -> tuple[object, ...]:
    options = tuple(normalised_text(option) for option in question.options)
    return normalised_text(question.text), options, question.answer


def grade_of(value: object) -> float:
    """A recorded grade as 0..1; truth values count, as text too. Raises `ValueError` saying what it is instead."""
    named = {"true": 1.0, "false": 0.0}
    text = str(value).strip().casefold()
    grade = named[text] if text in named else number_of(value)
    if grade is None or not 0 <= grade <= 1:
        raise ValueError(f"the grade {value!r} is neither True nor False nor a number from 0 to 1")
    return grade


def number_of(value: object) -> float | None:
    """A finite number, None for an empty or NaN cell; raises `ValueError` for anything else."""
    text = "" if value is None else str(value).strip()
    if not text or text.casefold() == "nan":
        return None
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number
