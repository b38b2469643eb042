"""Converts RouterBench (huggingface.co/datasets/withmartian/routerbench): scores, texts and recorded dollars of models.

One row a question: `sample_id`, `prompt`, `eval_name`, and per model the columns `<model>` (a score 0..1),
`<model>|model_response` and `<model>|total_cost` (US dollars); prompts and responses are Python lists written as text,
one element a turn. It is published as a pickle, and loading a pickle runs whatever code its author put there, so
pickles are refused: turn it into CSV or parquet yourself, where that can do no harm.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aggregators.extract import extract
from eval.convert.base import CONVERTERS, TO_SPLIT, Recording
from eval.convert.gathering import Answered, Gathering, grade_of, number_of
from eval.convert.reading import csv_rows, files_at, header_of, text_of
from eval.grading import task_format_of
from router_service.errors import ConfigError
from router_service.types import AnswerKind, Question

__all__ = ["Routerbench"]

_KEYS = ("sample_id", "prompt", "eval_name")
_RESPONSE, _COST = "|model_response", "|total_cost"
_PICKLES = (".pkl", ".pickle")
_KINDS = {"grade-school-math": AnswerKind.NUMBER, "mbpp": AnswerKind.CODE}
_CHOICE = re.compile(r'Print only a single choice\s+from "A"')
"""Every multiple-choice prompt of RouterBench says so."""


@CONVERTERS.register("routerbench")
class Routerbench:
    """Reads RouterBench as CSV or parquet, one file or several."""

    def read(self, source: Path) -> Recording:
        """Question ids are the sample ids; benchmark and category are `eval_name`. A missing cost stays unknown."""
        _refuse_pickles(source)
        gathering = Gathering()
        for path in files_at(source, ".csv", ".parquet"):
            header = _header(path)
            lacking = [key for key in _KEYS if key not in header]
            models = [column for column in header if column + _RESPONSE in header or column + _COST in header]
            if lacking or not models:
                raise ConfigError(
                    f"{path.name} is not RouterBench: it lacks {', '.join(map(repr, lacking)) or 'columns of models'}; "
                    f"a row has {', '.join(_KEYS)} and per model its score, '<model>{_RESPONSE}' and '<model>{_COST}'"
                )
            _gather(gathering, path, models)
        gathering.note("cost_usd is recorded, not imputed; only scores are recorded: there are no reference answers")
        return gathering.recording()


def _refuse_pickles(source: Path) -> None:
    pickles = [path for path in (source, *(source.iterdir() if source.is_dir() else ())) if path.suffix in _PICKLES]
    tables = source.is_dir() and any(path.suffix in (".csv", ".parquet") for path in source.rglob("*"))
    if pickles and not tables:
        name = pickles[0].name
        raise ConfigError(
            f"{name} is a pickle, and loading one runs whatever code is in it; where you trust its source, run "
            f"`python -c \"import pandas; pandas.read_pickle('{name}').to_csv('{pickles[0].stem}.csv', index=False)\"` "
            "in a place of its own (a container) and convert the CSV file"
        )


def _header(path: Path) -> tuple[str, ...]:
    if path.suffix.lower() != ".parquet":
        return header_of(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as damaged:
        raise ConfigError(f"{path.name} is not a readable parquet file: {damaged}") from damaged


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix.lower() != ".parquet":
        yield from csv_rows(path)
        return
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(path).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _gather(gathering: Gathering, path: Path, models: Sequence[str]) -> None:
    for number, row in _rows(path):
        place = f"{path.name}, row {number}"
        try:
            question = _question(row)
            answers = [_answered(row, question, model) for model in models]
        except ValueError as malformed:
            gathering.report(place, str(malformed))
            continue
        for answered in answers:
            gathering.add(question, answered, place=place)


def _question(row: Mapping[str, Any]) -> Question:
    name, text = text_of(row, "eval_name"), _turns(text_of(row, "prompt"))
    kind = AnswerKind.CHOICE if _CHOICE.search(text) else _KINDS.get(name, AnswerKind.FREE)
    return Question(
        id=text_of(row, "sample_id"), text=text, benchmark=name, category=name, answer_kind=kind, split=TO_SPLIT
    )


def _answered(row: Mapping[str, Any], question: Question, model: str) -> Answered:
    try:
        correct, cost = grade_of(row.get(model)), number_of(row.get(model + _COST))
    except ValueError as malformed:
        raise ValueError(f"model {model!r}: {malformed}") from None
    if cost is not None and cost < 0:
        raise ValueError(f"model {model!r}: the cost {cost} is below zero")
    recorded = row.get(model + _RESPONSE)
    response = _turns(recorded) if isinstance(recorded, str) else None
    is_read = response is not None and question.answer_kind is not AnswerKind.FREE
    return Answered(
        model=model,
        correct=correct,
        cost_usd=cost,
        response=response,
        extracted=extract(response or "", task_format_of(question)) if is_read else None,
    )


def _turns(text: str) -> str:
    """The turns of a list written as Python text, with an empty line between them; any other text as it is."""
    try:
        turns = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    if not isinstance(turns, list):
        return text
    return "\n\n".join(str(turn) for turn in turns)
