"""Both harnesses drive a real service: tiny tasks, experts that echo, every figure known beforehand.

They run in this environment, or in that of the interpreter that HARNESS_PYTHON names.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("HARNESS_PYTHON", sys.executable)

POOL = """
experts:
  - {id: counter, model: m1, backend: echo, options: {reply: "Two and two. The answer is 4."}}
  - {id: first, model: m2, backend: echo, options: {reply: "ANSWER: A"}}
  - {id: second, model: m3, backend: echo, options: {reply: "ANSWER: A"}}
"""
CONFIG = "annotator: blank\nrecruiter: all\naggregator: majority\n"
DATA = [("2 + 2?", "4"), ("3 + 4?", "7"), ("1 + 3?", "4")]

GENERATED = """
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:"], do_sample: false, temperature: 0.0, max_gen_toks: 64}}
filter_list:
  - name: last-number
    filter: [{{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CHOSEN = """
task: picks
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["4", "7"]
doc_to_target: "{{{{['4', '7'].index(answer)}}}}"
"""
INSPECTED = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import choice, match
from inspect_ai.solver import generate, multiple_choice

@task
def sums():
    samples = [Sample(input=q, target=a) for q, a in {data}]
    return Task(dataset=samples, solver=generate(), scorer=match(numeric=True))

@task
def picks():
    samples = [Sample(input=q, choices=["4", "7"], target="AB"["47".index(a)]) for q, a in {data}]
    return Task(dataset=samples, solver=multiple_choice(), scorer=choice())
"""


def require(package: str) -> None:
    found = subprocess.run([PYTHON, "-c", f"import {package}"], capture_output=True, check=False).returncode == 0
    if not found:
        pytest.skip(
            f"NOT TESTED: {PYTHON} has no {package}; install `enlist[harness]`, or name an interpreter that has it in "
            "HARNESS_PYTHON"
        )


@pytest.fixture
def service(tmp_path) -> Iterator[str]:
    """`enlist serve` on a free port: its address."""
    (tmp_path / "experts.yaml").write_text(POOL)
    (tmp_path / "enlist.yaml").write_text(CONFIG)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "router_service.cli", "serve", "--pool", "experts.yaml", "--config", "enlist.yaml"]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=tmp_path, env=environment())
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/health/readiness", timeout=1)
                break
            except OSError:
                assert process.poll() is None, "the service did not start"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def environment() -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "INSPECT_DISPLAY": "none"}
    path = f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **offline, "PATH": path, "PYTHONPATH": str(ROOT)}


def ran(words: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A finished command."""
    given = {**environment(), **variables}
    return subprocess.run(words, cwd=folder, env=given, capture_output=True, text=True, timeout=300, check=False)


def enlist(folder: Path, *arguments: str) -> list[str]:
    """The words of the command that `enlist eval harness` prints, for the interpreter under test."""
    import shlex

    command = [sys.executable, "-m", "router_service.cli", "eval", "harness", *arguments]
    printed = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True).stdout
    return [PYTHON if word == sys.executable else word for word in shlex.split(printed)]


def test_lm_eval_asks_open_and_multiple_choice_tasks(service, tmp_path):
    require("lm_eval")
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in DATA))
    (tmp_path / "sums.yaml").write_text(GENERATED.format(data=data))
    (tmp_path / "picks.yaml").write_text(CHOSEN.format(data=data))
    words = enlist(
        tmp_path, "lm-eval", "--task", "sums", "--task", "picks", "--url", service, "--answer-kind", "number", "--",
        "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"),
    )  # fmt: skip
    run = ran(words, tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())["results"]
    assert results["picks"]["acc,none"] == pytest.approx(2 / 3)
    assert results["sums"]["exact_match,last-number"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("task", "kind", "accuracy"), [("sums", "number", 2 / 3), ("picks", "choice", 2 / 3)])
def test_inspect_asks_open_and_multiple_choice_tasks(service, tmp_path, task, kind, accuracy):
    require("inspect_ai")
    (tmp_path / "tasks.py").write_text(INSPECTED.format(data=DATA))
    words = enlist(
        tmp_path, "inspect", "--task", f"tasks.py@{task}", "--url", service, "--answer-kind", kind, "--",
        "--log-format", "json", "--log-dir", str(tmp_path / "logs"),
    )  # fmt: skip
    key, *command = words
    assert key == "ENLIST_API_KEY=unused"
    run = ran(command, tmp_path, ENLIST_API_KEY="unused")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    (written,) = (tmp_path / "logs").glob("*.json")
    (score,) = json.loads(written.read_text())["results"]["scores"]
    assert score["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_a_question_that_nobody_can_answer_ends_neither_run(service, tmp_path):
    """Asked for JSON, no expert gives any: lm-eval counts the questions as wrong, Inspect scores them so, at once."""
    require("lm_eval")
    require("inspect_ai")
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in DATA))
    (tmp_path / "sums.yaml").write_text(GENERATED.format(data=data))
    (tmp_path / "tasks.py").write_text(INSPECTED.format(data=DATA))
    asked = ("--url", service, "--answer-kind", "json")
    words = enlist(tmp_path, "lm-eval", "--task", "sums", *asked, "--", "--include_path", str(tmp_path))
    run = ran(words, tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "3 queries without an answer so far (aggregation_error)" in run.stderr + run.stdout
    _, *command = enlist(tmp_path, "inspect", "--task", "tasks.py@sums", *asked)
    run = ran(command, tmp_path, ENLIST_API_KEY="unused")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
