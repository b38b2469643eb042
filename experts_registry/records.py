"""Questions and graded outcomes as JSON lines: read strictly, written whole, appended so a crash costs one line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError
from router_service.files import end_last_line, is_json, write_atomically
from router_service.types import AnswerKind, Outcome, Question

__all__ = [
    "append_outcomes",
    "outcome_lines",
    "question_lines",
    "read_outcomes",
    "read_questions",
    "write_outcomes",
    "write_questions",
]

_PROBLEMS_SHOWN = 10

M = TypeVar("M", bound=BaseModel)


class _QuestionLine(StrictModel):
    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str | None = None
    answer_kind: AnswerKind = AnswerKind.FREE
    options: tuple[str, ...] | None = None
    category: str | None = None
    subject: str | None = None
    skills: tuple[str, ...] | None = None
    split: str = "fit"
    benchmark: str = ""


class _OutcomeLine(StrictModel):
    dataset: str
    split: str
    question_id: str
    expert_id: str
    sample: int = Field(default=0, ge=0)
    extracted: str | None = None
    correct: float = Field(ge=0, le=1)
    prompt_tokens: int | None = Field(default=None, ge=0)
    completion_tokens: int | None = Field(default=None, ge=0)
    cost_usd: float | None = Field(default=None, ge=0)
    latency_s: float | None = Field(default=None, ge=0)
    logprob: float | None = Field(default=None, allow_inf_nan=False)


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file with the keys id, question, answer, answer_kind, options, category, subject,
    skills, split, benchmark (only id and question are required).

    Raises one `ConfigError` that names every malformed line (the first ten) and every id that occurs twice.
    """
    lines, problems = _parsed(_QuestionLine, path, _complete_lines(path))
    first_line: dict[str, int] = {}
    for number, line in lines:
        if first_line.setdefault(line.id, number) != number:
            problems.append(f"line {number}: id {line.id!r} is line {first_line[line.id]}'s already; ids are unique")
    _raise_any(path, problems)
    return [_question(line) for _, line in lines]


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as JSONL, replacing the file in one step."""
    write_atomically(path, question_lines(questions))


def question_lines(questions: Iterable[Question]) -> str:
    """What `write_questions` writes."""
    return "".join(_line(_question_record(question)) for question in questions)


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of a JSONL file; an unfinished last line, as a killed writer leaves it, is left out.

    Raises one `ConfigError` that names every malformed line (the first ten).
    """
    lines, problems = _parsed(_OutcomeLine, path, _complete_lines(path, is_journal=True))
    _raise_any(path, problems)
    return [Outcome(**line.model_dump()) for _, line in lines]


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write outcomes as JSONL, replacing the file in one step."""
    write_atomically(path, outcome_lines(outcomes))


def outcome_lines(outcomes: Iterable[Outcome]) -> str:
    """What `write_outcomes` writes."""
    return "".join(_line(_outcome_record(outcome)) for outcome in outcomes)


def append_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Add outcomes at the end of a file, on disk when this returns; one writer at a time.

    An unfinished last line of an earlier, killed writer is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        end_last_line(file)
        file.write(outcome_lines(outcomes).encode())
        file.flush()
        os.fsync(file.fileno())


def _complete_lines(path: Path, *, is_journal: bool = False) -> list[bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}") from None
    except OSError as unreadable:
        raise ConfigError(f"cannot read {path}: {unreadable}") from None
    lines = data.split(b"\n")
    if is_journal and lines[-1] and not is_json(lines[-1]):
        lines.pop()
    return lines


def _parsed(model: type[M], path: Path, lines: Iterable[bytes]) -> tuple[list[tuple[int, M]], list[str]]:
    """Every non-empty line as `model` with its number, and what is wrong with the others."""
    parsed: list[tuple[int, M]] = []
    problems: list[str] = []
    for number, content in _records(lines, problems):
        try:
            parsed.append((number, parse_model(model, content, f"line {number}")))
        except ConfigError as problem:
            problems.append(problem.message)
    return parsed, problems


def _records(lines: Iterable[bytes], problems: list[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as malformed:
            problems.append(f"line {number}: not JSON: {malformed}")
            continue
        if isinstance(content, dict):
            yield number, content
        else:
            problems.append(f"line {number}: a JSON object is expected, not {type(content).__name__}")


def _raise_any(path: Path, problems: list[str]) -> None:
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        shown = problems[:_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ConfigError(f"{path} has {len(problems)} malformed line(s):\n" + "\n".join(shown))


def _question(line: _QuestionLine) -> Question:
    return Question(
        id=line.id,
        text=line.question,
        benchmark=line.benchmark,
        category=line.category,
        subject=line.subject,
        options=line.options or (),
        answer=line.answer,
        answer_kind=line.answer_kind,
        split=line.split,
        skills=line.skills or (),
    )


def _question_record(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "question": question.text,
        "answer": question.answer,
        "answer_kind": question.answer_kind.value,
        "options": list(question.options),
        "category": question.category,
        "subject": question.subject,
        "skills": list(question.skills),
        "split": question.split,
        "benchmark": question.benchmark,
    }


def _outcome_record(outcome: Outcome) -> dict[str, Any]:
    return {f.name: getattr(outcome, f.name) for f in fields(outcome)}


def _line(record: dict[str, Any]) -> str:
    """Compact JSON; what is not set is left out. Half a surrogate pair has no UTF-8, so such a text is escaped."""
    kept = {key: value for key, value in record.items() if value is not None and value != []}
    text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    is_writable = not any("\ud800" <= character <= "\udfff" for character in text)
    return (text if is_writable else json.dumps(kept, separators=(",", ":"))) + "\n"
