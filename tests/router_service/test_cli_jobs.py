"""The commands `jobs` and `worker`: batches in a store, seen, stopped, forgotten and worked on by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from tests.meta.source import ROOT
from tests.router_service.commands import run_command

POOL = "experts:\n" + "".join(
    f"  - {{id: {name}, model: m, backend: echo, options: {{latency_s: LATENCY}},"
    " prices: {input_usd_per_mtok: 1.0, output_usd_per_mtok: 1.0}}\n"
    for name in ("a", "b")
)
ENGINE = ("--pool", "experts.yaml", "--config", "enlist.yaml")


@pytest.fixture
def enlist(capsys):
    return lambda *arguments: run_command(capsys, *arguments)


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "enlist.yaml").write_text("annotator: blank\nrecruiter: all\naggregator: majority\n")
    (tmp_path / "experts.yaml").write_text(POOL.replace("LATENCY", "0.0"))
    rows = [json.dumps({"id": f"q{n}", "question": f"question {n}"}) for n in range(1, 21)]
    (tmp_path / "in.jsonl").write_text("\n".join([*rows, "{oops"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENLIST_STORE", raising=False)
    return tmp_path


def background(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "router_service.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["in.jsonl", "out.jsonl", "link.jsonl", "out.jsonl.job"])
def test_a_decision_log_in_a_file_of_the_batch_is_refused(enlist, work, name):
    (work / "link.jsonl").symlink_to("in.jsonl")
    before = (work / "in.jsonl").read_bytes()
    code, _, error = enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, "--log", name)
    assert code == 2
    assert "name another log file" in error
    assert (work / "in.jsonl").read_bytes() == before
    assert not (work / "out.jsonl").exists()


def test_a_finished_job_in_a_shared_store_is_listed_shown_and_removed(enlist, work):
    store = ("--store", "jobs.sqlite")
    assert enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, *store)[0] == 0
    code, out, _ = enlist("jobs", "list", *store, "--json")
    (listed,) = json.loads(out)
    assert code == 0
    assert (listed["state"], listed["lines"], listed["finished"], listed["failed"]) == ("completed", 21, 21, 1)
    assert listed["completions"] == 40
    assert listed["cost_usd"] > 0
    assert listed["output"] == str(work / "out.jsonl")
    code, out, _ = enlist("jobs", "show", listed["id"], *store, "--lines", "--json")
    entries = json.loads(out)["entries"]
    assert entries[0]["id"] == "q1"
    assert entries[0]["route"]["recruits"] == {"a": 1, "b": 1}
    assert entries[0]["route"]["aggregator"] == "majority"
    assert entries[20]["error"]["code"] == "invalid_query"
    for command in (("list",), ("show", "--lines")):
        code, out, _ = enlist("jobs", *command, *store)
        assert code == 0
        assert "completed" in out
    assert "a, b" in out
    assert "workers: none" in out
    assert enlist("jobs", "remove", *store)[0] == 0
    assert json.loads(enlist("jobs", "list", *store, "--json")[1]) == []


def test_a_job_that_is_not_there_and_a_store_that_is_not_there_are_named(enlist, work):
    code, _, err = enlist("jobs", "list", "--store", "nowhere.sqlite")
    assert (code, (work / "nowhere.sqlite").exists()) == (2, False)
    assert "there is no job store nowhere.sqlite" in err
    assert "give --store" in enlist("jobs", "list")[2].lower()
    enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, "--store", "jobs.sqlite")
    (listed,) = json.loads(enlist("jobs", "list", "--store", "jobs.sqlite", "--json")[1])
    code, _, err = enlist("jobs", "show", listed["id"][:-1], "--store", "jobs.sqlite")
    assert code == 2
    assert f"Did you mean '{listed['id']}'" in err


def test_a_running_batch_is_cancelled_and_its_finished_lines_are_written(enlist, work):
    (work / "experts.yaml").write_text(POOL.replace("LATENCY", "0.1"))
    with background("batch", "in.jsonl", "out.jsonl", *ENGINE, "--window", "2", "--json") as run:
        wait_for(work / "out.jsonl.job", run)
        store = ("--store", "out.jsonl.job", "--json")
        deadline = time.monotonic() + 60
        while json.loads(enlist("jobs", "show", *store)[1] or "{}").get("finished", 0) < 4:
            assert time.monotonic() < deadline
        code, _, err = enlist("jobs", "remove", *store[:2])
        assert code == 2
        assert "cancel it (enlist jobs cancel)" in err
        assert json.loads(enlist("jobs", "cancel", *store)[1])["state"] == "cancelling"
        out, err = run.communicate(timeout=60)
    summary = json.loads(out)
    assert run.returncode == 1
    assert "lines were left out" in err or summary["cancelled"]
    ends = [(json.loads(line)["error"] or {}).get("code") for line in (work / "out.jsonl").read_text().splitlines()]
    assert len(ends) == 21
    assert ends.count(None) >= 3
    assert ends.count("batch_cancelled") == summary["cancelled"] == summary["retryable"] > 0
    assert enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, "--window", "2")[0] == 1, "it is known as cancelled"
    code, out, _ = enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, "--window", "2", "--retry-failed", "--json")
    assert (code, json.loads(out)["answered"], json.loads(out)["cancelled"]) == (0, 20, 0)


@pytest.mark.slow
def test_a_further_worker_takes_its_share(enlist, work):
    (work / "experts.yaml").write_text(POOL.replace("LATENCY", "0.1"))
    store = ("--store", "jobs.sqlite")
    with background("batch", "in.jsonl", "out.jsonl", *ENGINE, *store, "--window", "1", "--json") as run:
        wait_for(work / "jobs.sqlite", run)
        deadline = time.monotonic() + 60
        while not json.loads(enlist("jobs", "list", *store, "--json")[1] or "[]"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (listed,) = json.loads(enlist("jobs", "list", *store, "--json")[1])
        code, _, err = enlist("worker", *ENGINE, *store, "--seed", "7", "--job", listed["id"])
        assert code == 2
        assert "differs from this worker's in: config.seed" in err
        code, said, err = enlist("worker", *ENGINE, *store, "--window", "2", "--exit-when-idle")
        assert code == 0, err
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    n_shared = int(said.splitlines()[-1].split()[0])
    assert 0 < n_shared < 20
    assert json.loads(out)["answered"] == 20
    ids = [json.loads(line)["id"] for line in (work / "out.jsonl").read_text().splitlines()]
    assert ids == [f"q{n}" for n in range(1, 21)] + [None]


def test_a_worker_with_nothing_to_do_leaves_where_it_is_told_to(enlist, work, monkeypatch):
    enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, "--store", "jobs.sqlite")
    monkeypatch.setenv("ENLIST_STORE", "jobs.sqlite")
    code, out, _ = enlist("worker", *ENGINE, "--exit-when-idle")
    assert (code, out) == (0, "0 lines finished by this worker\n")
