"""The embedded engine on tiny real models: it says what transformers and peft say, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router_service.backends.base import BACKENDS
from router_service.backends.transformers import Transformers
from router_service.config import DispatchConfig
from router_service.dispatch.runner import Runner
from router_service.errors import ConfigError, ExpertUnavailable
from router_service.prompt_tokens import estimate_tokens
from router_service.types import (
    Assignment,
    Budget,
    Completion,
    Expert,
    ImagePart,
    Message,
    Query,
    Sampling,
    TextPart,
    TokenDelta,
    ToolCall,
)
from tests.router_service.backends.tiny_models import (
    ask,
    batch_of,
    save_adapter,
    save_model,
    tiny_expert,
)

SAMPLED = Sampling(temperature=1.0, max_tokens=8)
PATIENCE_S = 30.0
"""Far more than a call needs that stops when told; far less than the call left alone would take."""


@dataclass(frozen=True)
class Weights:
    """Folders of a base with three adapters, and of another base."""

    base: str
    adapters: tuple[str, ...]
    other: str


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Tiny products gain nothing from threads, and lose much where other work fills the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    root = tmp_path_factory.mktemp("tiny")
    base = save_model(root / "base")
    return Weights(
        base=base,
        adapters=tuple(save_adapter(root / f"adapter{i}", base, seed=i) for i in range(3)),
        other=save_model(root / "other", seed=1, layers=1),
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[Transformers]:
    backend = Transformers(threads=1, batch_size=4, max_resident_bases=2, device="cpu")
    yield backend
    asyncio.run(backend.aclose())


async def pieces(backend: Transformers, expert: Expert, *assignments: Assignment) -> list[Completion | TokenDelta]:
    return [piece async for piece in backend.complete(expert, batch_of(expert, *assignments))]


async def completions(backend: Transformers, expert: Expert, *assignments: Assignment) -> list[Completion]:
    found = [p for p in await pieces(backend, expert, *assignments) if isinstance(p, Completion)]
    return sorted(found, key=lambda c: ([a.query.id for a in assignments].index(c.query_id), c.sample))


async def texts(backend: Transformers, expert: Expert, *assignments: Assignment) -> list[str]:
    return [c.text for c in await completions(backend, expert, *assignments)]


def said_by_peft(base: str, adapter: str | None, prompts: Sequence[str], *, max_tokens: int = 12) -> list[str]:
    """What transformers' own `generate` says, one prompt at a time, the adapter beside the weights: the oracle."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, adapter) if adapter else model
    said = []
    for prompt in prompts:
        ids = tokenizer(f"<|u|>{prompt}<|end|><|a|>", return_tensors="pt", add_special_tokens=False)
        output = model.generate(**ids, max_new_tokens=max_tokens, do_sample=False)
        written = output[0, ids["input_ids"].shape[1] :].tolist()
        ends = model.generation_config.eos_token_id
        if written[-1] in (ends if isinstance(ends, list) else [ends]):
            written.pop()
        said.append(tokenizer.decode(written, skip_special_tokens=True))
    return said


PROMPTS = ("a", "what is 3 + 4?", "a much longer question about nothing at all", "Größe", "what is 5 + 4?", "b", "cc")


# --- what is said --------------------------------------------------------------------------------------------------


async def test_says_what_generate_says(engine: Transformers, weights: Weights) -> None:
    said = await texts(engine, tiny_expert(weights.base), *map(ask, PROMPTS))
    assert said == said_by_peft(weights.base, None, PROMPTS)
    assert len(set(said)) > 3


async def test_each_adapter_says_what_peft_says(engine: Transformers, weights: Weights) -> None:
    for adapter in (*weights.adapters, weights.adapters[0]):
        expert = tiny_expert(weights.base, adapter=adapter)
        assert await texts(engine, expert, *map(ask, PROMPTS)) == said_by_peft(weights.base, adapter, PROMPTS)
    plain = await texts(engine, tiny_expert(weights.base), *map(ask, PROMPTS))
    assert plain == said_by_peft(weights.base, None, PROMPTS)


async def test_in_a_narrower_type_the_adapter_stays_beside_the_weights(weights: Weights) -> None:
    backend = Transformers(threads=1, dtype="bfloat16", device="cpu")
    said = {}
    for adapter in (weights.adapters[0], None, weights.adapters[0], weights.adapters[1]):
        said.setdefault(adapter, []).append(
            await texts(backend, tiny_expert(weights.base, adapter=adapter), *map(ask, PROMPTS))
        )
    assert said[weights.adapters[0]][0] == said[weights.adapters[0]][1]
    assert len({str(first) for first, *_ in said.values()}) == 3
    await backend.aclose()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=7),
    temperatures=st.lists(st.sampled_from([None, 0.0, 0.7, 1.5]), min_size=7, max_size=7),
    persona=st.sampled_from([None, "You are a patient teacher."]),
    adapter=st.sampled_from([None, 0, 1]),
)
def test_batch_equals_singles(
    engine: Transformers,
    weights: Weights,
    prompts: list[str],
    temperatures: list[float | None],
    persona: str | None,
    adapter: int | None,
) -> None:
    folder = None if adapter is None else weights.adapters[adapter]
    expert = tiny_expert(weights.base, adapter=folder, persona=persona)
    assignments = [
        ask(prompt, name=str(i), seed=i, samples=2, sampling=Sampling(temperature=t, max_tokens=3 + i))
        for i, (prompt, t) in enumerate(zip(prompts, temperatures, strict=False))
    ]

    async def both() -> tuple[list[str], list[str]]:
        together = await texts(engine, expert, *assignments)
        return together, [text for a in assignments for text in await texts(engine, expert, a)]

    together, alone = asyncio.run(both())
    assert together == alone


async def test_a_conversation_is_rendered_with_the_persona_first(engine: Transformers, weights: Weights) -> None:
    talk = (
        Message(role="developer", content="Short."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Ho"),
        Message(role="user", content=(TextPart(text="x"), TextPart(text="y"))),
    )
    expert = tiny_expert(weights.base, persona="Be kind.")
    (done,) = await completions(engine, expert, Assignment(query=Query(id="talk", messages=talk)))
    rendered = "_Be kind.\n\nShort.__Hi__Ho__x\ny__"  # each mark is one token: written as one letter here
    assert done.usage.prompt_tokens == len(rendered)
    (plain,) = await completions(engine, expert, ask("Hi"))
    assert plain.usage.prompt_tokens == len("_Be kind.__Hi__")


# --- sampling ------------------------------------------------------------------------------------------------------


async def test_samples_differ_and_repeat_with_their_seed(engine: Transformers, weights: Weights) -> None:
    expert = tiny_expert(weights.base)
    first = await texts(engine, expert, ask("dice", samples=6, seed=1, sampling=SAMPLED))
    assert len(set(first)) > 1
    assert first == await texts(engine, expert, ask("dice", samples=6, seed=1, sampling=SAMPLED))
    assert first != await texts(engine, expert, ask("dice", samples=6, seed=2, sampling=SAMPLED))
    later = await texts(engine, expert, ask("dice", samples=2, first_sample=4, seed=1, sampling=SAMPLED))
    assert later == first[4:]


async def test_greedy_samples_are_written_once_and_given_for_each(engine: Transformers, weights: Weights) -> None:
    done = await completions(engine, tiny_expert(weights.base), ask("same", samples=3, first_sample=2))
    assert [c.sample for c in done] == [2, 3, 4]
    assert len({(c.text, c.usage, c.latency_s) for c in done}) == 1


async def test_the_experts_sampling_fills_what_the_query_leaves_open(engine: Transformers, weights: Weights) -> None:
    expert = tiny_expert(weights.base, sampling=Sampling(temperature=1.0, max_tokens=5))
    done = await completions(engine, expert, ask("open", samples=4, sampling=Sampling(max_tokens=7)))
    assert len({c.text for c in done}) > 1
    assert all(c.usage.completion_tokens <= 7 for c in done)
    capped = replace(expert, max_output_tokens=2)
    (first, *_) = await completions(engine, capped, ask("open", sampling=Sampling(max_tokens=7)))
    assert first.usage.completion_tokens <= 2


async def test_no_completion_is_longer_than_the_budget_allows(engine: Transformers, weights: Weights) -> None:
    asked = ask("open", sampling=Sampling(max_tokens=7))
    thrifty = replace(asked, query=replace(asked.query, budget=Budget(max_output_tokens=3)))
    (done,) = await completions(engine, tiny_expert(weights.base), thrifty)
    assert done.usage.completion_tokens <= 3


async def test_a_tiny_nucleus_is_greedy(engine: Transformers, weights: Weights) -> None:
    narrow = Sampling(temperature=1.0, top_p=1e-6, max_tokens=12)
    expert = tiny_expert(weights.base)
    assert await texts(engine, expert, ask("nucleus", sampling=narrow)) == await texts(engine, expert, ask("nucleus"))


async def test_penalties_forbid_repetition(engine: Transformers, weights: Weights) -> None:
    expert = tiny_expert(weights.base)
    (plain,) = await texts(engine, expert, ask("again", sampling=Sampling(max_tokens=60)))
    assert len(plain) > len(set(plain))
    for penalty in (Sampling(presence_penalty=1000.0), Sampling(frequency_penalty=1000.0)):
        (penalised,) = await texts(engine, expert, ask("again", sampling=replace(penalty, max_tokens=60)))
        ids = tokens_of(weights.base, penalised.replace("\ufffd", ""))
        assert len(ids) == len(set(ids)) > 10


def tokens_of(base: str, text: str) -> list[int]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)(text, add_special_tokens=False)["input_ids"]


# --- ends ----------------------------------------------------------------------------------------------------------


async def test_usage_and_logprob_are_real(engine: Transformers, weights: Weights) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    expert = tiny_expert(weights.base, sampling=Sampling(max_tokens=9))
    (done,) = await completions(engine, expert, ask("count"))
    tokenizer, model = AutoTokenizer.from_pretrained(weights.base), AutoModelForCausalLM.from_pretrained(weights.base)
    prompt = tokenizer("<|u|>count<|end|><|a|>", return_tensors="pt", add_special_tokens=False)
    whole = model.generate(**prompt, max_new_tokens=9, do_sample=False)
    written = whole[0, prompt["input_ids"].shape[1] :]
    logprobs = model(whole).logits[0, -len(written) - 1 : -1].log_softmax(-1)
    mean = float(logprobs[torch.arange(len(written)), written].mean().detach())
    assert done.logprob == pytest.approx(mean, abs=1e-4)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (8, len(written))
    assert done.usage.cost_usd is None
    assert done.latency_s > 0
    assert done.finish_reason == "length"


async def test_ends_at_an_end_token_and_drops_the_row(weights: Weights, tmp_path: Path) -> None:
    """The end token is made one that the model is known to write: rows then end at different times."""
    import json
    import shutil

    folder = tmp_path / "ending"
    shutil.copytree(weights.base, folder)
    said = said_by_peft(weights.base, None, PROMPTS)
    letters = [tokens_of(weights.base, text) for text in said]
    end = max({t for ids in letters for t in ids}, key=lambda t: sum(t in ids for ids in letters))
    settings_file = folder / "generation_config.json"
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "eos_token_id": [256, end]}))
    backend = Transformers(threads=1, device="cpu")
    done = await completions(backend, tiny_expert(str(folder)), *map(ask, PROMPTS))
    assert [c.text for c in done] == said_by_peft(str(folder), None, PROMPTS)
    stopped = [c for c in done if c.finish_reason == "stop"]
    assert stopped
    assert all(c.usage.completion_tokens < 12 for c in stopped)
    assert {c.finish_reason for c in done} == {"stop", "length"}
    await backend.aclose()


async def test_a_stop_text_cuts_the_answer(engine: Transformers, weights: Weights) -> None:
    expert = tiny_expert(weights.base)
    (whole,) = await texts(engine, expert, ask("cut"))
    stop = whole[4:6]
    (done,) = await completions(engine, expert, ask("cut", sampling=Sampling(stop=("never there", stop))))
    assert done.text == whole[: whole.index(stop)]
    assert done.finish_reason == "stop"


async def test_streamed_pieces_make_the_text(engine: Transformers, weights: Weights) -> None:
    expert = tiny_expert(weights.base, sampling=Sampling(max_tokens=40))
    (whole,) = await texts(engine, expert, ask("stream"))
    stop = whole[20:23]
    for sampling in (Sampling(), Sampling(stop=(stop, stop[:2] + "never")), Sampling(temperature=1.3)):
        streamed = ask("stream", streams=True, samples=2, sampling=sampling)
        heard = await pieces(engine, expert, streamed, ask("silent"))
        deltas = [p for p in heard if isinstance(p, TokenDelta)]
        first = next(p for p in heard if isinstance(p, Completion) and p.query_id == "stream" and p.sample == 0)
        assert "".join(d.text for d in deltas) == first.text
        assert {d.query_id for d in deltas} == {"stream"}
        assert len(deltas) > 5
        assert heard.index(deltas[0]) < heard.index(first)


# --- what cannot be served -----------------------------------------------------------------------------------------


async def test_a_query_it_cannot_serve_leaves_the_others_alone(engine: Transformers, weights: Weights) -> None:
    picture = Message(role="user", content=(TextPart(text="see"), ImagePart(url="data:image/png;base64,AA==")))
    tool = Message(role="tool", content="42", tool_call_id="1")
    assignments = [
        ask("fine"),
        ask("x" * 300, name="long", samples=2),
        Assignment(query=Query(id="picture", messages=(picture,))),
        Assignment(query=Query(id="tool", messages=(tool,))),
    ]
    fine, long1, long2, seen, tools = await completions(engine, tiny_expert(weights.base), *assignments)
    assert fine.succeeded
    assert [long1.sample, long2.sample] == [0, 1]
    failed = {c.query_id: c.error for c in (long1, seen, tools) if c.error is not None}
    assert {error.code for error in failed.values()} == {"expert_refused"}
    assert not any(error.is_retryable for error in failed.values())
    assert "256 tokens" in failed["long"].message
    assert "303" in failed["long"].message
    assert "image" in failed["picture"].message
    assert "no tools here" in failed["tool"].message


TOOL = '{"type": "function", "function": {"name": "add"}}'
CALLED = Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="add", arguments="{}"),))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": (TOOL,)}, "calls no tools, and the query has tools"),
        ({"tools": (TOOL,), "tool_choice": "auto"}, "the query has tools"),
        ({"tool_choice": "required"}, "has tool_choice 'required'"),
        ({"messages": (Message(role="user", content="2+2"), CALLED)}, "reads no tool_calls"),
        ({"tools": (TOOL,), "tool_choice": "none"}, None),
        ({"tool_choice": "auto"}, None),
    ],
)
async def test_tools_are_refused_and_not_left_out(
    engine: Transformers, weights: Weights, fields: dict[str, Any], words: str | None
) -> None:
    asked = ask("2+2")
    asked = replace(asked, query=replace(asked.query, **fields))
    (done,) = await completions(engine, tiny_expert(weights.base), asked)
    if words is None:
        assert done.succeeded
    else:
        assert done.error is not None and (done.error.code, done.error.is_retryable) == ("expert_refused", False)
        assert words in done.error.message and "backend openai" in done.error.message


@pytest.mark.parametrize("n_left", [None, 5])
async def test_no_answer_is_longer_than_was_reserved(
    engine: Transformers, weights: Weights, n_left: int | None
) -> None:
    asked = ask("0123456789", sampling=Sampling(max_tokens=30))
    window = None if n_left is None else estimate_tokens(asked.query) + n_left
    (done,) = await completions(engine, tiny_expert(weights.base, context_window=window), asked)
    assert (done.usage.completion_tokens, done.finish_reason) == (n_left or 30, "length")


async def test_the_window_bounds_the_answer(engine: Transformers, weights: Weights) -> None:
    """Also where the prompt takes more tokens than estimated, as with this tokenizer of single bytes."""
    expert = tiny_expert(weights.base, context_window=210, sampling=Sampling(max_tokens=100))
    (done,) = await completions(engine, expert, ask("x" * 200))
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.finish_reason) == (203, 7, "length")


async def test_an_error_of_torch_is_an_unavailable_expert(tmp_path: Path) -> None:
    """A vocabulary smaller than the tokenizer's makes the embedding fail on a real index."""
    expert = tiny_expert(save_model(tmp_path / "short", vocabulary=40))
    backend = Transformers(threads=1, device="cpu")
    with pytest.raises(ExpertUnavailable, match="index out of range") as caught:
        await texts(backend, expert, ask("zzz"))
    assert (caught.value.expert_id, caught.value.retryable) == ("tiny", False)
    await backend.aclose()


# --- loads and switches --------------------------------------------------------------------------------------------


async def test_one_base_is_read_once_and_each_adapter_once(weights: Weights) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    backend = Transformers(threads=1, device="cpu")
    a, b, c = weights.adapters
    for adapter in (None, a, a, b, None, b, c, a):
        await texts(backend, tiny_expert(weights.base, adapter=adapter), ask("go"))
    report = backend.load_report
    assert report.base_loads == (weights.base,)
    assert report.adapter_loads == (a, b, c)
    assert report.switches == 5  # a, b, b again after none, c, a
    await texts(backend, tiny_expert(weights.base), ask("go"))
    (base,) = backend._bases.there
    held = {name.replace(".base_layer", ""): p for name, p in base.model.named_parameters() if "lora_" not in name}
    for name, parameter in AutoModelForCausalLM.from_pretrained(weights.base).named_parameters():
        assert torch.equal(held[name], parameter), f"{name} is not what it was before the switches"
    await backend.aclose()


@pytest.mark.parametrize(("resident", "loads"), [(1, 3), (2, 2)])
async def test_the_least_recently_used_base_goes(weights: Weights, resident: int, loads: int) -> None:
    backend = Transformers(threads=1, max_resident_bases=resident, device="cpu")
    for base in (weights.base, weights.other, weights.base):
        await texts(backend, tiny_expert(base), ask("go"))
    assert len(backend.load_report.base_loads) == loads
    assert len(backend._bases.there) == resident
    await backend.aclose()
    assert not backend._bases.there


# --- callers that are served together, and a place in memory --------------------------------------------------------


async def test_callers_of_one_adapter_are_written_together_and_get_their_own(weights: Weights) -> None:
    backend = Transformers(threads=1, device="cpu")
    adapter, other = weights.adapters[:2]
    one = tiny_expert(weights.base, adapter=adapter)
    two = tiny_expert(weights.base, adapter=adapter, name="two", persona="you are two")
    three = tiny_expert(weights.base, adapter=other, name="three")
    calls = [
        (one, (ask("first", samples=3), ask("second"))),
        (three, (ask("first"),)),
        (two, (ask("first"), ask("third", sampling=SAMPLED, seed=3, samples=2))),
        (one, (ask("second"),)),
    ]
    await backend.load(one, device="cpu")
    (base,) = backend._bases.there
    rows: list[int] = []
    hook = base.model.register_forward_pre_hook(
        lambda model, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    together = await asyncio.gather(*(completions(backend, who, *asked) for who, asked in calls))
    hook.remove()
    assert max(rows) == 2 + 3 + 1  # of the first adapter; greedy samples are one row
    assert backend.load_report.switches == 2
    alone = [await completions(backend, who, *asked) for who, asked in calls]
    for got, expected in zip(together, alone, strict=True):
        assert [(c.query_id, c.expert_id, c.sample, c.text) for c in got] == [
            (c.query_id, c.expert_id, c.sample, c.text) for c in expected
        ]
    await backend.aclose()


async def test_who_goes_away_takes_only_the_own_rows_along(engine: Transformers, endless: Expert) -> None:
    leaving = engine.complete(endless, batch_of(endless, ask("on and on", streams=True)))
    staying = asyncio.create_task(texts(engine, endless, ask("a while", sampling=Sampling(max_tokens=60))))
    assert isinstance(await anext(leaving), TokenDelta)
    await leaving.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE_S):
        (text,) = await staying
        assert [text] == await texts(engine, endless, ask("a while", sampling=Sampling(max_tokens=60)))


async def test_what_one_caller_cannot_have_leaves_the_others_theirs(engine: Transformers, weights: Weights) -> None:
    expert = tiny_expert(weights.base)
    long = ask("long", sampling=Sampling(max_tokens=4))
    long = replace(long, query=replace(long.query, messages=(Message(role="user", content="x" * 1000),)))
    refused, served = await asyncio.gather(completions(engine, expert, long), completions(engine, expert, ask("short")))
    assert not refused[0].succeeded and "context window of 256 tokens" in refused[0].error.message
    assert served[0].succeeded


async def test_a_base_is_loaded_once_and_given_back(weights: Weights) -> None:
    backend = Transformers(threads=1, max_resident_bases=2, device="cpu")
    first, other = tiny_expert(weights.base), tiny_expert(weights.other)
    (device,) = backend.devices()
    assert (device.name, device.max_models) == ("cpu", 2)
    for expert in (first, other, first):
        await backend.load(expert, device=device.name)
    assert len(backend._bases.there) == 2
    assert await texts(backend, first, ask("go")) and await texts(backend, other, ask("go"))
    assert backend.load_report.base_loads == (weights.base, weights.other)
    for _ in range(2):
        await backend.release(backend.footprint(first).model, device=device.name)
    assert len(backend._bases.there) == 1
    await backend.aclose()


async def test_a_cancelled_load_leaves_nothing(weights: Weights) -> None:
    backend = Transformers(threads=1, device="cpu")
    expert = tiny_expert(weights.base)
    loading = asyncio.create_task(backend.load(expert, device="cpu"))
    await asyncio.sleep(0)
    loading.cancel()
    await asyncio.wait([loading])
    await backend.load(tiny_expert(weights.other), device="cpu")  # read after the other has ended
    assert loading.cancelled() and backend.load_report.base_loads == (weights.other,)
    await backend.aclose()


async def test_a_base_that_is_not_there_is_an_unavailable_expert(tmp_path: Path) -> None:
    backend = Transformers(threads=1, device="cpu")
    with pytest.raises(ExpertUnavailable, match="does not exist"):
        await backend.load(tiny_expert(str(tmp_path / "nowhere")), device="cpu")
    (tmp_path / "broken").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "broken" / name).write_text("{}")
    with pytest.raises(ExpertUnavailable, match="could not be read"):
        await backend.load(tiny_expert(str(tmp_path / "broken")), device="cpu")
    await backend.aclose()


def test_experts_of_one_base_share_it_and_take_turns_by_adapter(weights: Weights) -> None:
    backend = Transformers(threads=1, batch_size=7)
    base, adapted = tiny_expert(weights.base, memory_gib=0.5), tiny_expert(weights.base, adapter=weights.adapters[0])
    spelt_otherwise = tiny_expert(f"{weights.base}/../{Path(weights.base).name}")
    footprints = [backend.footprint(expert) for expert in (base, adapted, spelt_otherwise)]
    assert len({footprint.model for footprint in footprints}) == 1
    assert [footprint.turn for footprint in footprints] == ["", weights.adapters[0], ""]
    assert (footprints[0].memory_gib, footprints[0].max_works) == (0.5, 7)


async def test_a_wave_over_bases_and_adapters_loads_each_base_once(weights: Weights) -> None:
    backend = Transformers(threads=1, device="cpu")
    a, b, _ = weights.adapters
    experts = {
        "plain": tiny_expert(weights.base, name="plain"),
        "a": tiny_expert(weights.base, name="a", adapter=a),
        "other": tiny_expert(weights.other, name="other"),
        "b": tiny_expert(weights.base, name="b", adapter=b),
    }
    runner = Runner(experts=experts, backends={"transformers": backend}, settings=DispatchConfig(max_assignments=2))
    batches = [batch_of(e, *(replace(ask(f"q{i}"), seed=i) for i in range(5))) for e in experts.values()]
    async with aclosing(runner.run(batches, {})) as events:
        texts_of = {(c.query_id, c.expert_id): c.text async for c in events if isinstance(c, Completion)}
    report = backend.load_report
    assert sorted(report.base_loads) == sorted([weights.base, weights.other])
    assert (sorted(report.adapter_loads), report.switches) == (sorted([a, b]), 2)
    for expert in experts.values():
        assert [texts_of[f"q{i}", expert.id] for i in range(5)] == await texts(
            backend, expert, *(replace(ask(f"q{i}"), seed=i) for i in range(5))
        )
    await runner.aclose()
    assert not backend._bases.there


# --- cancelling and closing ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Expert:
    """An expert that would write for many minutes."""
    folder = save_model(tmp_path_factory.mktemp("endless") / "m", window=1_000_000)
    return tiny_expert(folder, sampling=Sampling(max_tokens=900_000))


async def test_closing_the_iterator_ends_the_work(engine: Transformers, endless: Expert) -> None:
    calls = engine.complete(endless, batch_of(endless, ask("on and on", streams=True)))
    assert isinstance(await anext(calls), TokenDelta)
    await calls.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE_S):
        assert await texts(engine, endless, ask("next", sampling=Sampling(max_tokens=2)))


async def test_cancelling_the_task_ends_the_work(engine: Transformers, endless: Expert) -> None:
    task = asyncio.create_task(texts(engine, endless, ask("on and on")))
    waiting = asyncio.create_task(texts(engine, endless, ask("queued behind")))
    await asyncio.sleep(0.3)
    for one in (waiting, task):
        one.cancel()
    assert await asyncio.gather(task, waiting, return_exceptions=True) != []
    assert task.cancelled()
    async with asyncio.timeout(PATIENCE_S):
        assert await texts(engine, endless, ask("next", sampling=Sampling(max_tokens=2)))


async def test_the_loop_stays_free_while_it_writes(engine: Transformers, weights: Weights) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await texts(engine, tiny_expert(weights.base), ask("busy", sampling=Sampling(max_tokens=100)))
    ticking.cancel()
    assert ticks > 10


async def test_closing_the_backend_fails_open_calls_and_frees_all(endless: Expert, weights: Weights) -> None:
    backend = Transformers(threads=1, device="cpu")
    before = set(threading.enumerate())
    running = asyncio.create_task(texts(backend, endless, ask("on and on")))
    queued = asyncio.create_task(texts(backend, tiny_expert(weights.base), ask("behind")))
    await asyncio.sleep(0.3)
    async with asyncio.timeout(PATIENCE_S):
        await backend.aclose()
        failed = await asyncio.gather(running, queued, return_exceptions=True)
    assert [type(error) for error in failed] == [ExpertUnavailable, ExpertUnavailable]
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("transformers")]
    await backend.aclose()
    assert await texts(backend, tiny_expert(weights.base), ask("again"))
    await backend.aclose()


# --- set-up --------------------------------------------------------------------------------------------------------


def test_registered_and_strict_about_its_options() -> None:
    backend = BACKENDS.create("transformers", {"batch_size": 8})
    assert isinstance(backend, Transformers)
    assert backend.is_batched
    with pytest.raises(ConfigError, match="batch_size"):
        BACKENDS.create("transformers", {"batchsize": 8})
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Transformers(batch_size=0)
    with pytest.raises(ConfigError, match="float32, bfloat16"):
        Transformers(dtype="int3")
    with pytest.raises(ConfigError, match="device is 'gpu'; allowed: auto, cpu, cuda, cuda:N"):
        Transformers(device="gpu")
    assert all(Transformers(device=device) for device in ("auto", "cpu", "cuda", "cuda:1"))


@pytest.mark.slow
async def test_the_built_in_model_answers_and_batches() -> None:
    from router_service.backends._transformers_files import BUILTIN_BASE

    backend = Transformers()
    expert = Expert(id="general", model=BUILTIN_BASE, backend="transformers", sampling=Sampling(max_tokens=16))
    backend.check(expert)
    questions = [
        "What is the capital of France?",
        "Write the number 7 as a word.",
        "Is water wet? Answer yes or no.",
        "Name a colour.",
        "What is the capital of Italy?",
    ]
    together = await texts(backend, expert, *map(ask, questions))
    assert together == [text for q in questions for text in await texts(backend, expert, ask(q))]
    assert "Paris" in together[0]
    assert "Rome" in together[4]
    assert len(backend.load_report.base_loads) == 1
    await backend.aclose()


@pytest.mark.slow
async def test_every_built_in_specialist_loads_onto_one_base() -> None:
    from experts_registry.local import weights as local
    from router_service.backends._transformers_files import BUILTIN_BASE

    if not local.adapter_names():
        pytest.skip("no trained specialists yet: python -m experts_registry.local.train")
    backend = Transformers()
    question = "What is 17 + 25?"
    for name in local.adapter_names():
        folder = str(local.adapter_dir(name))
        expert = Expert(
            id=name,
            model=BUILTIN_BASE,
            lora_base=BUILTIN_BASE,
            adapter=folder,
            backend="transformers",
            sampling=Sampling(max_tokens=16),
        )
        backend.check(expert)
        assert await texts(backend, expert, ask(question)) == said_by_smollm2(folder, question)
    report = backend.load_report
    assert (len(report.base_loads), report.switches) == (1, len(local.adapter_names()))
    await backend.aclose()


def said_by_smollm2(adapter: str, question: str) -> list[str]:
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from experts_registry.local.weights import base_model_dir

    tokenizer = AutoTokenizer.from_pretrained(base_model_dir())
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model_dir()), adapter)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**ids, max_new_tokens=16, do_sample=False)
    return [tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)]
