"""What befalls the backend `vllm`, on engines of straw: each fault is named, stays where it is, and passes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from router_service.backends.base import DeviceLost
from router_service.backends.vllm import Vllm
from router_service.errors import ConfigError, ExpertUnavailable
from router_service.types import Completion, ExpertBatch, Sampling, Secret
from tests.meta.source import ROOT
from tests.router_service.backends import fake_engine
from tests.router_service.backends.straw import ask, engine_pids, expert_on, is_running, pieces, straw, texts, until

LONG = Sampling(max_tokens=200, temperature=1.0)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return fake_engine.save_base(tmp_path / "base")


def behave(base: str, **behaviour: object) -> None:
    (Path(base) / "fake.json").write_text(json.dumps(behaviour))


async def failed_load(backend: Vllm, base: str, **fields: object) -> ExpertUnavailable:
    with pytest.raises(ExpertUnavailable) as caught:
        await backend.load(expert_on(base, **fields), device=backend.devices()[0].name)
    assert not engine_pids()
    return caught.value


# --- before anything is loaded --------------------------------------------------------------------------------------


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, base: str) -> None:
    other = fake_engine.save_adapter(tmp_path / "other", str(tmp_path / "elsewhere"))
    wide = fake_engine.save_adapter(tmp_path / "wide", base, hidden=8)
    with pytest.raises(ConfigError, match=r"trained on 'elsewhere'.*accepts_base: elsewhere"):
        Vllm(worker=fake_engine.SCRIPT).check(expert_on(base, adapter=other))
    Vllm(worker=fake_engine.SCRIPT).check(expert_on(base, adapter=other, options={"accepts_base": "elsewhere"}))
    with pytest.raises(ConfigError, match="does not fit its base"):
        Vllm(worker=fake_engine.SCRIPT).check(expert_on(base, adapter=wide))


def test_a_rank_above_all_limits_is_refused(tmp_path: Path, base: str) -> None:
    adapter = fake_engine.save_adapter(tmp_path / "huge", base, rank=513)
    with pytest.raises(ConfigError, match="has rank 513, and vLLM takes 512 at most"):
        Vllm(worker=fake_engine.SCRIPT).check(expert_on(base, adapter=adapter))


async def test_an_adapter_that_came_too_late_is_refused(tmp_path: Path, base: str) -> None:
    """Its engine was made for smaller ones; the others go on."""
    small, large = (fake_engine.save_adapter(tmp_path / f"rank{rank}", base, rank=rank) for rank in (8, 9))
    elsewhere = fake_engine.save_adapter(tmp_path / "head", base, layer="lm_head")
    async with straw() as backend:
        backend.check(expert_on(base, "small", adapter=small))
        await backend.load(expert_on(base), device="cpu")
        assert await texts(backend, expert_on(base, "small", adapter=small), ask("q"), device="cpu")
        for late, said in ((large, "rank 9 on q_proj.*up to rank 8 on q_proj"), (elsewhere, "on lm_head")):
            with pytest.raises(ExpertUnavailable, match=said) as caught:
                await texts(backend, expert_on(base, "late", adapter=late), ask("q"), device="cpu")
            assert not caught.value.retryable
        assert await texts(backend, expert_on(base), ask("q"), device="cpu")
        await backend.release(backend.footprint(expert_on(base)).model, device="cpu")
        assert await texts(backend, expert_on(base, "late", adapter=large), ask("q"))


async def test_an_adapter_too_many_is_refused_on_the_processor(tmp_path: Path, base: str) -> None:
    """There the last place has to stay empty."""
    first, second = (fake_engine.save_adapter(tmp_path / name, base) for name in ("first", "second"))
    async with straw() as backend:
        backend.check(expert_on(base, "first", adapter=first))
        assert await texts(backend, expert_on(base, "first", adapter=first), ask("q"))
        with pytest.raises(ExpertUnavailable, match=r"no place for: it was started for 1, before"):
            await texts(backend, expert_on(base, "second", adapter=second), ask("q"))
        assert await texts(backend, expert_on(base, "first", adapter=first), ask("q"))
    async with straw(devices=[{"name": "gpu", "gpus": "0"}]) as backend:
        backend.check(expert_on(base, "first", adapter=first))
        for name, adapter in (("first", first), ("second", second)):
            assert await texts(backend, expert_on(base, name, adapter=adapter), ask("q"))


def test_an_interpreter_without_vllm_is_named(tmp_path: Path, base: str) -> None:
    advice = r'pip install "enlist\[vllm\]".*backend\'s option python'
    lacking = tmp_path / "lacking.py"
    lacking.write_text('print(\'{"op": "checked", "missing": ["vllm"]}\')')
    with pytest.raises(ConfigError, match=f"the package 'vllm' is missing from.*{advice}"):
        Vllm(worker=str(lacking)).check(expert_on(base))
    with pytest.raises(ConfigError, match=f"'/no/python', which cannot be run.*{advice}"):
        Vllm(python="/no/python").check(expert_on(base))
    lacking.write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match="does not run"):
        Vllm(worker=str(lacking)).check(expert_on(base))


def test_the_worker_itself_says_whether_vllm_is_there() -> None:
    """A module of that name lies beside it, which must not be taken for the package."""
    worker = ROOT / "router_service" / "backends" / "_vllm_worker.py"
    command = [sys.executable, "-S", str(worker), "--check"]  # -S: no installed packages
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={}, cwd=worker.parent)
    assert json.loads(told.stdout) == {"op": "checked", "missing": ["vllm"]}


async def test_a_model_larger_than_its_device(base: str) -> None:
    async with straw(devices=[{"name": "small", "memory_gib": 8}]) as backend:
        error = await failed_load(backend, base, memory_gib=9.5)
    assert "takes 9.50 GiB, and the device 'small' has 8.00" in error.message and not error.retryable


async def test_a_device_that_is_none(base: str) -> None:
    async with straw() as backend:
        with pytest.raises(ExpertUnavailable, match=r"'gpu7'; the devices are cpu"):
            await backend.load(expert_on(base), device="gpu7")


# --- at load --------------------------------------------------------------------------------------------------------


async def test_a_failed_load_tells_the_last_words_without_secrets(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-hidden-one")
    behave(base, load_error="the head size is odd; sk-hidden-one sk-hidden-two")
    async with straw() as backend:
        error = await failed_load(backend, base, api_key=Secret("sk-hidden-two"))
        assert "could not be brought up on 'cpu': RuntimeError: the head size is odd; *** ***" in error.message
        assert not error.retryable and "hidden" not in error.message
        behave(base)
        assert await texts(backend, expert_on(base), ask("q")), "and its next load begins anew"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"dies_at_load": signal.SIGKILL}, r"killed by signal 9 \(SIGKILL\), as the system does where memory runs out"),
        ({"dies_at_load": signal.SIGSEGV}, r"killed by signal 11 \(SIGSEGV\); its last words:.*loading base"),
        ({"load_error": "CUDA out of memory. Tried to allocate 2 GiB"}, "too little memory: lower kv_cache_gib"),
        ({"load_error": "Available memory on node 0 is less than desired"}, "too little memory"),
        ({"no_template": True}, "no chat template"),
    ],
)
async def test_how_a_load_fails(base: str, behaviour: dict[str, object], said: str) -> None:
    behave(base, **behaviour)
    async with straw() as backend:
        error = await failed_load(backend, base)
    assert re.search(said, error.message, re.DOTALL), error.message


async def test_a_load_that_takes_too_long_is_given_up(base: str) -> None:
    behave(base, load_s=60, child=True)
    async with straw(load_timeout_s=1.0) as backend:
        error = await failed_load(backend, base)
    assert "not ready after 1 s (option load_timeout_s)" in error.message and error.retryable


async def test_an_adapter_that_cannot_be_read_fails_its_expert_alone(tmp_path: Path, base: str) -> None:
    good, bad = (fake_engine.save_adapter(tmp_path / name, base) for name in ("good", "bad"))
    behave(base, bad_adapter="bad")
    async with straw() as backend:
        experts = [expert_on(base, name, adapter=path) for name, path in (("good", good), ("bad", bad))]
        for expert in experts:
            backend.check(expert)
        [refused] = await pieces(backend, experts[1], ask("q"))
        assert re.search("an adapter that the engine cannot take: .*/bad .*wrong size", refused.error.message)
        assert await texts(backend, experts[0], ask("q"))


# --- at work --------------------------------------------------------------------------------------------------------


async def test_what_was_finished_before_a_crash_stays(base: str) -> None:
    behave(base, die_at_step=[12, signal.SIGKILL])
    async with straw() as backend:
        expert = expert_on(base, sampling=LONG)
        await backend.load(expert, device="cpu")
        short = ask("short", sampling=Sampling(max_tokens=1))
        finished: list[Completion] = []
        with pytest.raises(ExpertUnavailable, match="lost its engine on 'cpu' at work: it was killed") as lost:
            asked = ExpertBatch(expert_id="E", assignments=(short, ask("q", samples=30, seed=1)), device="cpu")
            async for piece in backend.complete(expert, asked):
                finished.append(piece)
        assert lost.value.retryable and finished[0].text and 1 <= len(finished) < 31
        assert not engine_pids()
        behave(base)
        with pytest.raises(ExpertUnavailable, match="not resident"):
            await texts(backend, expert, ask("q"), device="cpu")
        await backend.load(expert, device="cpu")
        assert len(await texts(backend, expert, ask("q", samples=3), device="cpu")) == 3


async def test_an_engine_killed_from_outside(base: str) -> None:
    behave(base, step_s=0.02)
    async with straw() as backend:
        expert = expert_on(base, sampling=LONG)
        await backend.load(expert, device="cpu")
        call = asyncio.create_task(pieces(backend, expert, ask("q", samples=20), device="cpu"))
        await asyncio.sleep(0.1)
        [pid] = engine_pids()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ExpertUnavailable, match="signal 9"):
            await call
        await backend.release(backend.footprint(expert).model, device="cpu")
        await backend.load(expert, device="cpu")
        assert engine_pids() not in ({pid}, set())


async def test_an_engine_that_breaks_amid_a_step_tells_why(base: str) -> None:
    behave(base, raise_at_step=2)
    async with straw() as backend:
        with pytest.raises(ExpertUnavailable, match=r"ended with status 1(?s:.*)RuntimeError: the engine broke"):
            await pieces(backend, expert_on(base, sampling=LONG), ask("q", samples=5))


async def test_a_hung_engine_is_killed(base: str) -> None:
    behave(base, hang_at_step=3, child=True)
    async with straw(silence_s=0.7) as backend:
        began = time.monotonic()
        with pytest.raises(ExpertUnavailable, match=r"said nothing for 0.7 s \(option silence_s\)") as caught:
            await pieces(backend, expert_on(base, sampling=LONG), ask("q", samples=5))
        assert caught.value.retryable and time.monotonic() - began < 10 and not engine_pids()
        assert not is_running(int((Path(base) / "child").read_text()))


async def test_an_engine_at_work_is_never_silent_for_long(base: str) -> None:
    behave(base, step_s=0.4)
    async with straw(silence_s=2.0) as backend:
        await texts(backend, expert_on(base, sampling=Sampling(max_tokens=8)), ask("q"))


async def test_an_engine_out_of_its_mind_is_killed(tmp_path: Path, base: str) -> None:
    """It reads orders, is ready, and then says what means nothing."""
    mad = tmp_path / "mad.py"
    mad.write_text(
        "import json, sys\n"
        "order = json.loads(sys.stdin.readline())\n"
        "ready = {'op': 'ready', 'line': order['line'], 'id': 0, 'sleeps': False, 'ignored': []}\n"
        "print(json.dumps(ready), flush=True)\n"
        "for text in sys.stdin:\n"
        "    order = json.loads(text)\n"
        "    if order['op'] == 'add':\n"
        "        print(json.dumps({'op': 'done', 'line': order['line'], 'id': 0}), flush=True)\n"
    )
    backend = Vllm(worker=str(mad), devices=[{"name": "cpu"}])
    with pytest.raises(ExpertUnavailable, match=r"said what means nothing: \{'op': 'done'"):
        await pieces(backend, expert_on(base), ask("q"))
    mad.write_text(mad.read_text().replace("print(json.dumps({'op': 'done'", "print('(' + json.dumps({'op': 'done'"))
    with pytest.raises(ExpertUnavailable, match=r"said what no engine process says: '.\{.op.*done"):
        await pieces(backend, expert_on(base), ask("q"))
    await backend.aclose()
    assert not engine_pids()


# --- the process and what it leaves ---------------------------------------------------------------------------------

PARENT = """
import asyncio, os, sys, time
from router_service.backends.vllm import Vllm
from tests.router_service.backends import fake_engine
from tests.router_service.backends.straw import engine_pids, expert_on
async def main():
    backend = Vllm(worker=fake_engine.SCRIPT, devices=[{"name": "cpu"}])
    await backend.load(expert_on(sys.argv[1]), device="cpu")
    pids = engine_pids()
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(30)
    print(*pids, flush=True)
    time.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("holds_pipe", [False, True])
async def test_an_engine_ends_with_its_parent(base: str, holds_pipe: bool) -> None:
    """Killed as hard as can be; also where another child of the parent holds the engine's input open."""
    behave(base, child=True)
    parent = begun_parent(base, *["holds pipe"][: int(holds_pipe)])
    forked: list[int] = []
    try:
        engine = int(await asyncio.to_thread(parent.stdout.readline))
        child = int((Path(base) / "child").read_text())
        forked = [pid for pid in _children(parent.pid) if pid != engine]
        assert is_running(engine) and is_running(child) and len(forked) == int(holds_pipe)
        parent.kill()
        await until(lambda: not is_running(engine) and not is_running(child))
        assert all(map(is_running, forked))
    finally:
        parent.kill()
        parent.wait()
        for pid in forked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def begun_parent(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


async def test_a_release_takes_the_children_too(base: str) -> None:
    behave(base, child=True)
    async with straw() as backend:
        await backend.load(expert_on(base), device="cpu")
        child = int((Path(base) / "child").read_text())
        assert is_running(child)
        await backend.release(backend.footprint(expert_on(base)).model, device="cpu")
        assert not is_running(child) and not engine_pids()


# --- devices that go ------------------------------------------------------------------------------------------------


def put_nvidia_smi(folder: Path, *rows: str) -> None:
    program = folder / "nvidia-smi"
    lines = "\n".join(rows)
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    program.chmod(0o755)


async def test_a_gpu_that_is_gone_is_a_lost_device(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, "0, GPU-a, 24576", "1, GPU-b, 81920")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    behave(base, raise_at_step=1)
    async with straw(devices=None) as backend:
        assert [(d.name, d.memory_gib) for d in backend.devices()] == [("gpu0", 24.0), ("gpu1", 80.0)]
        await backend.load(expert_on(base), device="gpu1")
        with pytest.raises(ExpertUnavailable, match="the engine broke"):
            await pieces(backend, expert_on(base), ask("q"), device="gpu1")
        await backend.load(expert_on(base), device="gpu1")
        put_nvidia_smi(tmp_path, "0, GPU-a, 24576")
        with pytest.raises(DeviceLost, match="GPU 1 of the device 'gpu1' is gone") as lost:
            await pieces(backend, expert_on(base), ask("q"), device="gpu1")
        assert lost.value.device == "gpu1"
        assert [device.name for device in backend.devices()] == ["gpu0"]
        behave(base, load_error="no CUDA-capable device is detected")
        put_nvidia_smi(tmp_path)
        with pytest.raises(DeviceLost, match="gpu0"):
            await backend.load(expert_on(base), device="gpu0")
        assert backend.devices() == () and backend.footprint(expert_on(base)).memory_gib == 1.0
        with pytest.raises(ExpertUnavailable, match="no device is left"):
            await pieces(backend, expert_on(base), ask("q"))
