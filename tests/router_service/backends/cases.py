"""What each registered backend needs to be put to the test: an instance, an expert it can serve, and questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router_service.backends.base import BACKENDS, Backend
from router_service.types import (
    Assignment,
    Completion,
    Expert,
    ExpertBatch,
    ExpertLimits,
    Query,
    Sampling,
    Secret,
    TokenDelta,
    user_query,
)
from tests.router_service.backends import fake_engine, fake_vllm
from tests.router_service.backends.upstream import Upstream

MODEL = "recorded-model"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A backend under test with what it needs; `upstream` where it calls a server; `is_shared` where others use the
    same instance and close it."""

    backend: Backend
    expert: Expert
    upstream: Upstream | None = None
    is_shared: bool = False


def questions(count: int) -> list[Query]:
    return [
        replace(user_query(f"q{i}", f"What is {i} plus {i}?"), sampling=Sampling(max_tokens=8)) for i in range(count)
    ]


def batch(*assignments: Assignment) -> ExpertBatch:
    return ExpertBatch(expert_id="E", assignments=assignments)


async def pieces(backend: Backend, expert: Expert, *assignments: Assignment) -> list[Completion | TokenDelta]:
    return [piece async for piece in backend.complete(expert, batch(*assignments))]


@asynccontextmanager
async def plain(name: str, folder: Path) -> AsyncIterator[Case]:
    """A backend that needs nothing: what a new one is tried with until it says otherwise here."""
    yield Case(backend=BACKENDS.create(name), expert=Expert(id="E", model=MODEL, backend=name))


@asynccontextmanager
async def served(name: str, folder: Path) -> AsyncIterator[Case]:
    if name == "litellm":
        pytest.importorskip("litellm", reason='pip install "enlist[litellm]" to run this test')
    model = "openai/fake" if name == "litellm" else "fake"
    async with Upstream().running() as upstream:
        expert = Expert(
            id="E",
            model=model,
            backend=name,
            address=upstream.address,
            api_key=Secret("sk-test-key"),
            limits=ExpertLimits(timeout_s=10),
        )
        yield Case(backend=BACKENDS.create(name), expert=expert, upstream=upstream)


@asynccontextmanager
async def recorded(name: str, folder: Path) -> AsyncIterator[Case]:
    write_outcomes(folder, [outcome(f"q{i}", pred=f"answer {i}") for i in range(10)])
    backend = BACKENDS.create(name, {"data_dir": str(folder)})
    yield Case(backend=backend, expert=Expert(id="E", model=MODEL, backend=name))


@asynccontextmanager
async def embedded(name: str, folder: Path) -> AsyncIterator[Case]:
    expert = Expert(id="E", model="builtin:smollm2-135m-instruct", backend=name)
    yield Case(backend=BACKENDS.create(name), expert=expert)


@asynccontextmanager
async def of_straw(name: str, folder: Path) -> AsyncIterator[Case]:
    expert = Expert(id="E", model=fake_engine.save_base(folder / "base", step_s=0.002), backend=name)
    options = {"worker": fake_engine.SCRIPT, "devices": [{"name": "cpu"}]}
    yield Case(backend=BACKENDS.create(name, options), expert=expert)


@asynccontextmanager
async def behind_a_server_of_ours(name: str, folder: Path) -> AsyncIterator[Case]:
    backend = BACKENDS.create(name, {"python": fake_vllm.interpreter(folder)})
    expert = Expert(
        id="E", model=fake_engine.save_base(folder / "base"), backend=name, limits=ExpertLimits(timeout_s=10)
    )
    yield Case(backend=backend, expert=expert)


CASES: dict[str, Callable[[str, Path], AbstractAsyncContextManager[Case]]] = {
    "litellm": served,
    "openai": served,
    "replay": recorded,
    "transformers": embedded,
    "vllm": of_straw,
    "vllm_serve": behind_a_server_of_ours,
}


def outcome(question_id: str, *, pred: str | None, model: str = MODEL, sample: int = 0, **fields) -> dict[str, object]:
    row = {"question_id": question_id, "model": model, "sample": sample, "pred": pred, "correct": 1.0}
    return row | {"cost_usd": 0.001, "prompt_tokens": 30, "completion_tokens": 4} | fields


def write_outcomes(folder: Path, rows: list[dict[str, object]], responses: list[dict[str, object]] = ()) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / "outcomes.parquet")
    if responses:
        pq.write_table(pa.Table.from_pylist(responses), folder / "responses.parquet")
