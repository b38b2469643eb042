"""Converts ZeroEval's `result_dirs` (github.com/WildEval/ZeroEval): full texts of many models on reasoning benchmarks.

`<task>/<model>.json` is a list of records with `session_id` and `id` (the same), `question` (MATH: `problem`),
`output` (a list of texts, one a sample), and `answer`, or `choices` and `correct_answer` (the right choice's text).
Answers are read and graded as everywhere else here, not by ZeroEval's own scripts. Other ways of running (sampling,
without reasoning) lie in folders below a task and are left alone.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aggregators.extract import extract
from eval.convert.base import CONVERTERS, TO_SPLIT, Recording
from eval.convert.gathering import Answered, Gathering
from eval.convert.reading import JsonFile, json_files, text_of
from eval.grading import grade, task_format_of
from router_service.errors import ConfigError
from router_service.types import AnswerKind, Question

__all__ = ["Zeroeval"]

_KINDS = {"gsm": AnswerKind.NUMBER, "math-l5": AnswerKind.NUMBER, "crux": AnswerKind.LITERAL}
_TEXTS = ("question", "problem", "puzzle", "instruction")
"""The keys a question may stand under, by task."""


@CONVERTERS.register("zeroeval")
class Zeroeval:
    """Reads the folder `result_dirs`, the folder of one task or the file of one model."""

    def read(self, source: Path) -> Recording:
        """Question ids are `<task>:<id>`; benchmark and category are the task. A model is named as its file is."""
        gathering = Gathering()
        for file in json_files(source):
            path = PurePosixPath(file.path)
            if path.stem.endswith(".summary"):
                continue
            if len(path.parts) > _depth(source):
                gathering.note(f"left alone, another way of running: {path}")
            else:
                _gather(gathering, file, task=_task(source, path))
        gathering.note("pred and correct: read and graded from the recorded texts by Enlist's own rules")
        recording = gathering.recording()
        if not recording.questions and not recording.problems:
            raise ConfigError(
                f"{source} holds no ZeroEval results; give the folder result_dirs or a task's folder in it"
            )
        return recording


def _depth(source: Path) -> int:
    """How many parts a result's path has below `source`: a task's folder holds files, `result_dirs` holds folders."""
    is_task = source.is_dir() and any(_is_result(path) for path in source.glob("*.json"))
    return 2 if source.is_dir() and not is_task else 1


def _is_result(path: Path) -> bool:
    return not path.stem.endswith(".summary")


def _task(source: Path, path: PurePosixPath) -> str:
    if len(path.parts) > 1:
        return path.parts[0]
    return source.name if source.is_dir() else source.resolve().parent.name


def _gather(gathering: Gathering, file: JsonFile, *, task: str) -> None:
    model = PurePosixPath(file.path).stem
    if not isinstance(file.document, list):
        gathering.report(file.path, "not a list of answered questions")
        return
    for number, row in enumerate(file.document, start=1):
        place = f"{file.path}, row {number}"
        try:
            if not isinstance(row, dict):
                raise ValueError(f"{row!r:.60} is no record")
            question = _question(row, task)
            answers = list(_answers(row, question, model))
        except ValueError as malformed:
            gathering.report(place, str(malformed))
            continue
        for answered in answers:
            gathering.add(question, answered, place=place)


def _question(row: Mapping[str, Any], task: str) -> Question:
    recorded_id = row.get("id", row.get("session_id"))
    if not isinstance(recorded_id, int | str) or str(recorded_id).strip() == "":
        raise ValueError(f"id is {recorded_id!r}")
    key = next((key for key in _TEXTS if key in row), _TEXTS[0])
    choices = row.get("choices")
    answer, options, kind = _reference(row, task) if choices is None else _choice(row, choices)
    return Question(
        id=f"{task}:{recorded_id}",
        text=text_of(row, key),
        benchmark=task,
        category=task,
        subject=row.get("config") if choices is not None else None,
        options=options,
        answer=answer,
        answer_kind=kind,
        split=TO_SPLIT,
    )


def _reference(row: Mapping[str, Any], task: str) -> tuple[str, tuple[str, ...], AnswerKind]:
    """The answer to an open question; GSM8K's has a "#" before it."""
    if row.get("answer") is None:
        raise ValueError(
            "there is no reference answer (ZeroEval keeps those of this task apart), so nothing can be graded"
        )
    kind = _KINDS.get(task, AnswerKind.LITERAL)
    answer = str(row["answer"])
    return (answer.replace("#", "").strip() if kind is AnswerKind.NUMBER else answer), (), kind


def _choice(row: Mapping[str, Any], choices: object) -> tuple[str, tuple[str, ...], AnswerKind]:
    right = row.get("correct_answer")
    if not isinstance(choices, list) or right not in choices:
        raise ValueError(f"correct_answer is {right!r:.60}, none of the choices")
    if len(choices) > len(string.ascii_uppercase):
        raise ValueError(f"there are {len(choices)} choices, and the letters A to Z name at most 26")
    letter = string.ascii_uppercase[choices.index(right)]
    return letter, tuple(map(str, choices)), AnswerKind.CHOICE


def _answers(row: Mapping[str, Any], question: Question, model: str) -> Iterator[Answered]:
    outputs = row.get("output")
    if isinstance(outputs, str):
        outputs = [outputs]
    if not isinstance(outputs, list) or not outputs or not all(isinstance(output, str) for output in outputs):
        raise ValueError(f"output is {outputs!r:.60}, not a list of texts")
    for sample, response in enumerate(outputs):
        extracted = extract(response, task_format_of(question))
        yield Answered(
            model=model,
            extracted=extracted,
            correct=grade(extracted, question),
            response=response,
            sample=sample,
        )
