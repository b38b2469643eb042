"""Attacks the sandbox with hostile programs, and looks from outside whether they were contained.

python -m eval.sandbox_attacks [--json OUT] prints each program: what it tried, how it ended, contained or not.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from aggregators.code_tests import judge_program
from eval.hostile.base import HostileProgram
from eval.hostile.candidates import CANDIDATES, TEST
from eval.hostile.exhaustion import NETWORK, WEARING_OUT
from eval.hostile.intrusion import FILES, RIGHTS
from router_service.config import SandboxConfig, SandboxLimits
from router_service.dispatch.sandbox import Sandbox
from router_service.errors import ConfigError
from router_service.files import write_atomically
from router_service.types import Execution, Program

__all__ = ["PROGRAMS", "AttackResult", "Runs", "Scene", "attack", "attack_all", "fool_the_judge", "scene"]

PROGRAMS = (*WEARING_OUT, *NETWORK, *FILES, *RIGHTS)

_VARIABLE = "ENLIST_SANDBOX_SECRET"
_SURVIVOR_S = 2.0
_LOOK_S = 0.02
_LATE_S = 2.0
"""Longer than its limit allows, and starting and ending a sandbox on a busy machine, no run may take."""

Runs = Callable[[Program, SandboxLimits], Awaitable[Execution]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """One hostile program: how it ended, and what was seen of it outside; contained where that is nothing."""

    name: str
    tried: str
    ended: str
    traces: tuple[str, ...] = ()

    @property
    def contained(self) -> bool:
        """Whether nothing of it was seen outside, and the limit stopped it that had to."""
        return not self.traces


@dataclass(slots=True, kw_only=True)
class Scene:
    """What lies outside the sandbox for a program to reach; `traces` tell what it reached."""

    folder: Path
    secret: str
    canary: subprocess.Popen[bytes]
    port: int
    listens: int
    abstract: str
    visitors: list[str] = field(default_factory=list)

    def filled(self, source: str) -> str:
        """The program, with the places of this scene."""
        places = {"folder": str(self.folder), "port": self.port, "listens": self.listens, "pid": self.canary.pid}
        return Template(source).substitute(places, abstract=self.abstract, variable=_VARIABLE)

    def visited(self, what: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """What a server does that nobody should reach."""

        def visit(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.visitors.append(f"{what} was reached")
            writer.close()

        return visit

    def traces(self) -> list[str]:
        """What the program did outside."""
        found = list(self.visitors)
        found += [] if self.canary.poll() is None else ["a process outside was killed"]
        found += [] if _state(self.canary.pid) == "S" else ["a process outside was stopped or traced"]
        found += [] if (self.folder / "secret").read_text() == self.secret else ["a file outside was changed"]
        extra = sorted(path.name for path in self.folder.iterdir() if path.name not in ("secret", "socket"))
        return found + ([f"files were made outside: {extra}"] if extra else [])


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """A folder with a secret file and a socket, servers, a process and a variable with the secret in them."""
    secret = secrets.token_hex(16)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_folder(secret))
        canary = stack.enter_context(_canary(secret))
        stack.enter_context(_variable(secret))
        made = Scene(folder=folder, secret=secret, canary=canary, port=0, listens=_free_port(), abstract=secret[:8])
        server = await asyncio.start_server(made.visited("a server outside"), "127.0.0.1", 0)
        made.port = server.sockets[0].getsockname()[1]
        paths = {"a socket outside": str(folder / "socket"), "a socket without a path": f"\0{made.abstract}"}
        servers = [server, *[await asyncio.start_unix_server(made.visited(what), paths[what]) for what in paths]]
        for one in servers:
            stack.callback(one.close)
        (folder / "socket").chmod(0o777)
        loop = asyncio.get_running_loop()
        heard, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(made), ("127.0.0.1", made.port))
        stack.callback(heard.close)
        caller = asyncio.create_task(_call_up(made))
        stack.callback(caller.cancel)
        yield made


async def attack(program: HostileProgram, runs: Runs) -> AttackResult:
    """Run one program in a scene of its own; `runs` is the sandbox, or what is to be tried in its place."""
    async with scene() as made:
        limits = _limits(program)
        ended = await runs(Program(source=made.filled(program.source)), limits)
        traces = made.traces()
        said = ended.stdout + ended.stderr
        traces += ["it read a secret"] if made.secret in said else []
        traces += ["it says that it got out"] if "ESCAPED" in said else []
        traces += ["it printed more than it may"] if len(said) > limits.output_kib << 10 else []
        traces += [f"it ran for {ended.wall_s:.1f} s"] if ended.wall_s > limits.wall_s + _LATE_S else []
        if program.ends_by is not None and ended.stopped_by != program.ends_by:
            traces.append(f"it was to be stopped by {program.ends_by}")
        traces += await _survivors(limits)
    return AttackResult(name=program.name, tried=program.tries, ended=_in_words(ended), traces=tuple(traces))


async def fool_the_judge(candidate: HostileProgram, runs: Runs) -> AttackResult:
    """Put one candidate to a test that it does not solve, as the aggregators of code do."""
    limits = _limits(candidate)
    ended = await runs(judge_program(candidate.source, [TEST], names={"answer"}, test_s=0.7), limits)
    traces = ["it passed the test"] if "0 pass" in ended.stdout else []
    traces += await _survivors(limits)
    said = ended.stdout.strip() or "no verdict"
    return AttackResult(
        name=f"candidate_{candidate.name}",
        tried=candidate.tries,
        ended=f"{_in_words(ended)}; judged: {said}",
        traces=tuple(traces),
    )


async def attack_all(runs: Runs, *, parallel: int = 2) -> list[AttackResult]:
    """Every program and every candidate, in order."""
    places = asyncio.Semaphore(parallel)

    async def one(made: Awaitable[AttackResult]) -> AttackResult:
        async with places:
            return await made

    attacks = [attack(program, runs) for program in PROGRAMS]
    attacks += [fool_the_judge(candidate, runs) for candidate in CANDIDATES]
    return await asyncio.gather(*(one(made) for made in attacks))


def _limits(program: HostileProgram) -> SandboxLimits:
    """Limits that let the attacks be over soon. The seconds of processor time are of no effect and tell the processes
    of this run from any other's, for they stand in their command line."""
    return SandboxLimits(
        wall_s=1.5, memory_mib=192, disk_mib=8, output_kib=64, processes=14, cpu_s=random.randrange(10**6, 10**9)
    )


async def _survivors(limits: SandboxLimits) -> list[str]:
    """Whether processes of the run are still there when they have had time to end."""
    mark = f"RLIMIT_CPU,({limits.cpu_s}, {limits.cpu_s + 1})".encode()
    for _ in range(round(_SURVIVOR_S / _LOOK_S)):
        if not (left := _running(mark)):
            return []
        await asyncio.sleep(_LOOK_S)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"{len(left)} processes survived"]


def _running(mark: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and mark in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def _in_words(ended: Execution) -> str:
    how = f"stopped by {ended.stopped_by}" if ended.stopped_by else f"exit code {ended.exit_code}"
    return f"{how} after {ended.wall_s:.2f} s"


async def _call_up(made: Scene) -> None:
    """Try all the time to reach what a program may have opened to the outside."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", made.listens)
            made.visitors.append("a server inside was reached from outside")
            writer.close()
        await asyncio.sleep(0.05)


class _Datagrams(asyncio.DatagramProtocol):
    """Notes whoever sends a datagram."""

    def __init__(self, made: Scene) -> None:
        self._made = made

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._made.visitors.append("a datagram came from inside")


@contextmanager
def _folder(secret: str) -> Iterator[Path]:
    """A folder that anybody may write to, with the secret in a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "secret").write_text(secret)
        yield folder


@contextmanager
def _canary(secret: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process outside, in a group of its own, that sleeps with the secret in its environment."""
    with subprocess.Popen(["sleep", "60"], env={_VARIABLE: secret, "PATH": os.defpath}, process_group=0) as canary:
        try:
            yield canary
        finally:
            canary.kill()


@contextmanager
def _variable(secret: str) -> Iterator[None]:
    """The secret in our own environment; several scenes at once take turns in it, and each looks for its own."""
    os.environ[_VARIABLE] = secret
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)


def _state(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat")
    return stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else "gone"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 1 where something got out, 2 where there is no sandbox."""
    parser = argparse.ArgumentParser(description="Attack the sandbox with hostile programs.")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args(arguments)
    try:
        Sandbox(SandboxConfig()).check()
        results = asyncio.run(attack_all(Sandbox(SandboxConfig()).run))
    except ConfigError as missing:
        print(missing.message, file=sys.stderr)
        return 2
    for result in results:
        verdict = "contained" if result.contained else "NOT CONTAINED: " + "; ".join(result.traces)
        print(f"{result.name:28} {verdict:10} {result.ended}\n    tried {result.tried}")
    contained = sum(result.contained for result in results)
    print(f"{contained} of {len(results)} contained")
    if options.json is not None:
        rows = [{**dataclasses.asdict(result), "contained": result.contained} for result in results]
        write_atomically(options.json, json.dumps(rows, indent=1) + "\n")
    return 0 if contained == len(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
