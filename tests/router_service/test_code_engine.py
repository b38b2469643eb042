"""Code chosen by running it, through the whole engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experts_registry.pool import parse_pool
from router_service.assembly import build_engine
from router_service.config import EngineConfig, PartConfig, SandboxConfig
from router_service.engine import Engine
from router_service.errors import ConfigError
from router_service.types import AnswerKind, Budget, Query, RouteControls, RouteResponse, TaskFormat, user_query
from tests.sandboxes import needs_sandbox

REPLIES = {
    "ann": "```python\ndef double(x):\n    return x * x\n```",
    "ben": "```python\ndef double(x):\n    return x * x\n```",
    "cyd": "```python\ndef double(x):\n    return x + x\n```",
}
POOL = parse_pool(
    {"experts": [{"id": i, "model": "echo", "backend": "echo", "options": {"reply": r}} for i, r in REPLIES.items()]},
    "echo",
    Path(),
)


def engine(aggregator: str = "b4", **sandbox: object) -> Engine:
    config = EngineConfig(
        annotator=PartConfig(name="blank"),
        recruiter=PartConfig(name="all"),
        aggregator=PartConfig(name=aggregator, options={"tests": 0} if aggregator == "b4" else {}),
        sandbox=SandboxConfig.model_validate(sandbox),
    )
    return build_engine(config, pool=POOL)


def query(**controls: str) -> Query:
    asked = user_query("q", "Write double(x).", task_format=TaskFormat(kind=AnswerKind.CODE))
    tests = {"tests": "assert double(3) == 6\nassert double(2) == 4"}
    return replace(asked, metadata=tests, controls=RouteControls(**controls), budget=Budget(deadline_s=30))


async def answered(made: Engine, asked: Query) -> RouteResponse:
    [response] = await made.run([asked])
    assert isinstance(response, RouteResponse), response
    return response


@needs_sandbox
async def test_the_code_that_passes_wins_over_the_one_that_most_wrote() -> None:
    response = await answered(engine(), query())
    assert response.answer.text == REPLIES["cyd"]
    assert response.answer.aggregator == "b4"
    assert response.answer.supporters == ("cyd",)


@pytest.mark.parametrize("sandbox", [{"bwrap": "no-such-bwrap"}, {"is_enabled": False}])
def test_an_engine_that_needs_a_sandbox_is_not_built_without_one(sandbox) -> None:
    with pytest.raises(ConfigError, match=r"no-such-bwrap|switched off"):
        engine(**sandbox)


async def test_a_query_that_asks_for_it_where_there_is_none_gets_the_vote_and_a_note() -> None:
    made = engine("majority", is_enabled=False)
    response = await answered(made, query(aggregator="maxpass"))
    assert response.answer.text == REPLIES["ann"]
    assert response.answer.aggregator == "majority"
    assert any("the sandbox is switched off" in note for note in response.answer.notes)
