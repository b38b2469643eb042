"""Worker names tell on their own machine whether the worker is dead; nobody else's worker is ever taken for dead."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from router_service._batch_presence import is_known_dead, worker_name
from tests.meta.source import ROOT

NAME = (
    "import sys; from router_service._batch_presence import worker_name; print(worker_name(), flush=True);"
    " sys.stdin.read()"
)


@pytest.fixture
def other():
    with subprocess.Popen(
        [sys.executable, "-c", NAME], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_names_are_ones_own_and_of_the_living():
    assert worker_name() != worker_name()
    assert not is_known_dead(worker_name())


def test_a_killed_process_is_dead_before_its_parent_has_waited_for_it(other):
    name = other.stdout.readline().strip()
    assert not is_known_dead(name)
    other.kill()
    other.stdout.read()  # ends with the process
    deadline = time.monotonic() + 60
    while not is_known_dead(name):
        assert time.monotonic() < deadline
    assert other.returncode is None, "nobody waited for it yet"
    other.wait()
    assert is_known_dead(name)


def test_a_process_id_that_another_process_has_by_now_is_not_the_worker():
    *place, began, token = worker_name().split("/")
    assert is_known_dead("/".join((*place, str(int(began) + 1), token)))


def test_a_machine_that_was_started_anew_has_no_worker_of_before():
    machine, _, *rest = worker_name().split("/")
    assert is_known_dead("/".join((machine, "earlier", *rest)))


@pytest.mark.parametrize("place", [0, 2])
def test_who_is_elsewhere_is_not_known_to_be_dead(place):
    parts = worker_name().split("/")
    parts[place], parts[3] = "elsewhere", "999999999"
    assert not is_known_dead("/".join(parts))


@pytest.mark.parametrize("name", ["w", "", "a/b/c", "a/b/c/d/e/f/g"])
def test_a_name_of_another_make_is_not_known_to_be_dead(name):
    assert not is_known_dead(name)
