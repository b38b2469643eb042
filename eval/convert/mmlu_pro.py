"""Converts MMLU-Pro's `eval_results` (github.com/TIGER-AI-Lab/MMLU-Pro): one JSON list of answered questions a model.

A record has `question_id`, `question`, `options`, `answer` (a letter), `answer_index`, `category`, `src`, `pred` (a
letter, or null where none was read) and the full text as `model_outputs` (earlier runs: `response`). The lists lie in
`model_outputs_<MODEL>_5shots.zip`, `<MODEL>/<category>_result.json` or `<MODEL>/CoT/all/<category>.json`, depending on
when and how a model was run. Where `pred` is null the benchmark's own scorer guesses an option by chance; here it
counts as wrong.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aggregators.extract import extract
from eval.convert.base import CONVERTERS, TO_SPLIT, Recording
from eval.convert.gathering import Answered, Gathering
from eval.convert.reading import JsonFile, json_files, text_of
from eval.grading import grade, task_format_of
from router_service.errors import ConfigError
from router_service.types import AnswerKind, Question

__all__ = ["MmluPro"]

_NAMED = re.compile(r"model_outputs_(?P<model>.+?)(?:_\d+shots?)?(?:\.zip|\.json)?$")
_FILLER = "N/A"
"""The dataset fills the options of some questions up to ten with this; the benchmark takes it out, and so do we."""


@CONVERTERS.register("mmlu_pro")
class MmluPro:
    """Reads a folder, a zip archive or a single list of MMLU-Pro answers."""

    def read(self, source: Path) -> Recording:
        """Question ids are the benchmark's; `category` is its category, `subject` where the question came from."""
        gathering = Gathering()
        for file in json_files(source):
            if "summary" not in PurePosixPath(file.path).name:
                _gather(gathering, file)
        gathering.note("pred = the answer recorded with each response; none counts as wrong, where the scorer guesses")
        recording = gathering.recording()
        if not recording.questions and not recording.problems:
            raise ConfigError(f"{source} holds no list of MMLU-Pro answers; give the folder eval_results or part of it")
        return recording


def _gather(gathering: Gathering, file: JsonFile) -> None:
    model = _model_of(PurePosixPath(file.path))
    if model is None:
        gathering.report(file.path, "no model's name in it; put it into a folder that is named after the model")
        return
    if not isinstance(file.document, list):
        gathering.report(file.path, "not a list of answered questions")
        return
    for number, row in enumerate(file.document, start=1):
        place = f"{file.path}, row {number}"
        try:
            if not isinstance(row, dict):
                raise ValueError(f"{row!r:.60} is no record")
            question = _question(row)
            answered = _answered(row, question, model)
        except ValueError as malformed:
            gathering.report(place, str(malformed))
        else:
            gathering.add(question, answered, place=place)


def _model_of(path: PurePosixPath) -> str | None:
    """The model whose answers a file holds: after `model_outputs_`, else the folder above `CoT`, else the folder."""
    for part in path.parts:
        if named := _NAMED.match(part):
            return named["model"]
    folders = path.parts[:-1]
    if "CoT" in folders[1:]:
        return folders[folders.index("CoT") - 1]
    if folders:
        return folders[-1].removesuffix(".zip")
    return None if path.stem.endswith("_result") else path.stem


def _question(row: Mapping[str, Any]) -> Question:
    options = row.get("options")
    if not isinstance(options, list) or not options or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options are {options!r:.60}, not a list of texts")
    options = [option for option in options if option.strip() != _FILLER]
    answer, index = text_of(row, "answer").strip(), row.get("answer_index")
    letters = string.ascii_uppercase[: len(options)]
    if len(answer) != 1 or answer not in letters:
        raise ValueError(f"the answer {answer!r} is none of {letters}, the letters of its {len(options)} options")
    if index is not None and index != letters.index(answer):
        raise ValueError(f"the answer is {answer!r} and answer_index {index!r}: they name two options")
    question_id = row.get("question_id")
    if not isinstance(question_id, int | str) or str(question_id).strip() == "":
        raise ValueError(f"question_id is {question_id!r}")
    return Question(
        id=str(question_id),
        text=text_of(row, "question"),
        benchmark="mmlu_pro",
        category=row.get("category"),
        subject=row.get("src"),
        options=tuple(options),
        answer=answer,
        answer_kind=AnswerKind.CHOICE,
        split=TO_SPLIT,
    )


def _answered(row: Mapping[str, Any], question: Question, model: str) -> Answered:
    response = row.get("model_outputs", row.get("response"))
    if response is not None and not isinstance(response, str):
        raise ValueError(f"model_outputs is {response!r:.60}, not a text")
    if "pred" not in row and response is None:
        raise ValueError("neither pred nor model_outputs says what the model answered")
    recorded = row["pred"] if "pred" in row else extract(response or "", task_format_of(question))
    letter = _letter(recorded)
    return Answered(model=model, extracted=letter, correct=grade(letter, question), response=response)


def _letter(recorded: object) -> str | None:
    if recorded is None or recorded == "":
        return None
    if isinstance(recorded, str) and (found := re.fullmatch(r"\(?([A-P])\)?\.?", recorded.strip())):
        return found[1]
    raise ValueError(f"pred is {recorded!r:.60}, not the letter of an option")
