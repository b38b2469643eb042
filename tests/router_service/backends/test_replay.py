"""The backend `replay`: exactly what was recorded, nothing where nothing was, and never a call."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from router_service.backends.replay import Replay
from router_service.dispatch.runner import PanelReady, Runner
from router_service.errors import ConfigError
from router_service.types import (
    AnswerKind,
    Assignment,
    Completion,
    Expert,
    ExpertBatch,
    TaskFormat,
    TokenDelta,
    Usage,
    user_query,
)
from tests.router_service.backends.cases import MODEL, outcome, pieces, write_outcomes

ROOT = Path(__file__).resolve().parents[3]


def expert(model: str = MODEL) -> Expert:
    return Expert(id="E", model=model, backend="replay")


async def replayed(folder: Path, question_id: str, *, uses_responses: bool = False, **fields) -> list[Completion]:
    backend = Replay(data_dir=str(folder), uses_responses=uses_responses)
    return await pieces(backend, expert(), Assignment(query=user_query(question_id, "?"), **fields))


async def test_the_prediction_is_text_and_answer(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [outcome("q", pred="C", cost_usd=0.25)])
    [completion] = await replayed(tmp_path, "q")
    assert (completion.text, completion.extracted) == ("C", "C")
    assert completion.usage == Usage(completions=1, prompt_tokens=30, completion_tokens=4, cost_usd=0.25)


async def test_the_response_is_the_text_where_it_is_wanted(tmp_path: Path) -> None:
    rows = [outcome("q", pred="C"), outcome("r", pred="D")]
    write_outcomes(tmp_path, rows, [{"question_id": "q", "model": MODEL, "response": "I think (C)."}])
    [with_response] = await replayed(tmp_path, "q", uses_responses=True)
    assert (with_response.text, with_response.extracted) == ("I think (C).", "C")
    [without] = await replayed(tmp_path, "r", uses_responses=True)
    assert without.text == "D"
    assert (await replayed(tmp_path, "q"))[0].text == "C"


async def test_what_is_unknown_stays_unknown(tmp_path: Path) -> None:
    unknown = {"cost_usd": None, "prompt_tokens": None, "completion_tokens": None}
    write_outcomes(tmp_path, [outcome("q", pred=None, **unknown), outcome("r", pred="A")])
    runner = Runner(experts={"E": expert()}, backends={"replay": Replay(data_dir=str(tmp_path))})
    choice = user_query("q", "?", task_format=TaskFormat(kind=AnswerKind.CHOICE, options=("x", "y")))
    batch = ExpertBatch(expert_id="E", assignments=(Assignment(query=choice),))
    [panel] = [e.completions async for e in runner.run([batch], {}) if isinstance(e, PanelReady)]
    assert panel[0].succeeded
    assert panel[0].extracted is None
    assert panel[0].usage == Usage(completions=1, cost_usd=None)


async def test_a_missing_outcome_fails_and_costs_nothing(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [outcome("q", pred="A")])
    [completion] = await replayed(tmp_path, "other")
    assert completion.error.code == "no_recorded_outcome"
    assert not completion.error.is_retryable
    assert "'other'" in completion.error.message
    assert completion.usage == Usage()


async def test_samples_are_replayed_in_order_and_repeated_in_turn(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [outcome("q", pred=text, sample=i) for i, text in ((1, "B"), (0, "A"), (2, "C"))])
    assert [c.extracted for c in await replayed(tmp_path, "q", samples=5)] == ["A", "B", "C", "A", "B"]
    assert [c.extracted for c in await replayed(tmp_path, "q", samples=2, first_sample=2)] == ["C", "A"]


async def test_a_stream_is_one_piece(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [outcome("q", pred="A B")])
    delta, completion = await replayed(tmp_path, "q", streams=True)
    assert (delta, completion.text) == (TokenDelta(query_id="q", text="A B"), "A B")


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [outcome("q", pred="A"), outcome("q", pred="A", model="another")])
    backend = Replay(data_dir=str(tmp_path))
    backend.check(expert("another"))
    with pytest.raises(ConfigError, match=f"model 'recorded-modle'.*Did you mean '{MODEL}'"):
        backend.check(expert("recorded-modle"))


def test_a_missing_or_broken_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recorded outcomes at .*nowhere"):
        Replay(data_dir=str(tmp_path / "nowhere")).check(expert())
    (tmp_path / "outcomes.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        Replay(data_dir=str(tmp_path)).check(expert())
    rows = [{"question_id": "q", "model": MODEL, "sample": 0}]
    write_outcomes(tmp_path, rows)
    with pytest.raises(ConfigError, match="lacks the columns pred, cost_usd"):
        Replay(data_dir=str(tmp_path)).check(expert())


async def test_recorded_outcomes_come_back_exactly() -> None:
    root = Path(os.environ.get("ENLIST_DATA", ROOT.parent / "shared" / "data"))
    if not (root / "mmlu_pro").is_dir():
        pytest.skip(f"NO RECORDED DATA: {root} is missing; set ENLIST_DATA to the folder of datasets to run this test")
    rows = pq.read_table(root / "mmlu_pro" / "outcomes.parquet").to_pylist()
    model = rows[0]["model"]
    recorded = {row["question_id"]: row for row in rows if row["model"] == model}
    one = expert(model)
    backend = Replay(data_dir=str(root / "mmlu_pro"))
    backend.check(one)
    asked = [Assignment(query=user_query(question_id, "?")) for question_id in (*recorded, "never asked")]
    completions = {c.query_id: c for c in await pieces(backend, one, *asked)}
    assert completions.pop("never asked").error.code == "no_recorded_outcome"
    assert {q: (c.extracted, c.usage.cost_usd, c.usage.completion_tokens) for q, c in completions.items()} == {
        q: (row["pred"], row["cost_usd"], row["completion_tokens"]) for q, row in recorded.items()
    }
