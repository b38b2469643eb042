"""Hostile programs are contained, and the checks that say so can fail."""

from __future__ import annotations

import asyncio
import sys

import pytest

from aggregators.code_tests import judge_program
from eval.hostile.base import HostileProgram
from eval.hostile.candidates import CANDIDATES, HONEST_CANDIDATE, TEST
from eval.sandbox_attacks import PROGRAMS, attack, fool_the_judge
from router_service.config import SandboxLimits
from router_service.dispatch.sandbox import Sandbox
from router_service.types import Execution, Program
from tests.sandboxes import needs_sandbox

BY_NAME = {program.name: program for program in PROGRAMS}

QUICK = ("connects", "daemon", "environment", "reads_files", "signals", "writes_files")
"""Run by default; the others are slow."""


def marked(programs: tuple[HostileProgram, ...], quick: tuple[str, ...]) -> list[object]:
    return [
        pytest.param(program, id=program.name, marks=() if program.name in quick else pytest.mark.slow)
        for program in programs
    ]


@needs_sandbox
@pytest.mark.parametrize("program", marked(PROGRAMS, QUICK))
async def test_a_hostile_program_is_contained(program) -> None:
    result = await attack(program, Sandbox().run)
    assert result.contained, result.traces


@needs_sandbox
@pytest.mark.parametrize("candidate", marked(CANDIDATES, ("equals_all", "exits_when_called", "searches_memory")))
async def test_a_candidate_passes_by_no_trick(candidate) -> None:
    result = await fool_the_judge(candidate, Sandbox().run)
    assert result.contained, result.ended


@needs_sandbox
async def test_a_candidate_that_solves_the_task_passes() -> None:
    program = judge_program(HONEST_CANDIDATE.source, [TEST], names={"answer"}, test_s=2.0)
    assert (await Sandbox().run(program)).stdout == "0 pass\n"


def test_there_are_enough_and_each_says_what_it_tries() -> None:
    assert len(PROGRAMS) >= 20
    assert len({one.name for one in (*PROGRAMS, *CANDIDATES)}) == len(PROGRAMS) + len(CANDIDATES)
    assert all(one.tries.startswith(("to ", "never to ")) for one in (*PROGRAMS, *CANDIDATES))


async def unguarded(program: Program, limits: SandboxLimits) -> Execution:
    """Runs a program as it is: only for those that do no harm."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program.source, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return Execution(exit_code=process.returncode or 0, stdout=out.decode(), stderr=err.decode())


@pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's /proc")
@pytest.mark.parametrize(
    ("name", "trace"),
    [
        ("connects", "a server outside was reached"),
        ("environment", "it read a secret"),
        ("listens", "a server inside was reached from outside"),
        ("names", "a datagram came from inside"),
        ("reads_files", "it read a secret"),
        ("unix_sockets", "a socket without a path was reached"),
    ],
)
async def test_without_a_sandbox_the_same_programs_get_out(name, trace) -> None:
    program = BY_NAME[name]
    result = await attack(program, unguarded)
    assert trace in result.traces


@pytest.mark.skipif(sys.platform != "linux", reason="looks at Linux's /proc")
@pytest.mark.parametrize(
    ("source", "trace"),
    [
        ("open('$folder/new', 'w').close()", "files were made outside"),
        ("open('$folder/secret', 'a').write('x')", "a file outside was changed"),
        ("import os, signal; os.kill($pid, signal.SIGSTOP)", "a process outside was stopped"),
        ("import os, signal; os.kill($pid, signal.SIGKILL)", "a process outside was killed"),
        ("print('x' * (1 << 20))", "it printed more"),
        ("pass", "it was to be stopped by time"),
    ],
)
async def test_each_trace_is_seen(source, trace) -> None:
    ends_by = "time" if source == "pass" else None
    result = await attack(HostileProgram(name="x", tries="to x", source=source, ends_by=ends_by), unguarded)
    assert any(found.startswith(trace) for found in result.traces)
