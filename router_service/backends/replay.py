"""The backend `replay`: answers with what real models were recorded to answer, from Parquet files, without a call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from router_service.backends._options import NoOptions, read_options
from router_service.backends.base import BACKENDS, Backend
from router_service.errors import ConfigError, nearest_name
from router_service.types import Completion, CompletionError, Expert, ExpertBatch, TokenDelta, Usage

__all__ = ["Replay"]

_COLUMNS = ("question_id", "model", "sample", "pred", "cost_usd", "prompt_tokens", "completion_tokens")


class _Record(NamedTuple):
    """What one model answered to one question once; None where it was not recorded."""

    pred: str | None
    cost_usd: float | None
    prompt_tokens: int | None
    completion_tokens: int | None


_Records = dict[str, dict[str, list[_Record]]]
"""Model -> question id -> its recorded samples, in order."""


@BACKENDS.register("replay")
class Replay(Backend):
    """Replays `outcomes.parquet` in `data_dir`: a query's id is the question's id, an expert's model the model's name.

    `extracted` is the recorded prediction, also where that is None (no answer could be read). The text is the
    prediction too, or with `uses_responses` the recorded full response where `responses.parquet` has one. A question
    that a model was never asked is a failed completion that costs nothing. Where fewer samples were recorded than are
    asked for, they are repeated in turn, so a panel that draws a model twice weighs it twice.
    """

    is_batched: ClassVar[bool] = True
    extracts_answers: ClassVar[bool] = True
    """What was recorded is the answer: nothing is to be read out of the text again."""

    def __init__(self, *, data_dir: str, uses_responses: bool = False) -> None:
        self._folder = Path(data_dir)
        self._uses_responses = uses_responses
        self._lock = threading.Lock()
        self._records: _Records | None = None
        self._responses: dict[tuple[str, str], str] = {}

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncGenerator[Completion | TokenDelta, None]:
        """Every recorded answer at once, in order; a streamed one in a single piece."""
        if self._records is None:
            await asyncio.to_thread(self._load)
        by_question = self._load().get(expert.model, {})
        for assignment in batch.assignments:
            query_id = assignment.query.id
            records = by_question.get(query_id, [])
            for sample in range(assignment.first_sample, assignment.first_sample + assignment.samples):
                if not records:
                    yield self._missing(expert, query_id, sample)
                    continue
                completion = self._completion(expert, query_id, sample=sample, record=records[sample % len(records)])
                if assignment.streams and completion.text:
                    yield TokenDelta(query_id=query_id, text=completion.text)
                yield completion

    def check(self, expert: Expert) -> None:
        """Raise `ConfigError` where the files cannot be read, or hold nothing of the expert's model."""
        read_options(expert, NoOptions)
        records = self._load()
        if expert.model not in records:
            near = nearest_name(expert.model, records)
            guess = f" Did you mean {near!r}?" if near else ""
            raise ConfigError(
                f"expert {expert.id!r}: no outcome of model {expert.model!r} is recorded in {self._folder}.{guess} "
                f"Recorded: {', '.join(sorted(records))}."
            )

    async def aclose(self) -> None:
        """Forget what was read; a later call reads it again."""
        self._records = None
        self._responses = {}

    def _completion(self, expert: Expert, query_id: str, *, sample: int, record: _Record) -> Completion:
        text = self._responses.get((query_id, expert.model)) or record.pred or ""
        usage = Usage(
            completions=1,
            prompt_tokens=record.prompt_tokens or 0,
            completion_tokens=record.completion_tokens or 0,
            cost_usd=record.cost_usd,
        )
        return Completion(
            query_id=query_id,
            expert_id=expert.id,
            sample=sample,
            text=text,
            extracted=record.pred,
            finish_reason="stop",
            usage=usage,
        )

    def _missing(self, expert: Expert, query_id: str, sample: int) -> Completion:
        message = f"no outcome of model {expert.model!r} on question {query_id!r} is recorded in {self._folder}"
        error = CompletionError(code="no_recorded_outcome", message=message)
        return Completion(query_id=query_id, expert_id=expert.id, sample=sample, usage=Usage(), error=error)

    def _load(self) -> _Records:
        with self._lock:
            if self._records is None:
                self._responses = _read_responses(self._folder) if self._uses_responses else {}
                self._records = _read_outcomes(self._folder)
            return self._records


def _read_outcomes(folder: Path) -> _Records:
    columns = _read_columns(folder / "outcomes.parquet", _COLUMNS)
    rows: Iterable[tuple[Any, ...]] = zip(*(columns[name] for name in _COLUMNS), strict=True)
    if any(columns["sample"]):
        rows = sorted(rows, key=lambda row: row[2])
    records: _Records = {}
    for question_id, model, _, pred, cost_usd, prompt_tokens, completion_tokens in rows:
        record = _Record(pred, cost_usd, prompt_tokens, completion_tokens)
        records.setdefault(model, {}).setdefault(question_id, []).append(record)
    return records


def _read_responses(folder: Path) -> dict[tuple[str, str], str]:
    columns = _read_columns(folder / "responses.parquet", ("question_id", "model", "response"))
    keys = zip(columns["question_id"], columns["model"], strict=True)
    return {key: text for key, text in zip(keys, columns["response"], strict=True) if text}


def _read_columns(path: Path, names: tuple[str, ...]) -> dict[str, list[Any]]:
    """The named columns as lists; raises `ConfigError` naming the file and what is wrong with it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as missing:
        raise ConfigError("reading recorded outcomes needs the package pyarrow: pip install pyarrow") from missing
    if not path.is_file():
        raise ConfigError(f"no recorded outcomes at {path}; option data_dir must name a folder that holds {path.name}")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as unreadable:
        raise ConfigError(f"{path} is not a readable Parquet file: {unreadable}") from unreadable
    if lacking := [name for name in names if name not in table.column_names]:
        raise ConfigError(f"{path} lacks the columns {', '.join(lacking)}; it has {', '.join(table.column_names)}")
    return {name: table.column(name).to_pylist() for name in names}
