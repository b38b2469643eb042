"""The sandbox: programs end as they should, limits stop them, and nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from router_service.config import SandboxConfig, SandboxLimits
from router_service.dispatch._sandbox_watch import tree_of
from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.ledger import Ledger
from router_service.dispatch.runner import Runner
from router_service.dispatch.sandbox import Sandbox
from router_service.errors import ConfigError
from router_service.types import Budget, ExecutingAsk, Execution, Program, user_query
from tests.sandboxes import needs_sandbox

FILLS_IN_CHILDREN = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        kept = b'x' * (70 << 20)
        time.sleep(60)
time.sleep(60)
"""

SIX_CHILDREN = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
print('six')
for _ in range(6):
    os.wait()
"""

ROOT = Path(__file__).parents[3]

SLEEPS = Program(source="import time\nprint('up', flush=True)\ntime.sleep(60)")


def limits(**changes: float) -> SandboxLimits:
    return SandboxLimits(**{"wall_s": 5.0, "memory_mib": 192, **changes})


async def run(source: str, stdin: str = "", **changes: float) -> Execution:
    return await Sandbox().run(Program(source=source, stdin=stdin), limits(**changes))


def marked() -> tuple[dict[str, int], bytes]:
    """Limits that tell a run's processes from all others, and the mark in their command lines."""
    cpu_s = random.randrange(10**6, 10**9)
    return {"cpu_s": cpu_s}, f"RLIMIT_CPU,({cpu_s}, {cpu_s + 1})".encode()


def running(mark: bytes) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> list[int]:
    return [pid for pid in tree_of(os.getpid()) if pid != os.getpid()]


async def until(condition, *, deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


# --- how programs end ----------------------------------------------------------------------------------------------


@needs_sandbox
async def test_a_program_reads_writes_and_ends() -> None:
    ended = await run("import sys\nprint(input()[::-1], __name__)\nprint('oh', file=sys.stderr)\nsys.exit(3)", "abc\n")
    assert (ended.stdout, ended.stderr, ended.exit_code, ended.stopped_by) == ("cba __main__\n", "oh\n", 3, None)
    assert not ended.passed
    assert 0 < ended.wall_s < 5


@needs_sandbox
async def test_input_that_nobody_reads_and_text_of_any_kind_do_no_harm() -> None:
    ended = await run("print('größe \\ud800'.encode('utf-8', 'replace').decode(), '# ü')", "x" * (1 << 20))
    assert ended.passed
    assert ended.stdout == "größe ? # ü\n"


@needs_sandbox
async def test_a_program_that_is_no_python_fails_by_itself() -> None:
    ended = await run("def (")
    assert ended.exit_code == 1
    assert "SyntaxError" in ended.stderr


@needs_sandbox
async def test_death_by_a_signal_shows_as_in_a_shell() -> None:
    ended = await run("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")
    assert (ended.exit_code, ended.stopped_by) == (128 + signal.SIGTERM, None)


@needs_sandbox
async def test_two_runs_end_alike() -> None:
    source = "print(list({'a', 'b', 'c', 'd', 'e'}), sorted(__import__('os').environ))"
    assert (await run(source)).stdout == (await run(source)).stdout


# --- limits --------------------------------------------------------------------------------------------------------


@needs_sandbox
@pytest.mark.parametrize(
    ("reason", "source", "changes"),
    [
        ("time", "import time\ntime.sleep(60)", {"wall_s": 0.4}),
        pytest.param("cpu", "while True: pass", {"cpu_s": 1}, marks=pytest.mark.slow),
        ("output", "while True: print('x' * 99)", {"output_kib": 8}),
        ("memory", FILLS_IN_CHILDREN, {}),
    ],
)
async def test_each_limit_stops_a_program_and_is_named(reason, source, changes) -> None:
    ended = await run(source, **changes)
    assert ended.stopped_by == reason
    assert not ended.passed
    assert len(ended.stdout) <= changes.get("output_kib", 256) << 10


@needs_sandbox
async def test_files_and_processes_are_refused_beyond_their_limits() -> None:
    source = """
import os, time
try:
    for number in range(99): open(f'/tmp/{number}', 'wb').write(b'x' * (1 << 20))
except OSError as full: print(number, full.strerror)
children = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        children += 1
except OSError as refused: print(children, refused.strerror)
"""
    ended = await run(source, disk_mib=4, processes=5)
    assert ended.stdout.splitlines() == ["4 No space left on device", "4 Resource temporarily unavailable"]


@needs_sandbox
async def test_what_one_sandbox_runs_does_not_count_against_another() -> None:
    ended = await Sandbox(SandboxConfig(parallel=2)).run_all([Program(source=SIX_CHILDREN)] * 2, limits(processes=8))
    assert [one.stdout for one in ended] == ["six\n"] * 2


# --- many at once, deadlines, cancelling ---------------------------------------------------------------------------


@needs_sandbox
async def test_results_come_in_order_and_no_more_run_at_once_than_configured() -> None:
    source = "import sys, time\nprint(time.time()); time.sleep(0.15); print(time.time(), {})"
    sandbox = Sandbox(SandboxConfig(parallel=2))
    ended = await sandbox.run_all([Program(source=source.format(number)) for number in range(5)])
    spans = [[float(word) for word in one.stdout.split()] for one in ended]
    assert [number for *_, number in spans] == [0, 1, 2, 3, 4]
    at_once = max(sum(begin <= moment < end for begin, end, _ in spans) for moment, _, _ in spans)
    assert at_once == 2


@needs_sandbox
async def test_after_the_deadline_nothing_runs_on_and_nothing_starts() -> None:
    sandbox = Sandbox(SandboxConfig(parallel=1))
    await sandbox.run(Program(source="pass"))
    started = time.monotonic()
    ended = await sandbox.run_all([SLEEPS, SLEEPS, SLEEPS], deadline_s=0.6)
    assert time.monotonic() - started < 2.5
    assert [one.stopped_by for one in ended] == ["time"] * 3
    assert [one.stdout for one in ended] == ["up\n", "", ""]


@needs_sandbox
@pytest.mark.parametrize("processes", [0, 1, 3, 6])
async def test_cancelling_ends_everything_within_a_second(processes) -> None:
    changes, mark = marked()
    task = asyncio.create_task(Sandbox(SandboxConfig(parallel=2)).run_all([SLEEPS] * 2, limits(wall_s=60, **changes)))
    await until(lambda: len(running(mark)) >= processes)
    cancelled = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - cancelled < 1.0
    assert running(mark) == []


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
async def test_it_ends_with_us_also_by_kill_9(processes) -> None:
    changes, mark = marked()
    script = (
        "import asyncio\nfrom router_service.config import SandboxLimits\n"
        "from router_service.dispatch.sandbox import Sandbox\nfrom router_service.types import Program\n"
        f"asyncio.run(Sandbox().run(Program(source={SLEEPS.source!r}), SandboxLimits(wall_s=60, **{changes})))"
    )
    ours = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=ROOT)
    await until(lambda: len(running(mark)) >= processes, deadline_s=20)
    ours.kill()
    await ours.wait()
    await until(lambda: running(mark) == [])


@needs_sandbox
def test_one_sandbox_serves_several_event_loops() -> None:
    sandbox = Sandbox(SandboxConfig(parallel=1))
    programs = [Program(source=f"print({number})") for number in range(3)]
    for _ in range(2):
        assert [one.stdout for one in asyncio.run(sandbox.run_all(programs))] == ["0\n", "1\n", "2\n"]


@needs_sandbox
async def test_no_descriptor_and_no_zombie_is_left() -> None:
    sandbox = Sandbox(SandboxConfig(parallel=2))
    await sandbox.run_all([Program(source="pass")] * 2)
    before = open_files()
    await sandbox.run_all([Program(source="pass"), SLEEPS, Program(source="x = 1 / 0")], limits(wall_s=0.5))
    await until(lambda: open_files() <= before)
    assert children() == []


# --- the set-up ----------------------------------------------------------------------------------------------------


@needs_sandbox
async def test_packages_are_there_only_where_configured(tmp_path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "oddity.py").write_text("VALUE = 7")
    program = Program(source="import importlib.util, oddity\nprint(oddity.VALUE, importlib.util.find_spec('pytest'))")
    assert (await Sandbox().run(program)).exit_code == 1
    assert (await Sandbox(SandboxConfig(packages=(tmp_path,))).run(program)).stdout == "7 None\n"


@pytest.mark.skipif(sys.platform != "linux", reason="says so before it looks for anything else")
async def test_without_bubblewrap_nothing_runs() -> None:
    with pytest.raises(ConfigError, match=r"'no-such-bwrap' is not there; install it .*apt install bubblewrap"):
        await Sandbox(SandboxConfig(bwrap="no-such-bwrap")).run(Program(source="pass"))


@needs_sandbox
async def test_a_sandbox_that_cannot_be_made_is_a_broken_set_up_and_no_wrong_program() -> None:
    with pytest.raises(ConfigError, match="could not make a sandbox"):
        await Sandbox(SandboxConfig(bwrap="false")).run(Program(source="pass"))


async def test_switched_off_it_says_so() -> None:
    with pytest.raises(ConfigError, match=r"switched off \(sandbox.is_enabled\)"):
        Sandbox(SandboxConfig(is_enabled=False)).check()


# --- the right that is passed in -----------------------------------------------------------------------------------


def ask_in(sandbox: Sandbox, **budget: float) -> BudgetedAsk:
    return BudgetedAsk(Runner(experts={}, backends={}, sandbox=sandbox), {"q": Ledger(Budget(**budget))})


@needs_sandbox
async def test_an_ask_executes_within_the_deadline_of_its_query() -> None:
    query = user_query("q", "Write it.")
    ask = ask_in(Sandbox(SandboxConfig(parallel=1)), deadline_s=1.0)
    assert isinstance(ask, ExecutingAsk)
    quick, slow = await ask.execute(query, [Program(source="print(1)"), SLEEPS])
    assert quick.passed
    assert slow.stopped_by == "time"
    assert 0.9 < ask.waited_s("q") < 4.0


async def test_an_ask_without_a_sandbox_raises() -> None:
    with pytest.raises(ConfigError):
        await ask_in(Sandbox(SandboxConfig(is_enabled=False))).execute(user_query("q", "?"), [Program(source="")])
