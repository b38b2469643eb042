"""The command line end to end, on experts that echo: what is printed where, and with which exit code."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from router_service._cli_options import EngineOptions
from router_service._cli_output import jsonable
from router_service.types import AnswerKind, Expert, Question, Secret, SkillAnnotation
from tests.eval.recorded_dataset import write_dataset
from tests.router_service.commands import ENGINE, run_command, write_fit_questions

ROOT = Path(__file__).parents[2]

POOL = """
experts:
  - {id: four, model: m4, backend: echo, options: {reply: "The answer is 4."}, prices: {input_usd_per_mtok: 1.0, output_usd_per_mtok: 1.0}}
  - {id: seven, model: m7, backend: echo, options: {reply: "The answer is 7."}}
  - {id: broken, model: mb, backend: echo, options: {fail_rate: 1.0, fail_code: expert_refused}}
  - {id: asleep, model: ma, backend: echo, enabled: false}
"""  # noqa: E501

CONFIG = """
annotator: {name: embedding, options: {embedder: hashing}}
recruiter: all
aggregator: majority
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a pool, a configuration and fit questions; the working directory."""
    (tmp_path / "experts.yaml").write_text(POOL)
    (tmp_path / "enlist.yaml").write_text(CONFIG)
    write_fit_questions(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def enlist(capsys, monkeypatch):
    """Runs a command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    return lambda *arguments: run_command(capsys, *arguments)


GOOD = ("--pool", "experts.yaml", "--config", "enlist.yaml", "--recruiter", "fixed")


def test_the_help_names_every_command_without_loading_the_house(enlist):
    code, out, _ = enlist("--help")
    assert code == 0
    for command in ("ask", "route", "batch", "serve", "pool", "profile", "eval", "aggregator", "version"):
        assert f" {command} " in out
    listing = "import sys, router_service.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"pydantic", "fastapi", "numpy", "torch", "yaml", "aiohttp"} & set(loaded.stdout.split())


@pytest.mark.parametrize(
    "command",
    [
        ("ask",),
        ("route",),
        ("route", "replay"),
        ("batch",),
        ("serve",),
        ("profile",),
        ("pool", "check"),
        ("pool", "show"),
        ("eval", "replay"),
        ("eval", "convert"),
        ("eval", "report"),
        ("eval", "assert"),
        ("aggregator", "select"),
        ("aggregator", "show"),
    ],
)
def test_every_command_explains_itself(enlist, command):
    code, out, _ = enlist(*command, "--help")
    assert code == 0
    assert "Usage:" in out


def test_version(enlist):
    assert enlist("version") == (0, "enlist 0.1.0\n", "")


# --- ask and route -------------------------------------------------------------------------------------------------


def test_ask_prints_the_answer_and_who_gave_it(enlist, work):
    code, out, err = enlist("ask", "2 + 2?", "--kind", "number", *ENGINE)
    assert (code, err) == (0, "")
    answer, who = out.splitlines()
    assert answer == "The answer is 4."
    assert who.startswith("four, seven, broken · all + majority · 50% agree · cost unknown")


def test_ask_says_what_else_there_is_to_know_of_the_answer(enlist, work):
    code, out, _ = enlist(
        "ask", "2 + 2?", "--kind", "number", *ENGINE, "--aggregator", "synthesise", "--max-completions", "3"
    )
    assert code == 0
    answer, who, *notes = out.splitlines()
    assert (answer, "majority" in who) == ("The answer is 4.", True)
    assert notes and all(note.startswith("note: ") for note in notes)
    assert "synthesise was not affordable" in out


def test_ask_as_json_is_one_document_with_everything(enlist, work):
    code, out, _ = enlist("ask", "2 + 2?", "--kind", "number", "--json", *ENGINE)
    response = json.loads(out)
    assert code == 0
    assert response["answer"]["extracted"] == "4"
    assert [completion["expert_id"] for completion in response["completions"]] == ["four", "seven", "broken"]
    assert "embedding" not in response["annotation"]


def test_options_make_a_choice(enlist, work):
    code, out, _ = enlist("ask", "Which?", "--option", "x", "--option", "y", "--json", *ENGINE)
    assert code == 1
    assert json.loads(out)["code"] == "aggregation_error"


def test_a_question_that_fails_is_one_line_and_exit_code_1(enlist, work):
    alone = ("--max-completions", "1", "--max-cost-usd", "0")
    code, out, err = enlist("ask", "2 + 2?", *alone, *ENGINE)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ask", " ", *ENGINE), "error: the question is empty"),
        (("ask", "2?", "--pool", "locl"), "no pool 'locl'"),
        (("ask", "2?", "--kind", "numbre", *ENGINE), "--kind is 'numbre'. Did you mean 'number'?"),
        (("ask", "2?", "--config", "gone.yaml"), "no such file: gone.yaml"),
        (("serve", "--host", "0.0.0.0", *ENGINE), "lets everybody who reaches it spend money"),
        (("profile", "--data", "fit.jsonl", "--out", "o", "--skills", "recoded", *ENGINE), "Did you mean 'recorded'"),
        (("profile", "--data", "fit.jsonl", "--out", "o", "--annotator", "llm", *ENGINE), "--annotator-expert ID"),
        (
            (
                "profile",
                "--data",
                "fit.jsonl",
                "--out",
                "o",
                "--skills",
                "category",
                "--annotator-expert",
                "four",
                *ENGINE,
            ),
            "--skills category takes categories",
        ),
        (("aggregator", "select", *ENGINE), "--artefact DIR"),
        (("aggregator", "select", "--pool", "local"), "--artefact DIR"),
        (("eval", "replay", "--data", "gone", "--pool", "p", "--recruiter", "r"), "no dataset folder at gone"),
    ],
)
def test_a_broken_set_up_is_a_clean_error_and_exit_code_2(enlist, work, arguments, said):
    code, out, err = enlist(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err


def test_an_unknown_recruiter_names_the_nearest(enlist, work):
    code, _, err = enlist("ask", "2 + 2?", *ENGINE, "--recruiter", "symbolik")
    assert code in (1, 2)
    assert "Did you mean 'symbolic'" in err


def test_route_explains_who_was_recruited_and_who_was_left_out(enlist, work):
    assert (
        enlist("profile", "--data", "fit.jsonl", "--out", "art", *ENGINE, "--expert", "four", "--expert", "seven")[0]
        == 0
    )
    question = "a question about fours, number 77"
    routed = ("--artefact", "art", "--recruiter", "symbolic", "--k", "2")
    code, out, err = enlist("route", question, "--explain", *ENGINE, *routed)
    assert (code, err) == (0, "")
    assert "fours sense" in out
    assert "fours-" in out
    assert "Recruited by symbolic" in out
    table = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert "recruited" in table["four"]
    assert "left out: " in table["asleep"]
    assert "seed" in out

    code, out, _ = enlist("route", question, "--json", *ENGINE, *routed)
    decision = json.loads(out)["decision"]
    assert code == 0
    assert [(r["expert_id"], r["samples"]) for r in decision["recruits"]] == [("four", 2)]
    assert {left["expert_id"] for left in decision["eliminated"]} >= {"asleep"}
    assert "fours sense" in json.loads(out)["annotation"]["skills"]


# --- batch ---------------------------------------------------------------------------------------------------------


def test_batch_answers_plain_and_openai_lines(enlist, work):
    body = {"model": "seven", "messages": [{"role": "user", "content": "?"}]}
    lines = [
        {"id": "a", "question": "2 + 2?", "answer_kind": "number"},
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {**body, "model": "sevn"}},
    ]
    (work / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{oops\n")
    code, out, err = enlist("batch", "in.jsonl", "out.jsonl", "--json", *ENGINE)
    assert (code, err) == (0, "")
    assert json.loads(out) | {"cost_usd": 0} == {
        "output": "out.jsonl",
        "lines": 4,
        "answered": 2,
        "failed": 2,
        "retryable": 0,
        "cancelled": 0,
        "resumed": 0,
        "completions": 4,
        "cost_usd": 0,
    }
    plain, chat, unknown, broken = [json.loads(line) for line in (work / "out.jsonl").read_text().splitlines()]
    assert (plain["extracted"], plain["experts"]) == ("4", ["four", "seven", "broken"])
    assert chat["response"]["body"]["choices"][0]["message"]["content"] == "The answer is 7."
    assert "Did you mean 'seven'" in unknown["error"]["message"]
    assert "line 4" in broken["error"]["message"]

    code, out, _ = enlist("batch", "in.jsonl", "out.jsonl", *ENGINE)
    assert code == 0
    assert "4 lines finished, 4 of them by an earlier run, 2 failed" in out


def test_a_strict_batch_runs_nothing(enlist, work):
    (work / "in.jsonl").write_text("{oops\n")
    code, _, err = enlist("batch", "in.jsonl", "out.jsonl", "--strict", *ENGINE)
    assert code == 2
    assert "line 1: not valid JSON" in err
    assert not (work / "out.jsonl").exists()


def test_changed_settings_are_named_before_an_output_is_lost(enlist, work):
    (work / "in.jsonl").write_text('{"id": 1, "question": "?"}\n')
    assert enlist("batch", "in.jsonl", "out.jsonl", *ENGINE)[0] == 0
    code, _, err = enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, "--seed", "5")
    assert code == 2
    assert "--restart" in err
    assert enlist("batch", "in.jsonl", "out.jsonl", *ENGINE, "--seed", "5", "--restart")[0] == 0


def test_a_batch_says_which_failures_can_be_asked_again_and_asks_them(enlist, work):
    down = POOL.replace("expert_refused", "expert_unavailable")
    (work / "experts.yaml").write_text(down)
    body = {"messages": [{"role": "user", "content": "?"}]}
    line = {"method": "POST", "url": "/v1/chat/completions"}
    lines = [{**line, "custom_id": name, "body": {**body, "model": name}} for name in ("broken", "four")]
    (work / "in.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    code, _, err = enlist("batch", "in.jsonl", "out.jsonl", *ENGINE)
    assert code == 0
    assert "1 of 1 failed lines may do better now" in err
    assert "--retry-failed" in err
    good = (work / "out.jsonl").read_bytes().splitlines()[1]
    code, out, _ = enlist("batch", "in.jsonl", "out.jsonl", "--retry-failed", "--json", *ENGINE)
    assert (code, json.loads(out)["resumed"], json.loads(out)["retryable"]) == (0, 1, 1)
    assert (work / "out.jsonl").read_bytes().splitlines()[1] == good


HEARING_INTERRUPTS = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from router_service.cli import main; main()"
)
"""The command, for a process that a shell's background job starts: it would ignore SIGINT like its parent."""


@pytest.mark.parametrize(
    ("options", "said"), [((), "command again to go on"), (("--restart",), "without --restart to go on")]
)
def test_an_interrupted_batch_says_how_it_goes_on(work, options, said):
    (work / "experts.yaml").write_text("experts: [{id: snail, model: m, backend: echo, options: {latency_s: 60}}]")
    (work / "in.jsonl").write_text('{"id": 1, "question": "?"}\n')
    command = [sys.executable, "-c", HEARING_INTERRUPTS, "batch", "in.jsonl", "out.jsonl", *options, *ENGINE]
    with subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        deadline = time.monotonic() + 30
        while not (work / "out.jsonl.job").exists():
            assert time.monotonic() < deadline, "the batch did not begin"
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert run.stderr is not None
        assert said in run.stderr.read().decode()
    assert run.returncode == 130


# --- pool ----------------------------------------------------------------------------------------------------------


def test_pool_show_lists_experts_and_no_secret(enlist, work):
    (work / "experts.yaml").write_text(POOL + "  - {id: k, model: m, backend: echo, api_key: sk-very-secret-key-123}\n")
    code, out, _ = enlist("pool", "show", "--pool", "experts.yaml")
    assert code == 0
    assert "asleep" in out
    assert "secret" not in out + enlist("pool", "show", "--pool", "experts.yaml", "--json")[1]


def test_pool_check_names_who_cannot_be_used(enlist, work):
    assert enlist("pool", "check", "--pool", "experts.yaml") == (0, "pool experts: 3 of 4 experts usable\n", "")
    (work / "experts.yaml").write_text(POOL + "  - {id: odd, model: m, backend: echo, options: {latncy_s: 1}}\n")
    code, out, _ = enlist("pool", "check", "--pool", "experts.yaml")
    assert code == 1
    assert "latency_s" in out
    code, out, _ = enlist("pool", "check", "--pool", "experts.yaml", "--json")
    assert code == 1
    assert [problem["expert_id"] for problem in json.loads(out)["problems"]] == ["odd"]


# --- profile, eval replay --------------------------------------------------------------------------------------------


def test_profile_reports_failures_and_keeps_the_rest(enlist, work):
    code, out, err = enlist("profile", "--data", "fit.jsonl", "--out", "art", *ENGINE, "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["new"], report["known"]) == (48, 0)
    assert report["accuracy"][0] == {"expert": "four", "fours": 1.0, "sevens": 0.0, "all": 0.5}
    assert report["failures"]["broken"]["count"] == 24
    assert "24 completions of expert broken failed" in err
    code, out, _ = enlist("profile", "--data", "fit.jsonl", "--out", "art", *ENGINE, "--expert", "four")
    assert code == 0
    assert "0 new completions, 24 known before" in out


def test_k_on_the_command_line_goes_before_the_recruiters_option_in_the_file(tmp_path):
    file = tmp_path / "enlist.yaml"
    file.write_text("recruiter: {name: random, options: {k: 1, temperature: 2}}")
    assert EngineOptions(config=file).engine_config().recruiter.options == {"k": 1, "temperature": 2}
    config = EngineOptions(config=file, k=3).engine_config()
    assert (config.k, config.recruiter.options) == (3, {"temperature": 2})
    assert EngineOptions(config=file, k=3, recruiter="fixed").engine_config().recruiter.name == "fixed"


def test_replay_prints_a_table_and_writes_a_report(enlist, work):
    write_dataset(work / "tiny")
    code, out, err = enlist(
        *(
            "eval",
            "replay",
            "--data",
            "tiny",
            "--pool",
            "trio",
            "--recruiter",
            "best_single",
            "--recruiter",
            "symbolic",
        ),
        *("--aggregator", "majority", "--k", "3", "--embedder", "hashing", "--json", "report.json"),
    )
    assert code == 0
    assert "LEAK in tiny" in err
    report = json.loads((work / "report.json").read_text())
    assert [(row["recruiter"], row["accuracy"]) for row in report["rows"]] == [("best_single", 0.5), ("symbolic", 1.0)]
    assert (report["format"], report["version"]) == ("enlist replay report", 1)
    assert "tiny, trio: 24 test questions, fitted on fit" in out
    assert out.index("[best single]") < out.index("symbolic")


@pytest.mark.slow
def test_replay_goes_over_every_pool_and_recruiter_where_none_is_named(enlist, work):
    for name in ("one", "two"):
        write_dataset(work / "data" / name, name=name)
    sizes = ("--k", "1", "--k", "free", "--seeds", "2", "--shuffled-control", "--resume", "kept")
    code, out, err = enlist(
        "eval", "replay", "--data", "data", *sizes, "--embedder", "hashing", "--json", "report.json"
    )
    assert (code, err.count("LEAK in")) == (0, 2)
    rows = json.loads((work / "report.json").read_text())["rows"]
    assert {(row["dataset"], row["pool"]) for row in rows} == {(d, p) for d in ("one", "two") for p in ("trio", "duo")}
    assert {row["recruiter"] for row in rows} >= {"all", "best_single", "fixed", "random", "symbolic"}
    assert {(row["k"], row["is_shuffled"]) for row in rows} == {(1, False), (None, False), (1, True), (None, True)}
    assert "symbolic (shuffled)" in out
    assert (work / "kept" / "strategies.jsonl").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--pool", "tri"), "Did you mean 'trio'"),
        (("--recruiter", "symbolik"), "Did you mean 'symbolic'"),
        (("--k", "65"), "k is 65; it is the number of completions per question, 1 to 64"),
        (("--k", "some"), "k is 'some'"),
        (("--fit-on", "fit+extra"), "unknown split of tiny 'extra'"),
        (("--split", "fit"), "judge on another"),
        (("--json", "tiny"), "cannot write tiny: it is a folder"),
    ],
)
def test_replay_refuses_what_it_cannot_do(enlist, work, given, said):
    write_dataset(work / "tiny")
    code, _, err = enlist("eval", "replay", "--data", "tiny", "--embedder", "hashing", *given)
    assert code == 2
    assert said in err


# --- serve -----------------------------------------------------------------------------------------------------------


def test_serve_answers_until_told_to_stop(work):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "router_service.cli", "serve", "--port", str(port), *ENGINE]
    with subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=None) as server:
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as reply:
                    names = [model["id"] for model in json.load(reply)["data"]]
                break
            except OSError:
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.1)
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=15)
    assert {"auto", "auto/symbolic", "four", "seven"} <= set(names)
    assert "asleep" not in names


# --- printing --------------------------------------------------------------------------------------------------------


def test_values_become_json_without_secrets_and_vectors():
    expert = Expert(id="e", model="m", backend="echo", api_key=Secret("hush"), modalities=frozenset({"text", "image"}))
    printed = jsonable(expert)
    assert (printed["api_key"], printed["modalities"]) == ("***", ["image", "text"])
    assert "embedding" not in jsonable(SkillAnnotation(query_id="q", embedding=(0.1, 0.2)))
    assert jsonable(Question(id="q", text="t", answer_kind=AnswerKind.NUMBER))["answer_kind"] == "number"
    assert json.dumps(jsonable(expert))
