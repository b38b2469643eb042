"""The backend `vllm` on real vLLM and real weights, on the processor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.backends._transformers_files import find_base
from router_service.backends.transformers import Transformers
from router_service.backends.vllm import Vllm
from router_service.errors import ExpertRefused, ExpertUnavailable
from router_service.types import (
    AnswerKind,
    Assignment,
    Completion,
    Expert,
    ExpertBatch,
    Sampling,
    TaskFormat,
    TokenDelta,
    user_query,
)
from tests.router_service.backends.real_engine import graded, local_experts, questions_for, real_python
from tests.router_service.backends.straw import ask, is_running, pieces, texts, until
from tests.router_service.backends.tiny_models import save_adapter, save_model

pytestmark = pytest.mark.slow

COMPARED = ("generalist", "arithmetic", "family")
QUESTIONS = 100
POINTS = 0.03
SHORT = Sampling(max_tokens=8)


def engine_pid(backend: Vllm) -> int:
    """The process of the one engine that is resident."""
    [engine] = backend._engines.on(None)
    assert engine.process.pid is not None
    return engine.process.pid


def tree_gib(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return total + sum(tree_gib(int(child)) for child in children)


async def test_one_engine_answers_all_experts_at_once_as_well_as_transformers_does(real_vllm: Vllm) -> None:
    experts, embedded = local_experts("vllm"), Transformers(threads=1)
    asked = {name: questions_for(experts[name], n=QUESTIONS) for name in COMPARED}
    mixed = await asyncio.gather(*(graded(real_vllm, experts[name], asked[name]) for name in COMPARED))
    engine_pid(real_vllm)  # there is one
    for name, right in zip(COMPARED, mixed, strict=True):
        other = await graded(embedded, replace(experts[name], backend="transformers"), asked[name])
        assert abs(sum(right) - sum(other)) / QUESTIONS <= POINTS, (name, sum(right), sum(other))
        assert sum(right) / QUESTIONS > 0.5, f"{name} is the one to ask here"
    await embedded.aclose()


async def test_every_expert_of_the_pool_is_itself(real_vllm: Vllm) -> None:
    """Asked all at once, each gives its words the likelihood that its weights give them, the one without an adapter
    too: the words may differ at a near tie, that may not."""
    experts = local_experts("vllm")
    text = "What is 17 + 25?"

    async def said(expert: Expert) -> Completion:
        [completion] = await pieces(real_vllm, expert, ask(text, sampling=SHORT))
        return completion

    mixed = await asyncio.gather(*map(said, experts.values()))
    assert len({completion.text for completion in mixed}) >= 4
    assert {c.expert_id: c.text for c in mixed}["arithmetic"] == "42"
    for completion in mixed:
        end = "<|im_end|>" if completion.finish_reason == "stop" else ""
        case = (text, completion.text + end)
        [(logprob_sum, tokens)] = await asyncio.to_thread(scored_by_transformers, experts[completion.expert_id], [case])
        assert tokens == completion.usage.completion_tokens
        assert completion.logprob == pytest.approx(logprob_sum / tokens, abs=0.01), completion


def _batch(expert: Expert, *assignments: Assignment) -> ExpertBatch:
    return ExpertBatch(expert_id=expert.id, assignments=assignments)


async def test_texts_are_scored_as_transformers_scores_them(real_vllm: Vllm) -> None:
    experts = local_experts("vllm")
    cases = [
        ("What is 17 + 25?", "42"),
        ("What is 17 + 25?", "The sum is 42."),
        ("Write 14 as a roman numeral.", "XIV"),
    ]
    for expert in (experts["generalist"], experts["arithmetic"]):
        scores = await real_vllm.score(expert, [(user_query("q", text), said) for text, said in cases])
        wanted = await asyncio.to_thread(scored_by_transformers, expert, cases)
        for score, (logprob_sum, tokens) in zip(scores, wanted, strict=True):
            assert score.tokens == tokens and score.logprob_sum == pytest.approx(logprob_sum, abs=0.02)


def scored_by_transformers(expert: Expert, cases: list[tuple[str, str]]) -> list[tuple[float, int]]:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find_base(expert)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    model = peft.PeftModel.from_pretrained(model, expert.adapter) if expert.adapter else model
    found = []
    for text, said in cases:
        turns = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt, answer = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (rendered, said))
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        picked = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
        found.append((sum(picked), len(answer)))
    return found


async def test_samples_have_seeds_of_their_own(real_vllm: Vllm) -> None:
    expert = local_experts("vllm")["generalist"]
    warm = Sampling(temperature=0.9, max_tokens=10)
    together = await texts(real_vllm, expert, ask("Tell me a story.", sampling=warm, samples=4, seed=5))
    alone = [
        await texts(real_vllm, expert, ask("Tell me a story.", sampling=warm, first_sample=i, seed=5)) for i in (3, 1)
    ]
    assert len(set(together)) > 1 and alone == [[together[3]], [together[1]]]


async def test_stops_streams_and_structure(real_vllm: Vllm) -> None:
    expert = local_experts("vllm")["generalist"]
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    format_ = TaskFormat(kind=AnswerKind.JSON, json_schema=json.dumps(schema))
    query = replace(user_query("json", "How old is she?", task_format=format_), sampling=Sampling(max_tokens=40))
    items = await pieces(
        real_vllm,
        expert,
        Assignment(query=query),
        ask("Count to five.", sampling=Sampling(max_tokens=24, stop=("3", "three"))),
        ask("Say hello.", sampling=Sampling(max_tokens=12), streams=True),
        ask("word " * 2100),
    )
    found = {item.query_id: item for item in items if isinstance(item, Completion)}
    assert 1 <= json.loads(found["json"].text)["age"] <= 99
    assert "3" not in found["Count to five."].text
    streamed = [item.text for item in items if isinstance(item, TokenDelta)]
    assert "".join(streamed) == found["Say hello."].text and len(streamed) > 2
    refused = found["word " * 2100].error
    assert refused.code == ExpertRefused.code and "window of 2048 tokens, and the query has 21" in refused.message


async def test_an_engine_killed_at_work_is_replaced(real_vllm: Vllm) -> None:
    experts = local_experts("vllm")
    long = ask("Tell me a story.", sampling=Sampling(max_tokens=400, temperature=1.0), samples=4, streams=True)
    short = ask("What is 17 + 25?", sampling=Sampling(max_tokens=1))
    assert await texts(real_vllm, experts["arithmetic"], short)
    pid, finished = engine_pid(real_vllm), []
    with pytest.raises(ExpertUnavailable, match=r"killed by signal 9") as caught:
        async for piece in real_vllm.complete(experts["generalist"], _batch(experts["generalist"], long, short)):
            if isinstance(piece, Completion):
                finished.append(piece)
                os.kill(pid, signal.SIGKILL)
    assert caught.value.retryable and [c.query_id for c in finished] == [short.query.id]
    await until(lambda: not is_running(pid))
    assert await texts(real_vllm, experts["arithmetic"], short)
    assert engine_pid(real_vllm) != pid


async def test_two_bases_swap_in_and_out_of_one_place(tmp_path: Path) -> None:
    """Each release gives the memory back: the process is gone, and nothing of it is left."""
    tiny = save_model(tmp_path / "tiny", hidden=256, window=512)
    adapter = save_adapter(tmp_path / "adapter", tiny, seed=0)
    backend = Vllm(python=real_python(), devices=[{"name": "cpu"}], threads=1)
    large = local_experts("vllm")["generalist"]
    small = Expert(id="tiny", model=tiny, backend="vllm", sampling=SHORT, options={"kv_cache_gib": 0.25})
    adapted = replace(small, id="adapted", lora_base=tiny, adapter=adapter)
    for expert in (large, small, adapted):
        backend.check(expert)
    first = await texts(backend, large, ask("What is 17 + 25?"))
    pids = [engine_pid(backend)]
    assert tree_gib(pids[0]) > 1.0
    await backend.release(backend.footprint(large).model, device="cpu", sleeps=True)
    assert not is_running(pids[0]), "vLLM cannot sleep on a processor"
    said = [completion for expert in (small, adapted) for completion in await pieces(backend, expert, ask("b"))]
    assert said[0].text != said[1].text
    for completion, expert in zip(said, (small, adapted), strict=True):
        embedded, alike = Transformers(threads=1), replace(expert, options={})
        [other] = [p async for p in embedded.complete(alike, _batch(alike, ask("b")))]
        assert (completion.text, completion.logprob) == (other.text, pytest.approx(other.logprob, abs=0.01))
        await embedded.aclose()
    pids.append(engine_pid(backend))
    assert await texts(backend, large, ask("What is 17 + 25?")) == first
    pids.append(engine_pid(backend))
    assert [is_running(pid) for pid in pids] == [False, False, True] and len(set(pids)) == 3
    await backend.aclose()
    assert not is_running(pids[2])


async def test_a_model_shared_by_two_processes_says_the_same(tmp_path: Path) -> None:
    """Tensor parallelism, as far as it can be had without GPUs; with the engine go all processes of its group."""
    tiny = save_model(tmp_path / "tiny", hidden=256, window=512)
    backend = Vllm(python=real_python(), devices=[{"name": "cpu"}], threads=1)
    options = {"kv_cache_gib": 0.25, "tensor_parallel_size": 2}
    expert = Expert(id="tiny", model=tiny, backend="vllm", sampling=SHORT, options=options)
    said = await pieces(backend, expert, ask("a"), ask("what is 3 + 4?"))
    group = members_of(engine_pid(backend))
    assert len(group) >= 3, "the engine and two that share the model"
    embedded = Transformers(threads=1)
    alone = replace(expert, options={})
    others = [p async for p in embedded.complete(alone, _batch(alone, ask("a"), ask("what is 3 + 4?")))]
    assert sorted(c.text for c in said) == sorted(c.text for c in others)
    await backend.release(backend.footprint(expert).model, device="cpu")
    assert not any(map(is_running, group))
    await embedded.aclose()


def members_of(group: int) -> list[int]:
    """The processes of a group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[2]) == group:
                found.append(int(entry.parent.name))
    return found
