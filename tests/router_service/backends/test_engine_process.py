"""A process that takes orders and gives words in JSON lines, with programs of a few lines at the other end."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from router_service.backends._engine_process import EngineGone, EngineProcess
from tests.router_service.backends.straw import is_running, until

ECHO = """
import json, sys
for text in sys.stdin:
    order = json.loads(text)
    if order["op"] == "stop":
        break
    print(json.dumps({**order, "op": "heard " + order["op"]}), flush=True)
"""


def program(source: str, *, silence_s: float = 30.0) -> EngineProcess:
    return EngineProcess([sys.executable, "-c", source], environment=dict(os.environ), silence_s=silence_s)


async def end_of(process: EngineProcess) -> EngineGone:
    with process.line() as line:
        line.say(op="hello")
        with pytest.raises(EngineGone) as caught:
            async with asyncio.timeout(20):
                while True:
                    await line.hear()
    return caught.value


async def test_each_line_hears_its_own_answers() -> None:
    process = program(ECHO)
    with process.line() as left, process.line() as right:
        for number in range(3):
            left.say(op="left", id=number)
            right.say(op="right", id=number)
        heard = [[(await line.hear())["op"] for _ in range(3)] for line in (right, left)]
    assert heard == [["heard right"] * 3, ["heard left"] * 3]
    await process.stop()
    gone = await end_of(process)
    assert gone.was_stopped and not process.is_alive and not is_running(process.pid)


async def test_a_large_order_does_not_wait_for_a_slow_reader() -> None:
    process = program("import time; time.sleep(0.3)\n" + ECHO)
    with process.line() as line:
        line.say(op="long", text="x" * 1_000_000)
        word = await line.hear()
    assert len(word["text"]) == 1_000_000
    await process.stop()


async def test_a_program_that_is_not_there() -> None:
    process = EngineProcess(["/no/such/program"], environment={}, silence_s=1)
    gone = await end_of(process)
    assert gone.reason == "it could not be started: No such file or directory"
    assert (await end_of(process)).reason == gone.reason, "also for those who come later"
    await process.stop()
    await process.kill()


@pytest.mark.parametrize(
    ("source", "reason", "tail"),
    [
        ("import sys; print('so long', file=sys.stderr); sys.exit(3)", "it ended with status 3", "so long"),
        ("import os; os.kill(os.getpid(), 11)", "it was killed by signal 11 (SIGSEGV)", ""),
        ("print('hello')\n" + ECHO, "it said what no engine process says: 'hello'", ""),
        ("print('[1]')\n" + ECHO, "it said what no engine process says: '[1]'", ""),
        ("print('{}')\n" + ECHO, "it said what no engine process says: '{}'", ""),
        ("import os, time; os.close(1); time.sleep(0.1)", "it ended with status 0", ""),
    ],
)
async def test_how_a_process_ends(source: str, reason: str, tail: str) -> None:
    gone = await end_of(program(source))
    assert (gone.reason, gone.tail) == (reason, tail)


async def test_the_last_words_are_the_last() -> None:
    gone = await end_of(program("import sys\nfor i in range(5000): print('line', i, file=sys.stderr)"))
    lines = gone.tail.splitlines()
    assert lines[-1] == "line 4999" and len(gone.tail) <= 2000


async def test_silence_counts_only_while_somebody_waits() -> None:
    process = program(ECHO, silence_s=0.3)
    with process.line() as line:
        line.say(op="well?")
        assert (await line.hear())["op"] == "heard well?"
    process.is_patient = False
    await asyncio.sleep(0.8)
    assert process.is_alive
    await process.stop()
    deaf = program("import time; time.sleep(60)", silence_s=0.3)
    with deaf.line() as line:
        await asyncio.sleep(0.8)
        assert deaf.is_alive, "it is being started: whoever waits has a limit of his own"
        deaf.is_patient = False
        with pytest.raises(EngineGone, match=r"said nothing for 0.3 s"):
            async with asyncio.timeout(10):
                await line.hear()


async def test_one_that_will_not_stop_is_killed() -> None:
    process = program("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)")
    await until(lambda: process.pid)
    await process.stop(patience_s=0.2)
    assert not process.is_alive and not is_running(process.pid)


async def test_one_killed_before_it_began_is_gone() -> None:
    process = program("import time; time.sleep(60)")
    gone = await process.kill("not wanted")
    assert gone.reason == "not wanted" and not process.is_alive


async def test_children_go_with_it() -> None:
    source = "import subprocess, json, time\np = subprocess.Popen(['sleep', '60'])\n"
    process = program(source + "print(json.dumps({'op': 'x', 'line': 1, 'child': p.pid}), flush=True)\ntime.sleep(60)")
    with process.line() as line:
        child = (await line.hear())["child"]
        assert is_running(child)
        await process.kill()
    assert not is_running(child)
