"""The sandbox: runs programs that nobody trusts, without network, secrets or the host's files, and within limits.

It is bubblewrap's (the sandbox of Flatpak): namespaces of its own for processes, network, mounts and users, no
capabilities, a read-only view of Python and the system's libraries, a small `/tmp` in memory. A seccomp filter and
limits on time, memory, processes and output come on top. Programs never run without it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from router_service.config import SandboxConfig, SandboxLimits
from router_service.dispatch._sandbox_command import find_tools, plan_layout
from router_service.dispatch._sandbox_process import run_program
from router_service.dispatch._sandbox_seccomp import seccomp_filter
from router_service.types import Execution, Program

__all__ = ["Sandbox"]

_NOT_STARTED = Execution(exit_code=124, stopped_by="time")
"""Of a program for which no time was left; `timeout` exits with that code."""


class Sandbox:
    """Runs Python programs; one may serve several event loops, each with so many at once as configured.

    Nothing is looked for before it is needed: where bubblewrap is missing, `check` says so, and so does a run.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self._config = config or SandboxConfig()
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @property
    def limits(self) -> SandboxLimits:
        """What a program may use where nobody says otherwise."""
        return self._config

    def check(self) -> None:
        """Raise `ConfigError` where this machine has no sandbox, or it is switched off; starts nothing."""
        find_tools(self._config)
        plan_layout(self._config.packages)
        seccomp_filter()

    async def run(self, program: Program, limits: SandboxLimits | None = None) -> Execution:
        """How the program ended. Cancelling kills it; in any case nothing of it runs any more afterwards.

        Raises `ConfigError` where there is no sandbox.
        """
        return await self._run(program, limits or self._config)

    async def run_all(
        self, programs: Sequence[Program], limits: SandboxLimits | None = None, *, deadline_s: float | None = None
    ) -> list[Execution]:
        """How each program ended, in order; as many run at once as configured.

        After `deadline_s` seconds those that run are stopped, and the others not started: both are stopped by `time`.
        """
        if not programs:
            return []
        ends = None if deadline_s is None else time.monotonic() + deadline_s
        tasks = [asyncio.create_task(self._in_turn(program, limits or self._config, ends)) for program in programs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _in_turn(self, program: Program, limits: SandboxLimits, ends: float | None) -> Execution:
        async with self._turn():
            if ends is None:
                return await self._run(program, limits)
            left_s = ends - time.monotonic()
            if left_s <= 0:
                return _NOT_STARTED
            return await self._run(program, limits.model_copy(update={"wall_s": min(limits.wall_s, left_s)}))

    def _turn(self) -> asyncio.Semaphore:
        places = self._config.parallel or len(os.sched_getaffinity(0))
        return self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(places))

    async def _run(self, program: Program, limits: SandboxLimits) -> Execution:
        tools = find_tools(self._config)
        return await run_program(program, limits, tools=tools, layout=plan_layout(self._config.packages))
