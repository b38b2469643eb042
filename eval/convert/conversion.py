"""Runs a converter, splits what it read and writes a dataset in the replay format, read back before it is reported."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from eval.convert.base import CONVERTERS, Problem, Recording
from eval.convert.splitting import split_questions
from eval.datasets import RecordedPrice, load_dataset
from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError, UnknownNameError
from router_service.files import write_atomically
from router_service.types import AnswerKind, Question

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Conversion", "ConversionPlan", "convert"]

_FILES = ("questions.parquet", "outcomes.parquet", "responses.parquet", "dataset.json")
_SHOWN_PROBLEMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """How to convert. `prices` is a YAML or JSON file: model to `usd_per_mtok_in`, `usd_per_mtok_out`, `basis`."""

    layout: str
    fit_share: float = 0.5
    seed: int = 0
    skips_bad: bool = False
    """Leave problematic records out (they are told) instead of refusing the recording."""
    keeps_common_only: bool = False
    """Keep only questions that every model answered, for elsewhere a missing answer counts as wrong."""
    name: str | None = None
    prices: Path | None = None
    overwrites: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What was written: questions per split, answered questions per model, and what was left out."""

    folder: Path
    splits: Mapping[str, int]
    answered: Mapping[str, int]
    n_left_out: int
    problems: tuple[Problem, ...]


class _PriceList(StrictModel):
    prices: dict[str, RecordedPrice]


def convert(source: Path, out: Path, plan: ConversionPlan) -> Conversion:
    """Write the recording at `source` to the folder `out` in the replay format.

    Raises `ConfigError` for a recording that is not of the layout, for bad records (all of them counted, the first
    ones told) unless the plan skips them, and for an `out` that holds a dataset already.
    """
    if not plan.overwrites and any((out / name).exists() for name in _FILES):
        raise ConfigError(f"{out} holds a dataset already; choose another folder, or --overwrite it")
    recording = CONVERTERS.create(plan.layout).read(source)
    if recording.problems and not plan.skips_bad:
        raise ConfigError(_refusal(recording.problems))
    if not recording.outcomes:
        raise ConfigError(f"nothing usable is left of {source}: {_refusal(recording.problems)}")
    prices = _prices(plan.prices, recording.models) if plan.prices else {}
    kept = _common(recording) if plan.keeps_common_only else recording
    kept = replace(kept, questions=split_questions(kept.questions, fit_share=plan.fit_share, seed=plan.seed))
    conversion = Conversion(
        folder=out,
        splits=Counter(question.split for question in kept.questions),
        answered=Counter(model for _, model in {(o.question_id, o.expert_id) for o in kept.outcomes}),
        n_left_out=len(recording.questions) - len(kept.questions),
        problems=recording.problems,
    )
    _write(kept, conversion, _card(kept, conversion, plan, source=source.name, prices=prices))
    load_dataset(out)  # what cannot be read back must not be reported as done
    return conversion


def _refusal(problems: Sequence[Problem]) -> str:
    shown = [f"  {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > len(shown):
        shown.append(f"  and {len(problems) - len(shown)} more")
    return "\n".join([f"{len(problems)} records cannot be used; mend them, or leave them out with --skip-bad:", *shown])


def _common(recording: Recording) -> Recording:
    """Only the questions that every model answered; raises `ConfigError` where there is none."""
    models = set(recording.models)
    by_question: dict[str, set[str]] = {}
    for outcome in recording.outcomes:
        by_question.setdefault(outcome.question_id, set()).add(outcome.expert_id)
    common = {question_id for question_id, answered in by_question.items() if answered == models}
    if not common:
        listed = ", ".join(sorted(models))
        raise ConfigError(f"no question was answered by all of {listed}; convert fewer models at once")
    return replace(
        recording,
        questions=tuple(question for question in recording.questions if question.id in common),
        outcomes=tuple(outcome for outcome in recording.outcomes if outcome.question_id in common),
        responses={key: text for key, text in recording.responses.items() if key[0] in common},
    )


def _prices(path: Path, models: Iterable[str]) -> dict[str, dict[str, Any]]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as unreadable:
        raise ConfigError(f"the price list {path} is not readable as YAML or JSON: {unreadable}") from unreadable
    prices = parse_model(_PriceList, {"prices": document}, str(path)).prices
    known = set(models)
    for model in prices:
        if model not in known:
            raise UnknownNameError("model of this recording", model, known)
    return {model: price.model_dump() for model, price in prices.items()}


def _card(
    recording: Recording,
    conversion: Conversion,
    plan: ConversionPlan,
    *,
    source: str,
    prices: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    models = recording.models
    notes = [*recording.notes, f"split by question text: seed {plan.seed}, share to fit on {plan.fit_share}"]
    if conversion.n_left_out:
        notes.append(f"{conversion.n_left_out} questions left out that some model did not answer")
    notes += [f"left out: {problem}" for problem in conversion.problems]
    return {
        "name": plan.name or conversion.folder.resolve().name,
        "source": f"{source}, converted from the layout {plan.layout}",
        "notes": notes,
        "splits": dict(conversion.splits),
        "n_models": len(models),
        "pools": {f"all{len(models)}": list(models)},
        "prices": prices,
    }


# --- files ----------------------------------------------------------------------------------------------------------


def _write(recording: Recording, conversion: Conversion, card: Mapping[str, Any]) -> None:
    import pyarrow as pa

    text, folder = pa.string(), conversion.folder
    whole, real = pa.int64(), pa.float64()
    kinds = {"options": pa.list_(text), "skills": pa.list_(text)}
    _write_table(folder / "questions.parquet", [_question_row(question) for question in recording.questions], kinds)
    outcomes = [
        {
            "question_id": outcome.question_id,
            "model": outcome.expert_id,
            "sample": outcome.sample,
            "pred": outcome.extracted,
            "correct": outcome.correct,
            "cost_usd": outcome.cost_usd,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
        }
        for outcome in recording.outcomes
    ]
    numbers = {"sample": whole, "correct": real, "cost_usd": real, "prompt_tokens": whole, "completion_tokens": whole}
    _write_table(folder / "outcomes.parquet", outcomes, numbers)
    responses = [
        {"question_id": question_id, "model": model, "response": response}
        for (question_id, model), response in recording.responses.items()
    ]
    if responses:
        _write_table(folder / "responses.parquet", responses, {})
    else:
        (folder / "responses.parquet").unlink(missing_ok=True)
    write_atomically(folder / "dataset.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def _question_row(question: Question) -> dict[str, Any]:
    has_kind = question.answer_kind is not AnswerKind.FREE or question.answer is not None
    return {
        "question_id": question.id,
        "benchmark": question.benchmark,
        "category": question.category,
        "subject": question.subject,
        "question": question.text,
        "options": list(question.options) or None,
        "answer": question.answer,
        "answer_kind": question.answer_kind.value if has_kind else "none",
        "split": question.split,
        "skills": list(question.skills) or None,
    }


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, pa.DataType]) -> None:
    """A parquet file of `rows`; a column is text unless `kinds` says otherwise, also where all of it is unknown."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in rows[0]])
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
