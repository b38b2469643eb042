"""Converts RouteLLM's recorded answers (github.com/lm-sys/RouteLLM, `routellm/evals`): correctness of two models.

`mmlu/responses/mmlu_<subject>.csv` has the columns `prompt` and one per model (True or False);
`gsm8k/gsm8k_responses.csv` has `<model>_response` besides. The paper's evaluation leaves the prompts of
`contaminated_prompts.jsonl` (key `eval_prompt`) out, since its routers were trained on them: they go to a split of
their own, which nothing is fitted or judged on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregators.extract import extract
from eval.convert.base import CONVERTERS, TO_SPLIT, Recording
from eval.convert.gathering import Answered, Gathering, grade_of
from eval.convert.reading import csv_rows, files_at, header_of, text_of
from eval.grading import task_format_of
from router_service.errors import ConfigError
from router_service.types import AnswerKind, Question

__all__ = ["CONTAMINATED", "Routellm"]

CONTAMINATED = "contaminated"
"""The split of prompts that RouteLLM's routers were trained on."""

_PROMPT = "prompt"
_RESPONSE = "_response"
_MMLU = re.compile(r"mmlu_(?P<subject>.+)")


@dataclass(frozen=True, slots=True)
class _Table:
    """What a file's name says: benchmark and subject, as RouteLLM names them."""

    path: Path
    benchmark: str
    subject: str
    kind: AnswerKind


@CONVERTERS.register("routellm")
class Routellm:
    """Reads the folder `routellm/evals`, a folder of its csv files or one of them."""

    def read(self, source: Path) -> Recording:
        """Question ids are `<benchmark>:<subject>:<row>` (`gsm8k:<row>`), rows counted from 0 as in the files."""
        tables = [_table(path) for path in files_at(source, ".csv") if _PROMPT in header_of(path)]
        if not tables:
            raise ConfigError(
                f"{source} holds no csv file with a column 'prompt'; give RouteLLM's folder routellm/evals"
            )
        contaminated = _contaminated(source)
        gathering = Gathering()
        for table in tables:
            _gather(gathering, table, contaminated)
        gathering.note("only correctness is recorded: there are no reference answers")
        if contaminated:
            gathering.note(f"split {CONTAMINATED!r}: prompts listed in contaminated_prompts.jsonl")
        return gathering.recording()


def _table(path: Path) -> _Table:
    stem = path.stem
    if named := _MMLU.fullmatch(stem):
        return _Table(path, "mmlu", named["subject"], AnswerKind.CHOICE)
    benchmark = stem.removesuffix("_responses")
    kind = AnswerKind.NUMBER if benchmark == "gsm8k" else AnswerKind.FREE
    return _Table(path, benchmark, benchmark, kind)


def _contaminated(source: Path) -> frozenset[str]:
    folder = source if source.is_dir() else source.parent
    prompts = set()
    for path in sorted(folder.rglob("contaminated_prompts.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                prompts.add(text_of(json.loads(line), "eval_prompt"))
            except (ValueError, AttributeError) as malformed:
                raise ConfigError(f"{path}, line {number} lists no contaminated prompt: {malformed}") from malformed
    return frozenset(prompts)


def _gather(gathering: Gathering, table: _Table, contaminated: frozenset[str]) -> None:
    models = _models(header_of(table.path))
    if not models:
        gathering.report(table.path.name, "no column of a model besides the prompt")
    for number, row in csv_rows(table.path):
        place = f"{table.path.name}, row {number}"
        try:
            text = text_of(row, _PROMPT)
            question = _question(table, text, number, split=CONTAMINATED if text in contaminated else TO_SPLIT)
            answers = [_answered(row, question, model) for model in models]
        except ValueError as malformed:
            gathering.report(place, str(malformed))
            continue
        for answered in answers:
            gathering.add(question, answered, place=place)


def _models(header: Sequence[str]) -> tuple[str, ...]:
    """Every column but the prompt, those of responses and the unnamed one that pandas writes for its index."""
    texts = {column + _RESPONSE for column in header}
    return tuple(column for column in header if column not in ("", _PROMPT) and column not in texts)


def _question(table: _Table, text: str, number: int, *, split: str) -> Question:
    parts = (table.benchmark,) if table.benchmark == table.subject else (table.benchmark, table.subject)
    return Question(
        id=":".join((*parts, str(number - 1))),
        text=text,
        benchmark=table.benchmark,
        category=table.subject,
        subject=table.subject,
        answer_kind=table.kind,
        split=split,
    )


def _answered(row: Mapping[str, str], question: Question, model: str) -> Answered:
    try:
        correct = grade_of(row.get(model))
    except ValueError as malformed:
        raise ValueError(f"column {model!r}: {malformed}") from None
    response = row.get(model + _RESPONSE)
    return Answered(
        model=model,
        correct=correct,
        response=response,
        extracted=None if response is None else extract(response, task_format_of(question)),
    )
