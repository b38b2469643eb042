"""The commands around decisions end to end: `route --log`, `batch --log`, `route replay` and `eval assert`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from experts_registry.artefact import artefact_version
from router_service.decision_log import read_decisions
from tests.router_service.commands import ENGINE, run_command, write_folder

QUESTION = "a question about fours, number 77"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two artefacts: `art` of all three experts, `few` without `newcomer`."""
    return tmp_path_factory.mktemp("routes")


@pytest.fixture
def enlist(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        return run_command(capsys, *arguments)

    if not (folder / "art").exists():
        write_folder(folder)
        assert run("profile", "--data", "fit.jsonl", "--out", "art", *ENGINE)[0] == 0
        few = ("--expert", "seven", "--expert", "newcomer")
        assert run("profile", "--data", "fit.jsonl", "--out", "few", *ENGINE, *few)[0] == 0
    return run


ART = (*ENGINE, "--artefact", "art", "--recruiter", "fixed", "--k", "1")
FEW = (*ENGINE, "--artefact", "few", "--recruiter", "fixed", "--k", "1")


def test_a_routed_question_is_logged_and_decided_again(enlist, tmp_path):
    log = tmp_path / "decisions.jsonl"
    for question in (QUESTION, "a question about sevens, number 3"):
        assert enlist("route", question, "--log", log, *ART)[0] == 0
    first, second = read_decisions(log)
    assert (first.query.text, first.pool, first.artefact) == (QUESTION, "experts", artefact_version(Path("art")))
    assert first.decision.recruits[0].expert_id == second.decision.recruits[0].expert_id

    code, out, err = enlist("route", "replay", log, *ART, "--fail-on-change")
    assert (code, err) == (0, "")
    assert "2 decisions: 0 (0.0%) ask others" in out

    code, out, _ = enlist("route", "replay", log, *FEW, "--fail-on-change")
    assert code == 1
    assert "2 of 2 decisions that change" in out
    assert QUESTION in out
    code, out, _ = enlist("route", "replay", log, *FEW, "--json", "--limit", "1")
    report = json.loads(out)
    assert code == 0
    assert (report["summary"]["decisions"], report["summary"]["other_panel"], len(report["changes"])) == (2, 2, 1)
    assert report["changes"][0]["left"] == [first.decision.recruits[0].expert_id]


def test_a_batch_logs_each_decision_once(enlist, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"id": "a", "question": "fours?", "answer_kind": "number"}\n{oops\n{"id": "b", "question": "sevens?"}\n'
    )
    batch = ("batch", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--log", tmp_path / "log", *ART)
    assert enlist(*batch)[0] == 0
    assert enlist(*batch)[0] == 0
    assert [record.query.id for record in read_decisions(tmp_path / "log")] == ["a", "b"]
    assert enlist("route", "replay", tmp_path / "log", *ART, "--fail-on-change")[0] == 0


def test_a_log_that_is_none_is_refused(enlist, tmp_path):
    (tmp_path / "log").write_text("{}\n{}\n")
    code, out, err = enlist("route", "replay", tmp_path / "log", *ART)
    assert (code, out) == (2, "")
    assert "2 line(s) cannot be read" in err


@pytest.mark.parametrize("words", [("--", "replay"), ("question", "replay")])
def test_a_question_may_be_a_commands_name(enlist, words):
    code, out, _ = enlist("route", *ART, *words) if words[0] == "--" else enlist("route", *words, *ART)
    assert code == 0
    assert "Recruited by fixed" in out


# --- eval assert -----------------------------------------------------------------------------------------------------

CHECKS = {
    "config": "enlist.yaml",
    "artefact": "art",
    "checks": [
        {
            "name": "fours go to four",
            "question": QUESTION,
            "answer_kind": "number",
            "expect": {
                "experts": {"any": ["four", "newcomer"], "none": ["seven"]},
                "skills": {"all": ["fours sense"]},
                "category": "fours",
                "min_p_correct": 0.5,
                "max_completions": 3,
                "is_fallback": False,
                "aggregator": "majority",
            },
        },
        {"name": "sevens go to four", "question": "sevens, number 3", "expect": {"experts": {"all": ["four"]}}},
    ],
}


def test_route_tests_pass_and_fail_with_what_was_decided(enlist, folder):
    (folder / "routes.yaml").write_text(yaml.safe_dump(CHECKS))
    code, out, err = enlist("eval", "assert", "routes.yaml", "--junit", "routes.xml")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == "pass  fours go to four"
    assert lines[2] == "FAIL  sevens go to four"
    assert "seven" in lines[3] and "by symbolic + majority" in lines[3]
    assert "experts: four missing; found: seven" in lines[4]
    assert lines[-1] == "1 passed, 1 failed"
    suite = ElementTree.parse(folder / "routes.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")


def test_route_tests_as_json_and_with_another_artefact(enlist, folder):
    (folder / "one.yaml").write_text(yaml.safe_dump({**CHECKS, "checks": CHECKS["checks"][:1]}))
    code, out, _ = enlist("eval", "assert", "one.yaml", "--json")
    report = json.loads(out)
    assert (code, report["passed"], report["failed"]) == (0, 1, 0)
    assert report["checks"][0]["problems"] == []
    code, out, _ = enlist("eval", "assert", "one.yaml", "--recruiter", "named", "--json")
    assert code == 1


def test_a_misspelt_check_is_a_broken_set_up(enlist, folder):
    (folder / "odd.yaml").write_text("checks: [{question: '?', expect: {expets: {}}}]")
    code, out, err = enlist("eval", "assert", "odd.yaml")
    assert (code, out) == (2, "")
    assert "Did you mean 'experts'" in err


# --- route --explain -------------------------------------------------------------------------------------------------


def test_a_recruiter_that_explains_itself_is_printed(enlist):
    tree = (*ENGINE, "--artefact", "art", "--recruiter", "tree")
    code, out, _ = enlist("route", QUESTION, "--explain", *tree)
    assert code == 0
    said = json.loads(enlist("route", QUESTION, "--explain", "--json", *tree)[1])["explanation"]
    assert said
    assert out.rstrip().endswith(said[-1])
    assert "explanation" not in json.loads(enlist("route", QUESTION, "--json", *tree)[1])
    assert said[0] not in enlist("route", QUESTION, *tree)[1]
