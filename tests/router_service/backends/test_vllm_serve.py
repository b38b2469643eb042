"""The backend `vllm_serve` on a stand-in for vLLM: one server per base, each assignment for itself, deaths survived."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from router_service.backends.base import BACKENDS
from router_service.backends.vllm_serve import VllmServe
from router_service.config import DispatchConfig
from router_service.dispatch.runner import PanelReady, Runner
from router_service.errors import ConfigError, ExpertUnavailable
from router_service.types import Assignment, Completion, Expert, ExpertBatch, ExpertLimits, Sampling, Secret, TokenDelta
from tests.router_service.backends import fake_engine, fake_vllm
from tests.router_service.backends.straw import ask, is_running, until
from tests.router_service.backends.test_server_process import journal_of, order_for, served

GPU = {"name": "gpu0", "gpus": "0", "memory_gib": 80}


@asynccontextmanager
async def serving(folder: Path, **options: object) -> AsyncIterator[VllmServe]:
    """The backend on a fake interpreter, closed in the end."""
    given = {"devices": [{"name": "cpu", "memory_gib": 64}], "threads": 1, "load_timeout_s": 20.0, **options}
    backend = VllmServe(python=fake_vllm.interpreter(folder), **given)
    try:
        yield backend
    finally:
        await backend.aclose()


def expert_on(base: str, name: str = "E", **fields: object) -> Expert:
    given = {"memory_gib": 1.0, "limits": ExpertLimits(max_concurrency=8, timeout_s=20), **fields}
    lora_base = base if given.get("adapter") else None
    return Expert(id=name, model=base, backend="vllm_serve", lora_base=lora_base, **given)


async def said(
    backend: VllmServe, expert: Expert, *asked: Assignment, device: str | None = None
) -> dict[str, Completion]:
    """The completions by their questions, one each."""
    batch = ExpertBatch(expert_id=expert.id, assignments=asked, device=device)
    return {piece.query_id: piece async for piece in backend.complete(expert, batch) if isinstance(piece, Completion)}


def servers_of(base: str) -> list[dict[str, object]]:
    return [entry for entry in journal_of(Path(base)) if "argv" in entry]


def told(base: str) -> list[object]:
    return [entry["told"] for entry in journal_of(Path(base)) if "told" in entry]


def alive(base: str) -> list[int]:
    return [pid for entry in servers_of(base) for pid in (int(entry["pid"]), int(entry["engine"])) if is_running(pid)]


def kill_server(base: str) -> None:
    os.kill(int(servers_of(base)[-1]["pid"]), signal.SIGKILL)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return fake_engine.save_base(tmp_path / "base")


# --- one server per base ---------------------------------------------------------------------------------------------


async def test_experts_of_one_base_share_a_server_and_have_their_own_adapters(tmp_path: Path, base: str) -> None:
    adapters = [fake_engine.save_adapter(tmp_path / name, base, rank=rank) for name, rank in (("a", 4), ("b", 12))]
    experts = [expert_on(base), *(expert_on(base, Path(folder).name, adapter=folder) for folder in adapters)]
    async with serving(tmp_path) as backend:
        for expert in experts:
            backend.check(expert)
        await backend.load(experts[0], device="cpu")
        answers = [await said(backend, expert, ask("x"), device="cpu") for expert in experts]
        [server] = servers_of(base)
    assert [answer["x"].text for answer in answers] == [
        "You asked base: x ",
        "You asked adapter-1: x ",
        "You asked adapter-2: x ",
    ]
    arguments = [str(argument) for argument in server["argv"]]
    modules = arguments[arguments.index("--lora-modules") + 1 : arguments.index("--host")]
    assert [json.loads(module)["path"] for module in modules] == adapters
    assert arguments[arguments.index("--max-lora-rank") + 1] == "16"
    assert arguments[arguments.index("--model") + 1] == base and "--enable-lora" in arguments
    assert not alive(base)


async def test_every_engine_option_becomes_a_flag(tmp_path: Path, base: str) -> None:
    options = {
        "max_model_len": 512,
        "max_num_seqs": 4,
        "kv_cache_gib": 0.5,
        "dtype": "bfloat16",
        "load_format": "dummy",
        "quantization": "awq",
        "trust_remote_code": True,
    }
    async with serving(tmp_path) as backend:
        await backend.load(expert_on(base, options=options), device="cpu")
    [server] = servers_of(base)
    line = " ".join(map(str, server["argv"]))
    for flag in (
        *("--max-model-len 512", "--max-num-seqs 4", "--kv-cache-memory-bytes 536870912", "--dtype bfloat16"),
        *("--load-format dummy", "--quantization awq", "--trust-remote-code", "--enforce-eager"),
        *("--tensor-parallel-size 1", "--served-model-name base", "--generation-config vllm", "--host 127.0.0.1"),
    ):
        assert f"{flag} " in f"{line} "
    assert "--lora-modules" not in line and "--enable-sleep-mode" not in line
    assert server["environment"] == {}


async def test_secrets_of_this_process_do_not_reach_the_server(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter22")
    async with serving(tmp_path) as backend:
        await backend.load(expert_on(base), device="cpu")
    assert servers_of(base)[0]["environment"] == {}


async def test_it_asks_as_the_embedded_engines_do(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        expert = expert_on(base)
        greedy, warm = ask("note this"), ask("and note this", sampling=Sampling(temperature=0.7, max_tokens=9), seed=5)
        assert all(c.succeeded for c in (await said(backend, expert, greedy, warm)).values())
    asked = [entry["asked"] for entry in journal_of(Path(base)) if "asked" in entry]
    [one] = [body for body in asked if body["temperature"] == 0.0]
    [two] = [body for body in asked if body["temperature"] == 0.7]
    assert one["max_tokens"] == 64, "no more than the window, which a server refuses"
    assert (two["max_tokens"], two["seed"], two["logprobs"]) == (9, 5, True)


async def test_what_is_up_can_be_seen_and_what_it_takes_is_learned(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        unsized = expert_on(base, memory_gib=None)
        backend.check(unsized)
        assert backend.footprint(unsized).memory_gib == pytest.approx(1.0 + 1.2 + 1.3, abs=0.01)
        guessed_s = backend.footprint(unsized).load_s
        await backend.load(unsized, device="cpu")
        [report] = backend.servers
        [server] = servers_of(base)
        assert (report.device, report.pid, report.is_asleep) == ("cpu", server["pid"], False)
        assert report.address == f"http://127.0.0.1:{server['port']}/v1"
        assert backend.footprint(unsized).load_s < guessed_s
        await backend.release(report.model, device="cpu")
        assert not backend.servers


# --- each assignment for itself --------------------------------------------------------------------------------------


async def test_no_more_requests_at_once_than_the_expert_allows(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        expert = expert_on(base, limits=ExpertLimits(max_concurrency=3, timeout_s=20))
        batches = [[ask(f"wait now {i} {j}") for i in range(6)] for j in range(2)]
        answers = await asyncio.gather(*(said(backend, expert, *asked) for asked in batches))
    assert [len(answer) for answer in answers] == [6, 6]
    assert max(int(entry["open"]) for entry in journal_of(Path(base)) if "open" in entry) == 3


async def test_a_prompt_longer_than_the_window_fails_alone_with_the_numbers(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        long = ask("word " * 100)
        answers = await said(backend, expert_on(base), ask("x"), long, ask("y"))
    assert answers["x"].succeeded and answers["y"].succeeded
    error = answers[long.query.id].error
    assert error is not None and (error.code, error.is_retryable) == ("expert_refused", False)
    assert "maximum context length is 64 tokens" in error.message and "at least 65 input tokens" in error.message


async def test_what_streams_comes_as_it_is_written_beside_what_does_not(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        expert, asked = expert_on(base), (ask("one two", streams=True), ask("wait now"))
        batch = ExpertBatch(expert_id="E", assignments=asked)
        pieces = [piece async for piece in backend.complete(expert, batch)]
    deltas = [piece.text for piece in pieces if isinstance(piece, TokenDelta)]
    assert "".join(deltas) == "You asked base: one two " and len(deltas) == 4
    assert [p.query_id for p in pieces if isinstance(p, Completion)] == ["one two", "wait now"]


async def test_closing_the_answers_ends_the_requests(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        expert = expert_on(base, limits=ExpertLimits(max_concurrency=1, timeout_s=20))
        batch = ExpertBatch(expert_id="E", assignments=tuple(ask(f"wait now {i}") for i in range(20)))
        async with aclosing(backend.complete(expert, batch)) as pieces:
            await anext(pieces)
    assert len([entry for entry in journal_of(Path(base)) if "open" in entry]) < 5


# --- deaths ----------------------------------------------------------------------------------------------------------


async def test_a_server_killed_at_work_fails_what_is_unfinished_and_a_new_one_answers(
    tmp_path: Path, base: str
) -> None:
    async with serving(tmp_path) as backend:
        expert = expert_on(base)
        await backend.load(expert, device="cpu")
        batch = ExpertBatch(expert_id="E", assignments=(ask("first"), ask("wait now", streams=False)), device="cpu")
        done = []
        with pytest.raises(
            ExpertUnavailable, match=r"lost its engine on 'cpu' at work: it was killed by signal 9"
        ) as e:
            async for piece in backend.complete(expert, batch):
                done.append(piece)
                kill_server(base)
        assert e.value.retryable and [piece.query_id for piece in done] == ["first"]
        assert not alive(base)
        with pytest.raises(ExpertUnavailable, match="not resident on 'cpu'"):
            await said(backend, expert, ask("x"), device="cpu")
        await backend.load(expert, device="cpu")
        assert (await said(backend, expert, ask("x"), device="cpu"))["x"].succeeded
    assert len(servers_of(base)) == 2


@pytest.mark.parametrize("fault", ["crash now", "break now", "hang now"])
async def test_a_question_that_brings_the_server_down_is_an_unavailable_expert(
    tmp_path: Path, base: str, fault: str
) -> None:
    async with serving(tmp_path, probe_s=0.1) as backend:
        expert = expert_on(base)
        with pytest.raises(ExpertUnavailable, match="lost its engine") as caught:
            await said(backend, expert, ask(fault))
        assert caught.value.retryable
        await until(lambda: not alive(base))
        assert (await said(backend, expert, ask("x")))["x"].succeeded


async def test_the_runner_survives_a_server_that_is_killed_between_and_amid_queries(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        runner = Runner(
            experts={"E": expert_on(base)}, backends={"vllm_serve": backend}, settings=DispatchConfig(window_s=0)
        )

        async def ask_all(*texts: str) -> list[Completion]:
            batch = ExpertBatch(expert_id="E", assignments=tuple(ask(text) for text in texts))
            async with aclosing(runner.run([batch], {})) as events:
                return [c async for e in events if isinstance(e, PanelReady) for c in e.completions]

        assert all(c.succeeded for c in await ask_all("x", "y"))
        kill_server(base)
        assert all(c.succeeded for c in await ask_all("z"))
        amid = asyncio.create_task(ask_all(*(f"wait now {i}" for i in range(20))))
        await until(lambda: any("open" in entry for entry in journal_of(Path(base))))
        kill_server(base)
        answers = await amid
        assert len(answers) == 20 and all(c.succeeded for c in answers)
        assert len(servers_of(base)) == 3 and len(alive(base)) == 2
        await runner.aclose()
    assert not alive(base)


async def test_a_server_that_cannot_start_says_why_and_is_not_started_for_ever(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", at_start="die")
    async with serving(tmp_path, max_restarts=1) as backend:
        for _ in range(2):
            with pytest.raises(
                ExpertUnavailable, match=r"(?s)could not be brought up.*status 3.*cannot be served"
            ) as e:
                await backend.load(expert_on(base), device="cpu")
            assert e.value.retryable
        with pytest.raises(ExpertUnavailable) as caught:
            await backend.load(expert_on(base), device="cpu")
    assert not caught.value.retryable
    assert re.search(r"(?s)ended 2 times within 600 s \(option max_restarts\).*cannot be served", caught.value.message)
    assert len(servers_of(base)) == 2 and not alive(base)


async def test_one_that_hangs_at_its_start_is_given_up_at_the_limit(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", at_start="hang")
    async with serving(tmp_path, load_timeout_s=0.5) as backend:
        with pytest.raises(ExpertUnavailable, match=r"not ready within 0.5 s \(option load_timeout_s\)"):
            await backend.load(expert_on(base), device="cpu")
    assert not alive(base)


async def test_a_start_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    base = fake_engine.save_base(tmp_path / "base", at_start="hang")
    async with serving(tmp_path) as backend:
        load = asyncio.create_task(backend.load(expert_on(base), device="cpu"))
        await until(lambda: servers_of(base))
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert not alive(base)


async def test_closing_ends_servers_and_starts_and_open_calls(tmp_path: Path, base: str) -> None:
    other = fake_engine.save_base(tmp_path / "other", at_start="hang")
    async with serving(tmp_path) as backend:
        await backend.load(expert_on(base), device="cpu")
        call = asyncio.create_task(said(backend, expert_on(base), ask("hang now"), device="cpu"))
        load = asyncio.create_task(backend.load(expert_on(other), device="cpu"))
        await until(lambda: servers_of(other))
        await backend.aclose()
        with pytest.raises(ExpertUnavailable, match="stopped"):
            await load
        with pytest.raises(ExpertUnavailable, match="was stopped before it had answered"):
            await call
        assert not alive(base) and not alive(other)


# --- sleep -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "requests"),
    [(1, ["/sleep", "/wake_up"]), (2, ["/sleep", "/wake_up", "/collective_rpc", "/wake_up"])],
)
async def test_on_a_gpu_it_sleeps_and_wakes(tmp_path: Path, base: str, level: int, requests: list[str]) -> None:
    async with serving(tmp_path, devices=[GPU]) as backend:
        expert = expert_on(base, memory_gib=8.0, options={"sleep_level": level})
        assert backend.footprint(expert).wake_s is not None
        await backend.load(expert, device="gpu0")
        model = backend.footprint(expert).model
        await backend.release(model, device="gpu0", sleeps=True)
        assert len(alive(base)) == 2 and told(base) == ["/sleep"]
        with pytest.raises(ExpertUnavailable, match="not resident"):
            await said(backend, expert, ask("x"), device="gpu0")
        await backend.load(expert, device="gpu0")
        assert told(base) == requests
        assert (await said(backend, expert, ask("x"), device="gpu0"))["x"].succeeded
        await backend.release(model, device="gpu0")
        assert not alive(base)
    [server] = servers_of(base)
    queries = [entry["query"] for entry in journal_of(Path(base)) if entry.get("told") == "/sleep"]
    assert queries == [f"level={level}"]
    assert server["environment"] == {"VLLM_SERVER_DEV_MODE": "1", "CUDA_VISIBLE_DEVICES": "0"}
    assert "--enable-sleep-mode" in server["argv"]


async def test_with_adapters_it_sleeps_no_deeper_than_they_survive(tmp_path: Path, base: str) -> None:
    adapter = fake_engine.save_adapter(tmp_path / "a", base)
    async with serving(tmp_path, devices=[GPU]) as backend:
        expert = expert_on(base, memory_gib=8.0, adapter=adapter, options={"sleep_level": 2})
        await backend.load(expert, device="gpu0")
        await backend.release(backend.footprint(expert).model, device="gpu0", sleeps=True)
    assert [entry["query"] for entry in journal_of(Path(base)) if "told" in entry] == ["level=1"]


async def test_one_that_cannot_fall_asleep_is_ended_and_one_that_cannot_wake_started_anew(tmp_path: Path) -> None:
    restless, heavy = (fake_engine.save_base(tmp_path / path[1:], fails=path) for path in ("/sleep", "/wake_up"))
    async with serving(tmp_path, devices=[GPU]) as backend:
        for base in (restless, heavy):
            expert = expert_on(base, memory_gib=8.0)
            await backend.load(expert, device="gpu0")
            await backend.release(backend.footprint(expert).model, device="gpu0", sleeps=True)
        assert not alive(restless) and len(alive(heavy)) == 2
        with pytest.raises(ExpertUnavailable, match="did not wake up when it was asked to") as caught:
            await backend.load(expert_on(heavy, memory_gib=8.0), device="gpu0")
        assert caught.value.retryable and not alive(heavy)


async def test_on_a_processor_or_at_level_0_it_never_sleeps(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        expert = expert_on(base)
        assert backend.footprint(expert).wake_s is None
        await backend.load(expert, device="cpu")
        await backend.release(backend.footprint(expert).model, device="cpu", sleeps=True)
        assert not alive(base) and not told(base)


# --- a schedule over it ----------------------------------------------------------------------------------------------


async def test_two_bases_share_a_device_that_holds_one(tmp_path: Path) -> None:
    bases = {name: fake_engine.save_base(tmp_path / name) for name in ("a", "b")}
    async with serving(tmp_path, devices=[{"name": "cpu", "memory_gib": 1.5}]) as backend:
        runner = Runner(
            experts={name: expert_on(base, name) for name, base in bases.items()}, backends={"vllm_serve": backend}
        )
        batches = [ExpertBatch(expert_id=name, assignments=tuple(ask(f"{i}") for i in range(5))) for name in ("a", "b")]
        async with aclosing(runner.run(batches, {})) as events:
            panels = [event.completions async for event in events if isinstance(event, PanelReady)]
        assert len(panels) == 5 and all(c.succeeded for panel in panels for c in panel)
        assert [len(servers_of(base)) for base in bases.values()] == [1, 1]
        assert sorted(len(alive(base)) for base in bases.values()) == [0, 2], "the first left before the second came"
        await runner.aclose()


# --- a server that is there already ----------------------------------------------------------------------------------


async def test_a_server_that_is_there_is_asked_without_a_device_and_left_alone(tmp_path: Path, base: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    async with served(order_for(theirs)) as server, serving(tmp_path) as backend:
        there = Expert(
            id="T",
            model="base",
            backend="vllm_serve",
            address=server.address,
            api_key=Secret(server.key.reveal()),
            limits=ExpertLimits(max_concurrency=2, timeout_s=20),
        )
        ours = expert_on(base, memory_gib=64.0)
        backend.check(there)
        runner = Runner(experts={"T": there, "E": ours}, backends={"vllm_serve": backend})
        asked = tuple(ask(f"wait now {i}", sampling=Sampling(max_tokens=8)) for i in range(6))
        batches = [ExpertBatch(expert_id=name, assignments=asked) for name in ("T", "E")]
        async with aclosing(runner.run(batches, {})) as events:
            panels = [event.completions async for event in events if isinstance(event, PanelReady)]
        assert len(panels) == 6 and all(c.succeeded for panel in panels for c in panel)
        assert max(int(entry["open"]) for entry in journal_of(theirs) if "open" in entry) == 2
        assert backend.footprint(there).memory_gib == 0
        await runner.aclose()
        assert not alive(base) and server.is_alive
        assert (await server.health()) == "well"


async def test_a_server_that_is_there_and_dies_fails_its_own_calls(tmp_path: Path) -> None:
    async with served(order_for(tmp_path)) as server, serving(tmp_path) as backend:
        there = Expert(id="T", model="base", backend="vllm_serve", address=server.address, api_key=server.key)
        sampling = Sampling(max_tokens=8)
        assert (await said(backend, there, ask("x", sampling=sampling)))["x"].succeeded
        await server.stop()
        error = (await said(backend, there, ask("x", sampling=sampling)))["x"].error
        assert error is not None and error.is_retryable and "is the server running?" in error.message


# --- what is refused before anything starts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory_utilisation": 0.5}, r"no option 'gpu_memory_utilisation'.*Did you mean 'gpu_memory_utilization'"),
        ({"max_model_len": "long"}, r"'max_model_len' is 'long'; it must be of type int"),
        ({"tensor_parallel_size": 4}, r"spread over 4 GPUs.*no device of the backend 'vllm_serve' has more than 1"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    tmp_path: Path, base: str, options: dict[str, object], message: str
) -> None:
    backend = VllmServe(python=fake_vllm.interpreter(tmp_path), devices=[GPU])
    with pytest.raises(ConfigError, match=message):
        backend.check(expert_on(base, options=options))


def test_an_adapter_of_another_base_or_above_all_ranks_is_refused(tmp_path: Path, base: str) -> None:
    backend = VllmServe(python=fake_vllm.interpreter(tmp_path))
    other = fake_engine.save_adapter(tmp_path / "other", str(tmp_path / "elsewhere"))
    huge = fake_engine.save_adapter(tmp_path / "huge", base, rank=513)
    with pytest.raises(ConfigError, match="trained on 'elsewhere'"):
        backend.check(expert_on(base, adapter=other))
    with pytest.raises(ConfigError, match="has rank 513, and vLLM takes 512 at most"):
        backend.check(expert_on(base, adapter=huge))


async def test_an_adapter_that_came_after_the_server_is_refused(tmp_path: Path, base: str) -> None:
    async with serving(tmp_path) as backend:
        first, second = (fake_engine.save_adapter(tmp_path / name, base) for name in ("one", "two"))
        await backend.load(expert_on(base, adapter=first), device="cpu")
        late = expert_on(base, adapter=second)
        with pytest.raises(ExpertUnavailable, match=r"was started before its adapter .*two was known; check all"):
            await said(backend, late, ask("x"), device="cpu")


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no usable address"):
        VllmServe().check(Expert(id="E", model="m", backend="vllm_serve", address="localhost"))


@pytest.mark.parametrize("lacks_vllm", [True, False])
def test_an_interpreter_without_vllm_is_refused(tmp_path: Path, base: str, lacks_vllm: bool) -> None:
    python = fake_vllm.interpreter(tmp_path, has_vllm=False) if lacks_vllm else str(tmp_path / "no" / "python")
    with pytest.raises(ConfigError) as caught:
        VllmServe(python=python).check(expert_on(base))
    assert "enlist[vllm]" in caught.value.message and "the backend's option python" in caught.value.message
    assert ("is missing from" if lacks_vllm else "cannot be run") in caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load_timeout_s": 0}, "'vllm_serve': load_timeout_s is 0.0; give more than 0"),
        ({"probe_s": -1.0}, "probe_s is -1.0; give more than 0"),
        ({"max_restarts": -1}, "max_restarts is -1; give 0 or more"),
        ({"devices": [{"nam": "x"}]}, "backend 'vllm_serve': option 'devices'.*Did you mean 'name'"),
        ({"load_time_s": 3}, "no option 'load_time_s'.*Did you mean 'load_timeout_s'"),
    ],
)
def test_an_option_of_the_backend_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BACKENDS.create("vllm_serve", options)
