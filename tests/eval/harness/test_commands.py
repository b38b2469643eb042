"""The commands that are written out, and that the service takes what the harnesses send by them."""

from __future__ import annotations

import shlex

import httpx
import pytest

from eval.harness.commands import HARNESSES, HarnessPlan, harness_command
from router_service.cli import main
from router_service.errors import UnknownNameError
from router_service.http.app import create_app
from router_service.http.settings import ServerSettings
from tests.router_service.http.fakes import FakeEngine

PLAN = HarnessPlan(tasks=("gsm8k", "arc_easy"), url="http://host:8123/v1/", answer_kind="number", k=3, limit=5)


def test_lm_eval_is_given_this_projects_model():
    words = harness_command("lm-eval", PLAN).words[1:]
    assert words == tuple(
        shlex.split(
            "-m eval.harness.lm_eval_model run --model enlist --model_args "
            "base_url=http://host:8123/v1,model=auto,num_concurrent=8,k=3,answer_kind=number "
            "--tasks gsm8k,arc_easy --apply_chat_template --limit 5"
        )
    )


def test_inspect_asks_once_and_scores_errors_as_wrong():
    plan = HarnessPlan(tasks=("t.py@sums",), recruiter="knn", further=("--epochs", "2"))
    assert str(harness_command("inspect", plan)) == (
        "ENLIST_API_KEY=unused inspect eval t.py@sums --model openai-api/enlist/auto "
        "--model-base-url http://127.0.0.1:8000/v1 --max-connections 8 --max-retries 0 --no-fail-on-error "
        """--score-on-error --extra-body '{"enlist": {"recruiter": "knn"}}' --epochs 2"""
    )


def test_another_harness_is_unknown():
    with pytest.raises(UnknownNameError, match="Did you mean 'inspect'"):
        harness_command("inspct", PLAN)


@pytest.mark.parametrize("name", HARNESSES)
def test_the_command_line_prints_the_command(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["eval", "harness", name, "--task", "t", "--answer-kind", "choice", "--", "--seed", "7"])
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith("--seed 7")
    assert "choice" in printed


SENT = {
    "inspect": {
        "model": "auto",
        "messages": [{"role": "user", "content": "Answer the following multiple choice question. ...\n\nA) 7\nB) 4"}],
        "enlist": {"answer_kind": "choice"},
    },
    "lm-eval, its own model": {
        "messages": [{"role": "user", "content": "Question: 2 + 2?\nAnswer:"}],
        "model": "auto",
        "max_tokens": 64,
        "temperature": 0.0,
        "stop": ["Question:"],
        "seed": 1234,
        "enlist": {"answer_kind": "number"},
    },
    "lm-eval, its own model, no stops": {
        "messages": [{"role": "user", "content": "Question: 2 + 2?\nAnswer:"}],
        "model": "auto",
        "max_tokens": 256,
        "temperature": 0,
        "stop": [],
        "seed": 1234,
    },
}
"""Bodies as inspect-ai 0.3.285 and lm-eval 0.4.13 sent them."""


@pytest.mark.parametrize("body", SENT.values(), ids=SENT)
async def test_the_service_takes_what_they_send(body):
    app = create_app(FakeEngine(None), ServerSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://door") as client:
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"]
