"""Recorded datasets: questions, and what real models answered to them, read from a folder in the replay format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from experts_registry.pool import Pool
from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import AnswerKind, Expert, Outcome, Prices, Question

__all__ = ["Dataset", "RecordedPrice", "load_dataset"]

_QUESTION_COLUMNS = (
    "question_id",
    "benchmark",
    "category",
    "subject",
    "question",
    "options",
    "answer",
    "answer_kind",
    "split",
    "skills",
)
_OUTCOME_COLUMNS = (
    "question_id",
    "model",
    "sample",
    "pred",
    "correct",
    "cost_usd",
    "prompt_tokens",
    "completion_tokens",
)
_BACKEND = "replay"
_NO_KIND = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One folder of recorded outcomes. `pools` lists models by pool name; `prices` are in USD per million tokens."""

    name: str
    folder: Path
    questions: tuple[Question, ...]
    pools: Mapping[str, tuple[str, ...]]
    prices: Mapping[str, Prices] = field(default_factory=dict)
    recorded: Mapping[tuple[str, str], tuple[Outcome, ...]] = field(default_factory=dict, repr=False)
    """What was recorded, by question id and model: the samples in order."""

    @property
    def has_skills(self) -> bool:
        """True where every question of fit and test carries recorded skills."""
        judged = [question for question in self.questions if question.split in ("fit", "test")]
        return bool(judged) and all(question.skills for question in judged)

    @property
    def has_answers(self) -> bool:
        """True where every question has a reference answer, so that any answer can be graded."""
        return all(question.answer is not None for question in self.questions)

    def split(self, name: str) -> tuple[Question, ...]:
        """The questions of one split, in file order; raises `UnknownNameError`."""
        chosen = tuple(question for question in self.questions if question.split == name)
        if not chosen:
            raise UnknownNameError(f"split of {self.name}", name, {question.split for question in self.questions})
        return chosen

    def pool(self, name: str) -> Pool:
        """A named pool of the dataset: each model is an expert behind the `replay` backend, in the listed order."""
        if name not in self.pools:
            raise UnknownNameError(f"pool of {self.name}", name, self.pools)
        experts = tuple(
            Expert(id=model, model=model, backend=_BACKEND, prices=self.prices.get(model)) for model in self.pools[name]
        )
        return Pool(name=name, experts=experts)

    def outcomes(self, questions: Iterable[Question], models: Sequence[str]) -> tuple[Outcome, ...]:
        """Every recorded sample of each question and model; a missing one is wrong and cost nothing."""
        return tuple(
            outcome
            for question in questions
            for model in models
            for outcome in self.recorded.get((question.id, model)) or (self._missing(question, model),)
        )

    def outcome(self, question_id: str, model: str, *, sample: int) -> Outcome | None:
        """What the backend `replay` says there: too few samples are repeated in turn; None where there is none."""
        samples = self.recorded.get((question_id, model))
        return samples[sample % len(samples)] if samples else None

    def _missing(self, question: Question, model: str) -> Outcome:
        return Outcome(dataset=self.name, split=question.split, question_id=question.id, expert_id=model, cost_usd=0.0)


class RecordedPrice(StrictModel):
    """What a recorded model costs, in USD per million tokens, and where that is from."""

    usd_per_mtok_in: float = Field(ge=0, allow_inf_nan=False)
    usd_per_mtok_out: float = Field(ge=0, allow_inf_nan=False)
    basis: str = ""


class _Card(StrictModel):
    """What `dataset.json` may hold; where the data come from is for people to read."""

    name: str = ""
    pools: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    prices: dict[str, RecordedPrice] = Field(default_factory=dict)
    source: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()
    splits: dict[str, int] = Field(default_factory=dict)
    n_models: int | None = None


def load_dataset(folder: Path) -> Dataset:
    """The dataset in `folder`; raises `ConfigError` naming the missing file or column, or the malformed value."""
    if not folder.is_dir():
        raise ConfigError(
            f"no dataset folder at {folder}; it must hold questions.parquet, outcomes.parquet, dataset.json"
        )
    card = _read_card(folder / "dataset.json")
    name = card.name or folder.name
    questions = _questions(folder / "questions.parquet")
    return Dataset(
        name=name,
        folder=folder,
        questions=questions,
        pools=card.pools,
        prices={
            model: Prices(input_usd_per_mtok=price.usd_per_mtok_in, output_usd_per_mtok=price.usd_per_mtok_out)
            for model, price in card.prices.items()
        },
        recorded=_recorded(folder / "outcomes.parquet", name, {question.id: question.split for question in questions}),
    )


def _read_card(path: Path) -> _Card:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise ConfigError(f"{path.parent} is not a dataset: it has no {path.name}") from missing
    except (OSError, ValueError) as malformed:
        raise ConfigError(f"{path} is not readable as JSON: {malformed}") from malformed
    return parse_model(_Card, card, str(path))


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as missing:
        raise ConfigError('reading recorded datasets needs pyarrow; run `pip install "enlist"` again') from missing
    if not path.is_file():
        raise ConfigError(f"{path.parent} is not a dataset: it has no {path.name}")
    try:
        present = pq.read_schema(path).names
        lacking = [column for column in columns if column not in present]
        if lacking:
            raise ConfigError(
                f"{path} lacks the column {', '.join(map(repr, lacking))}; "
                f"the replay format needs {', '.join(columns)}, the file has {', '.join(present)}"
            )
        rows: list[dict[str, Any]] = pq.read_table(path, columns=list(columns)).to_pylist()
    except pa.ArrowException as malformed:
        raise ConfigError(f"{path} is not a readable parquet file: {malformed}") from malformed
    return rows


def _questions(path: Path) -> tuple[Question, ...]:
    questions = tuple(_question(path, row) for row in _rows(path, _QUESTION_COLUMNS))
    if len({question.id for question in questions}) < len(questions):
        raise ConfigError(f"{path} holds a question_id twice; every question needs an id of its own")
    return questions


def _question(path: Path, row: Mapping[str, Any]) -> Question:
    kind = row["answer_kind"]
    allowed = {_NO_KIND, *AnswerKind}
    if kind not in allowed:
        raise ConfigError(
            f"{path}: question {row['question_id']!r} has answer_kind {kind!r}; allowed: {', '.join(sorted(allowed))}"
        )
    return Question(
        id=row["question_id"],
        text=row["question"],
        benchmark=row["benchmark"] or "",
        category=row["category"],
        subject=row["subject"],
        options=tuple(row["options"] or ()),
        answer=row["answer"],
        answer_kind=AnswerKind.FREE if kind == _NO_KIND else AnswerKind(kind),
        split=row["split"],
        skills=tuple(row["skills"] or ()),
    )


def _recorded(path: Path, dataset: str, splits: Mapping[str, str]) -> dict[tuple[str, str], tuple[Outcome, ...]]:
    """The outcomes of the questions in `splits`, by question and model, each one's samples in order."""
    recorded: dict[tuple[str, str], tuple[Outcome, ...]] = {}
    for row in sorted(_rows(path, _OUTCOME_COLUMNS), key=lambda row: row["sample"] or 0):
        question_id, model = row["question_id"], row["model"]
        if question_id not in splits:
            continue
        earlier = recorded.get((question_id, model), ())
        outcome = _outcome(path, row, dataset=dataset, split=splits[question_id])
        if earlier and earlier[-1].sample == outcome.sample:
            raise ConfigError(
                f"{path} holds sample {outcome.sample} of model {model!r} on question {question_id!r} twice; "
                "number the samples of a model from 0"
            )
        recorded[question_id, model] = (*earlier, outcome)
    return recorded


def _outcome(path: Path, row: Mapping[str, Any], *, dataset: str, split: str) -> Outcome:
    """One recorded row; a grade that was not recorded counts as wrong, like a missing outcome."""
    correct = row["correct"] or 0.0
    if not isinstance(correct, int | float) or not 0 <= correct <= 1:
        raise ConfigError(
            f"{path}: model {row['model']!r} on question {row['question_id']!r} has correct = {correct!r}; "
            "a grade is a number from 0 (wrong) to 1 (right)"
        )
    return Outcome(
        dataset=dataset,
        split=split,
        question_id=row["question_id"],
        expert_id=row["model"],
        sample=row["sample"] or 0,
        extracted=row["pred"],
        correct=float(correct),
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cost_usd=row["cost_usd"],
    )
