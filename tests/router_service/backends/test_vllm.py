"""The backend `vllm` on engines of straw: what an engine is asked, what comes of it, when engines come and go."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.backends._vllm_devices import EngineDevice
from router_service.backends._vllm_options import Adapters, engine_environment, engine_order, model_key, vllm_options
from router_service.backends.base import ScoringBackend
from router_service.backends.vllm import Vllm
from router_service.errors import ConfigError, ExpertRefused, ExpertUnavailable
from router_service.types import (
    AnswerKind,
    AudioPart,
    Completion,
    ExpertBatch,
    ImagePart,
    Message,
    Query,
    Sampling,
    TaskFormat,
    TextScore,
    TokenDelta,
    user_query,
)
from tests.router_service.backends import fake_engine
from tests.router_service.backends.straw import ask, engine_pids, expert_on, pieces, straw, texts, until

WARM = Sampling(temperature=0.8, max_tokens=12)
PAIR = EngineDevice(name="pair", memory_gib=48.0, gpus=("0", "1"))
CPU = EngineDevice(name="cpu", memory_gib=16.0)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return fake_engine.save_base(tmp_path / "base")


# --- what is asked and what comes of it ----------------------------------------------------------------------------


async def test_experts_of_one_base_share_an_engine_and_its_steps(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", answer="company", step_s=0.02)
    adapters = [fake_engine.save_adapter(tmp_path / name, base) for name in ("one", "two")]
    experts = [expert_on(base), *(expert_on(base, Path(a).name, adapter=a) for a in adapters)]
    async with straw() as backend:
        for expert in experts:
            backend.check(expert)
        await backend.load(experts[0], device="cpu")
        said = await asyncio.gather(*(texts(backend, e, ask("q"), ask("r"), device="cpu") for e in experts))
        assert len(engine_pids()) == 1
    assert [text.split()[-1] for batch in said for text in batch] == ["3"] * 6


async def test_a_sample_has_its_own_seed_whoever_is_asked_for_with_it(base: str) -> None:
    async with straw() as backend:
        expert = expert_on(base)
        together = await texts(backend, expert, ask("q", sampling=WARM, samples=4, seed=7))
        alone = [await texts(backend, expert, ask("q", sampling=WARM, first_sample=i, seed=7)) for i in range(4)]
        other = await texts(backend, expert, ask("q", sampling=WARM, samples=4, seed=8))
    assert together == [text for [text] in alone]
    assert len(set(together)) == 4 and not set(together) & set(other)


async def test_a_greedy_choice_is_made_once_for_all_samples(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", answer="company", step_s=0.01)
    async with straw() as backend:
        said = await pieces(backend, expert_on(base), ask("q", samples=5))
    assert [c.sample for c in said] == list(range(5))
    assert len({c.text for c in said}) == 1 and all(c.usage.completions == 1 for c in said)


async def test_an_adapter_says_what_no_other_does(tmp_path: Path, base: str) -> None:
    adapters = [fake_engine.save_adapter(tmp_path / name, base) for name in ("one", "two")]
    async with straw() as backend:
        experts = [expert_on(base), *(expert_on(base, Path(a).name, adapter=a) for a in adapters)]
        for expert in experts:
            backend.check(expert)
        said = [await texts(backend, expert, ask("q")) for expert in experts]
    assert len({text for [text] in said}) == 3


async def test_what_is_asked_reaches_the_engine(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", answer="params")
    expert = expert_on(base, sampling=Sampling(temperature=0.5, max_tokens=100), max_output_tokens=40)
    asked = Sampling(top_p=0.9, stop=("x", "y"), presence_penalty=0.5, frequency_penalty=-0.5)
    async with straw() as backend:
        [text] = await texts(backend, expert, ask("q", sampling=asked, seed=3))
        [short] = await texts(backend, replace(expert, context_window=10), ask("q"))
        [plain] = await texts(backend, expert_on(base), ask("q"))
    said = json.loads(text)
    assert (said["temperature"], said["top_p"], said["stop"]) == (0.5, 0.9, ["x", "y"])
    assert (said["presence_penalty"], said["frequency_penalty"], said["max_tokens"]) == (0.5, -0.5, 40)
    assert said["seed"] is not None and said["structured_outputs"] is None
    assert json.loads(short)["max_tokens"] == 1, "the estimate and the prompt leave next to nothing"
    assert json.loads(plain)["temperature"] == 0.0


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        ('{"type": "object"}', {"json": {"type": "object"}, "json_object": None}),
        ('{"name": "n", "schema": {"type": "array"}}', {"json": {"type": "array"}, "json_object": None}),
        (None, {"json": None, "json_object": True}),
    ],
)
async def test_a_json_answer_is_structured(tmp_path: Path, schema: str | None, sent: dict[str, object]) -> None:
    base = fake_engine.save_base(tmp_path / "base", answer="params")
    format_ = TaskFormat(kind=AnswerKind.JSON, json_schema=schema)
    asked = ask("q")
    async with straw() as backend:
        [text] = await texts(backend, expert_on(base), replace(asked, query=replace(asked.query, task_format=format_)))
    assert json.loads(text)["structured_outputs"] == sent


async def test_a_stop_text_ends_an_answer_streamed_or_not(base: str) -> None:
    async with straw() as backend:
        expert = expert_on(base)
        [whole] = await pieces(backend, expert, ask("q", sampling=Sampling(max_tokens=12)))
        words = whole.text.split()
        [cut] = await pieces(backend, expert, ask("q", sampling=Sampling(max_tokens=12, stop=(words[2],))))
    assert cut.text.split() == words[:2] and cut.finish_reason == "stop"
    assert (cut.usage.prompt_tokens, cut.usage.completion_tokens) == (3, 3)
    assert cut.logprob == -0.5


def no_text(content: object) -> Query:
    return Query(id="odd", messages=(Message(role="user", content=content),))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (no_text((ImagePart(url="http://x/y.png"),)), "reads text only, and the query holds image"),
        (no_text((AudioPart(data="", format="wav"),)), "holds audio"),
        (replace(user_query("odd", "q"), tools=("{}",)), "calls no tools"),
        (Query(id="odd", messages=(Message(role="tool", content="x"),)), r"roles tool \(no tools here\)"),
        (user_query("odd", "word " * 300), r"window of 256 tokens, and the query has 302"),
        (replace(user_query("odd", "q"), sampling=Sampling(top_p=0.0)), r"top_p must be in"),
        (user_query("odd", "q", task_format=TaskFormat(kind=AnswerKind.JSON, json_schema="{")), "is not JSON"),
        (
            user_query("odd", "q", task_format=TaskFormat(kind=AnswerKind.JSON, json_schema='{"type": "nonsense"}')),
            "Invalid type: nonsense",
        ),
    ],
)
async def test_what_an_engine_cannot_serve_fails_alone(base: str, odd: Query, said: str) -> None:
    async with straw() as backend:
        found = await pieces(backend, expert_on(base), replace(ask("x"), query=odd, samples=2), ask("q"))
    failed = [c for c in found if not c.succeeded]
    assert [c.query_id for c in failed] == ["odd", "odd"] and sorted(c.sample for c in failed) == [0, 1]
    for completion in failed:
        assert completion.error.code == ExpertRefused.code
        assert re.search(said, completion.error.message), completion.error.message
    assert [c.query_id for c in found if c.succeeded] == ["q"]


async def test_closing_the_iterator_takes_its_requests_out_of_the_engine(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", answer="company", step_s=0.02)
    adapter = fake_engine.save_adapter(tmp_path / "one", base)
    left, right = expert_on(base), expert_on(base, "one", adapter=adapter)
    async with straw() as backend:
        backend.check(right)
        await backend.load(left, device="cpu")
        endless = ask("q", sampling=Sampling(max_tokens=250, temperature=1.0, stop=()), samples=8, streams=True)
        asked = ExpertBatch(expert_id="E", assignments=(endless,), device="cpu")
        async with aclosing(backend.complete(left, asked)) as items:
            assert isinstance(await anext(items), TokenDelta)
        [text] = await texts(backend, right, ask("r"), device="cpu")
    assert set(text.split()) == {"1"}


async def test_texts_are_scored_as_answers(base: str) -> None:
    async with straw() as backend:
        assert isinstance(backend, ScoringBackend)
        expert = expert_on(base, persona="p")
        query = user_query("q", "a b")
        scores = await backend.score(expert, [(query, "c d e"), (query, ""), (query, "a")])
    # Prompt <system> p <user> a b <assistant> takes tokens 0 to 5; a token's log-probability is minus one more.
    assert scores[0] == TextScore(logprob_sum=-(7.0 + 8.0 + 9.0), tokens=3)
    assert (scores[1].tokens, scores[1].mean_logprob) == (0, 0.0)
    assert (scores[2].tokens, scores[2].mean_logprob) == (1, -4.0)


async def test_a_text_that_cannot_be_scored_is_refused(tmp_path: Path, base: str) -> None:
    query = user_query("q", "a b")
    head = fake_engine.save_adapter(tmp_path / "head", base, layer="lm_head")
    async with straw() as backend:
        with pytest.raises(ExpertRefused, match=r"window of 256 tokens, and the query has 304"):
            await backend.score(expert_on(base), [(query, "x"), (query, "word " * 300)])
        with pytest.raises(ExpertRefused, match="reads text only"):
            await backend.score(expert_on(base), [(no_text((ImagePart(url="u"),)), "x")])
    async with straw() as backend:
        backend.check(expert_on(base, "head", adapter=head))
        with pytest.raises(ExpertRefused, match="cannot score texts"):
            await backend.score(expert_on(base), [(query, "x")])


# --- engines come and go -------------------------------------------------------------------------------------------


async def test_a_release_ends_the_process_and_a_load_begins_another(base: str) -> None:
    async with straw() as backend:
        expert = expert_on(base)
        await backend.load(expert, device="cpu")
        [first] = engine_pids()
        await backend.load(expert, device="cpu")
        assert engine_pids() == {first}, "it is there already"
        await backend.release(backend.footprint(expert).model, device="cpu", sleeps=True)
        assert not engine_pids(), "a processor cannot sleep"
        await backend.release(backend.footprint(expert).model, device="cpu")
        with pytest.raises(ExpertUnavailable, match=r"not resident on 'cpu'.*load it again") as caught:
            await texts(backend, expert, ask("q"), device="cpu")
        assert caught.value.retryable
        await backend.load(expert, device="cpu")
        assert await texts(backend, expert, ask("q"), device="cpu")
        assert engine_pids() and engine_pids() != {first}


@pytest.mark.parametrize("level", [1, 2])
async def test_an_engine_sleeps_and_wakes_where_it_can(base: str, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRAW_SLEEPS", "1")
    async with straw(devices=[{"name": "gpu", "gpus": "0", "memory_gib": 24}]) as backend:
        expert = expert_on(base, options={"sleep_level": level})
        model = backend.footprint(expert).model
        await backend.load(expert, device="gpu")
        before, pids = await texts(backend, expert, ask("q"), device="gpu"), engine_pids()
        await backend.release(model, device="gpu", sleeps=True)
        await backend.release(model, device="gpu", sleeps=True)
        assert engine_pids() == pids
        with pytest.raises(ExpertUnavailable, match="not resident"):
            await texts(backend, expert, ask("q"), device="gpu")
        await backend.load(expert, device="gpu")
        assert await texts(backend, expert, ask("q"), device="gpu") == before
        assert engine_pids() == pids
        assert backend.footprint(expert).wake_s < 5
        await backend.release(model, device="gpu", sleeps=True)
        assert await texts(backend, expert, ask("q")) == before, "without a device it is woken, too"
        await backend.release(model, device="gpu", sleeps=True)
        await backend.release(model, device="gpu")
        assert not engine_pids()


async def test_where_nothing_sleeps_the_footprint_learns_it(base: str) -> None:
    async with straw(devices=[{"name": "gpu", "gpus": "0"}]) as backend:
        expert = expert_on(base)
        assert backend.footprint(expert).wake_s is not None
        await backend.load(expert, device="gpu")
        assert backend.footprint(expert).wake_s is None
        assert 0 < backend.footprint(expert).load_s < 10


async def test_two_bases_take_turns_on_one_device(tmp_path: Path) -> None:
    bases = [fake_engine.save_base(tmp_path / name, step_s=0.005) for name in ("one", "two")]
    most = 0
    async with straw() as backend:
        experts = [expert_on(base, Path(base).name) for base in bases]

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(engine_pids()))
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        calls = [texts(backend, experts[i % 2], ask(f"q{i}")) for i in range(6)]
        async with asyncio.timeout(20):
            said = await asyncio.gather(*calls)
        watching.cancel()
        alone = [await texts(backend, experts[i % 2], ask(f"q{i}")) for i in range(6)]
    assert said == alone and most == 1


def test_one_backend_serves_several_event_loops(base: str) -> None:
    backend, expert = Vllm(worker=fake_engine.SCRIPT, devices=[{"name": "cpu"}]), expert_on(base)
    first = asyncio.run(texts(backend, expert, ask("q")))
    pids = engine_pids()
    assert asyncio.run(texts(backend, expert, ask("q"))) == first
    assert engine_pids() == pids and len(pids) == 1
    asyncio.run(backend.aclose())
    assert not engine_pids()


async def test_closing_the_backend_ends_what_is_open(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", step_s=0.05)
    async with straw() as backend:
        expert = expert_on(base, sampling=Sampling(max_tokens=200, temperature=1.0))
        call = asyncio.create_task(pieces(backend, expert, ask("q", samples=20, streams=True)))
        await until(engine_pids)
        await backend.load(expert, device="cpu")
        await asyncio.sleep(0)
        await backend.aclose()
        with pytest.raises(ExpertUnavailable, match=r"released; ask again|could not be brought up") as caught:
            await call
        assert caught.value.retryable and not engine_pids()
        assert await texts(backend, expert_on(base), ask("q")), "and it serves again"


async def test_cancelling_a_load_leaves_no_process(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", load_s=60)
    async with straw() as backend:
        load = asyncio.create_task(backend.load(expert_on(base), device="cpu"))
        await until(engine_pids)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert not engine_pids()


# --- options and footprints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tensor_paralel_size": 2}, r"'tensor_paralel_size'.*Did you mean 'tensor_parallel_size'.*Allowed"),
        ({"dtype": 16}, "must be of type str"),
        ({"enforce_eager": "yes"}, "must be of type bool"),
        ({"tensor_parallel_size": 0}, "'tensor_parallel_size' is 0; give 1 or more"),
        ({"kv_cache_gib": -1.0}, "'kv_cache_gib' is -1.0"),
        ({"gpu_memory_utilization": 1.5}, r"'gpu_memory_utilization' is 1.5; give a share"),
        ({"sleep_level": 3}, "allowed: 0, 1, 2"),
    ],
)
def test_a_wrong_option_is_named(base: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Vllm(worker=fake_engine.SCRIPT).check(expert_on(base, options=options))


def test_options_of_the_backend_are_checked() -> None:
    with pytest.raises(ConfigError, match="silence_s is 0"):
        Vllm(silence_s=0)
    with pytest.raises(ConfigError, match="threads is -1"):
        Vllm(threads=-1)


@given(
    weights=st.fixed_dictionaries({}, optional={"allows_download": st.booleans(), "accepts_base": st.text(max_size=3)}),
    engine=st.fixed_dictionaries(
        {}, optional={"dtype": st.sampled_from(["auto", "bfloat16"]), "max_model_len": st.integers(0, 2)}
    ),
)
def test_experts_share_an_engine_if_they_say_the_same_of_it(
    weights: dict[str, object], engine: dict[str, object]
) -> None:
    plain, said = expert_on("org/base"), expert_on("org/base", "other", adapter="a", options={**weights, **engine})
    is_same = all(value in ("auto", 0) for value in engine.values())
    assert (model_key(plain, vllm_options(plain)) == model_key(said, vllm_options(said))) == is_same


def arguments_of(expert, device: EngineDevice, adapters: Adapters | None = None) -> dict[str, object]:
    order = engine_order(
        expert, vllm_options(expert), folder=Path("/weights"), device=device, adapters=adapters or Adapters()
    )
    return {**order["engine"], **order["wishes"]}


def test_the_engine_on_a_processor() -> None:
    said = arguments_of(expert_on("org/base"), CPU)
    assert said == {
        "model": "/weights",
        "tensor_parallel_size": 1,
        "load_format": "auto",
        "dtype": "float32",
        "enforce_eager": True,
        "trust_remote_code": False,
        "kv_cache_memory_bytes": 1 << 30,
        "block_size": 32,
        "disable_log_stats": True,
    }
    adapters = Adapters(count=12, rank=9, targets=frozenset({"q_proj", "o_proj"}))
    said = arguments_of(expert_on("org/base", options={"dtype": "bfloat16", "max_loras": 4}), CPU, adapters)
    assert (said["dtype"], said["enable_lora"], said["max_lora_rank"]) == ("bfloat16", True, 16)
    assert said["lora_target_modules"] == ["o_proj", "q_proj"]
    assert (said["max_loras"], said["max_cpu_loras"]) == (13, 13), "one place stays empty"
    said = arguments_of(expert_on("org/base", options={"max_loras": 4}), PAIR, adapters)
    assert (said["max_loras"], said["max_cpu_loras"]) == (4, 12)


def test_with_adapters_weights_stay_near_while_it_sleeps() -> None:
    expert, adapters = expert_on("org/base", options={"sleep_level": 2}), Adapters(count=1, rank=8)
    levels = [
        engine_order(expert, vllm_options(expert), folder=Path("/w"), device=PAIR, adapters=some)["sleep_level"]
        for some in (Adapters(), adapters)
    ]
    assert levels == [2, 1]


def test_the_engine_on_gpus() -> None:
    options = {"tensor_parallel_size": 2, "quantization": "fp8", "kv_cache_gib": 2.5, "max_model_len": 4096}
    said = arguments_of(expert_on("org/base", options=options, memory_gib=24.0), PAIR)
    assert (said["tensor_parallel_size"], said["quantization"], said["dtype"]) == (2, "fp8", "auto")
    assert (said["kv_cache_memory_bytes"], said["max_model_len"]) == (int(2.5 * (1 << 30)), 4096)
    assert said["gpu_memory_utilization"] == 0.5 and not said["enforce_eager"] and "block_size" not in said
    one = arguments_of(expert_on("org/base", memory_gib=12.0), PAIR)
    assert one["gpu_memory_utilization"] == 0.5, "on one GPU of the pair"
    asked = arguments_of(expert_on("org/base", options={"gpu_memory_utilization": 0.3}), PAIR)
    assert asked["gpu_memory_utilization"] == 0.3
    assert "gpu_memory_utilization" not in arguments_of(expert_on("org/base", memory_gib=None), PAIR)
    with pytest.raises(ConfigError, match=r"spread over 4 GPUs.*device 'pair' has 2"):
        arguments_of(expert_on("org/base", options={"tensor_parallel_size": 4}), PAIR)


def test_the_environment_of_an_engine() -> None:
    inherited = {"PATH": "/bin", "HF_TOKEN": "hf_secret", "OPENAI_API_KEY": "sk-1", "PYTHONPATH": "/lib"}
    said = engine_environment(CPU, threads=3, python="/venv/python", own_python="/python", inherited=inherited)
    assert (said["PATH"], said["OMP_NUM_THREADS"], said["OMP_WAIT_POLICY"]) == ("/bin", "3", "PASSIVE")
    assert not {"HF_TOKEN", "OPENAI_API_KEY", "PYTHONPATH"} & said.keys()
    said = engine_environment(PAIR, threads=3, python="/python", own_python="/python", inherited=inherited)
    assert (said["CUDA_VISIBLE_DEVICES"], said["PYTHONPATH"]) == ("0,1", "/lib") and "OMP_NUM_THREADS" not in said


async def test_the_footprint_by_entry_and_by_files(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base")
    weights = Path(base) / "model.safetensors"
    with weights.open("ab") as file:
        file.truncate(1 << 28)  # a quarter of a GiB that takes no room
    async with straw() as backend:
        unsaid = expert_on(base, memory_gib=None)
        assert backend.footprint(unsaid).memory_gib is None, "nobody has looked at its files"
        backend.check(unsaid)
        assert backend.footprint(unsaid).memory_gib == pytest.approx(0.25 + 1.0 + 1.2)
        (Path(base) / "config.json").write_text('{"torch_dtype": "bfloat16"}')
        assert backend.footprint(unsaid).memory_gib == pytest.approx(0.5 + 1.0 + 1.2)
        assert backend.footprint(expert_on(base)).memory_gib == 1.0
        footprint = backend.footprint(unsaid)
        assert footprint.turn == footprint.model and footprint.max_works > 8 and footprint.wake_s is None
    async with straw(devices=[{"name": "gpu", "gpus": "0", "memory_gib": 40}]) as backend:
        backend.check(unsaid)
        assert backend.footprint(unsaid).memory_gib == 36.0
        half = expert_on(base, memory_gib=None, options={"gpu_memory_utilization": 0.5})
        assert backend.footprint(half).memory_gib == 20.0


async def test_speed_is_learned_at_work(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", step_s=0.1)
    async with straw() as backend:
        expert = expert_on(base)
        guess = backend.footprint(expert).tokens_per_s
        said = [c for i in range(3) for c in await pieces(backend, expert, *(ask(f"{i} {j}") for j in range(3)))]
        tokens = sum(c.usage.completion_tokens for c in said if isinstance(c, Completion))
        learned = backend.footprint(expert).tokens_per_s
    assert learned != guess and learned < tokens / 1.0
