"""The backend `vllm_serve` on real vLLM and weights: base and adapters behind one server, and its death survived."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from dataclasses import replace

import pytest

from experts_registry.local.tasks import generate, is_correct
from router_service.backends.vllm_serve import VllmServe
from router_service.dispatch.runner import PanelReady, Runner
from router_service.types import (
    Assignment,
    Completion,
    Expert,
    ExpertBatch,
    ExpertLimits,
    Question,
    TokenDelta,
    user_query,
)
from tests.router_service.backends.real_engine import local_experts, real_python
from tests.router_service.backends.straw import is_running, until

pytestmark = pytest.mark.slow

TASK_OF = {"generalist": "facts", "roman": "roman", "sorting": "number_sorting"}
LIMITS = ExpertLimits(max_concurrency=8, max_attempts=3, timeout_s=120)


async def right(runner: Runner, asked: dict[str, list[Question]]) -> dict[str, int]:
    """How many of each expert's own questions it answers right, all experts asked at once."""
    questions = {question.id: question for several in asked.values() for question in several}
    batches = [
        ExpertBatch(
            expert_id=expert_id,
            assignments=tuple(Assignment(query=user_query(question.id, question.text)) for question in several),
        )
        for expert_id, several in asked.items()
    ]
    found = dict.fromkeys(asked, 0)
    async with aclosing(runner.run(batches, {})) as events:
        async for event in events:
            for completion in event.completions if isinstance(event, PanelReady) else ():
                assert completion.succeeded and completion.logprob is not None, completion
                found[completion.expert_id] += is_correct(questions[completion.query_id], completion.text)
    return found


async def streamed(backend: VllmServe, expert: Expert, question: Question) -> tuple[list[str], Completion]:
    asked = Assignment(query=user_query(question.id, question.text), streams=True)
    batch = ExpertBatch(expert_id=expert.id, assignments=(asked,), device=backend.servers[0].device)
    pieces = [piece async for piece in backend.complete(expert, batch)]
    assert isinstance(pieces[-1], Completion)
    return [piece.text for piece in pieces if isinstance(piece, TokenDelta)], pieces[-1]


async def test_base_and_adapters_answer_behind_one_server_and_its_death_is_survived() -> None:
    local = local_experts("vllm_serve")
    experts = {name: replace(local[name], limits=LIMITS) for name in TASK_OF}
    backend = VllmServe(python=real_python(), threads=1, devices=[{"name": "cpu"}], load_timeout_s=400)
    for expert in experts.values():
        backend.check(expert)
    runner = Runner(experts=experts, backends={"vllm_serve": backend})
    questions = {name: list(generate(task, "test", n=8)) for name, task in TASK_OF.items()}
    try:
        before = await right(runner, questions)
        [server] = backend.servers
        assert before["roman"] >= 6 and before["sorting"] >= 6, before
        deltas, whole = await streamed(backend, experts["roman"], questions["roman"][0])
        assert len(deltas) > 1 and "".join(deltas) == whole.text
        os.kill(server.pid or 0, signal.SIGKILL)
        after = await right(runner, questions)
        assert all(abs(after[name] - before[name]) <= 1 for name in before), "near ties apart, the same answers"
        [second] = backend.servers
        assert second.pid != server.pid and not is_running(server.pid or 0)
    finally:
        await runner.aclose()
    await until(lambda: not is_running(second.pid or 0))
    assert not backend.servers
