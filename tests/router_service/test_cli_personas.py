"""`enlist pool personas` end to end: an expert that echoes writes, and the new pool holds what it wrote."""

from __future__ import annotations

import json

import pytest

from experts_registry.pool import load_pool
from tests.router_service.commands import run_command, write_fit_questions

GOOD = "You are a teller who adds long columns of figures without a slip, and checks each sum."
POOL = f"""
experts:
  - {{id: writer, model: m, backend: echo, options: {{reply: "Description: {GOOD}"}}}}
  - {{id: mute, model: m, backend: echo, options: {{reply: "I describe nobody."}}}}
  - {{id: broken, model: m, backend: echo, options: {{fail_rate: 1.0, fail_code: expert_refused}}}}
"""


@pytest.fixture
def enlist(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experts.yaml").write_text(POOL)
    write_fit_questions(tmp_path)
    common = ("pool", "personas", "--pool", "experts.yaml", "--data", "fit.jsonl", "--out", "new/voices.yaml")
    return lambda *arguments: run_command(capsys, *common, *arguments)


def test_a_persona_for_each_category_is_kept_in_a_new_pool(enlist, tmp_path):
    code, out, err = enlist("--expert", "writer")
    assert (code, err) == (0, "")
    assert "writer.fours" in out and "wrote new/voices.yaml: 2 personas" in out
    pool = load_pool(tmp_path / "new" / "voices.yaml")
    assert pool.ids == ("writer", "writer.fours", "writer.sevens", "mute", "broken")
    assert pool.expert("writer.fours").persona == GOOD


def test_it_can_be_for_another_expert_by_skill_and_as_json(enlist, tmp_path):
    code, out, _ = enlist("--expert", "writer", "--for", "mute", "--by", "skill", "--only", "fours sense", "--json")
    assert code == 0
    assert json.loads(out) == {"pool": "new/voices.yaml", "personas": {"fours-sense": GOOD}, "problems": {}}
    assert load_pool(tmp_path / "new" / "voices.yaml").ids == ("writer", "mute", "mute.fours-sense", "broken")


@pytest.mark.parametrize(("expert", "said"), [("mute", "describes nobody: 'I describe nobody.'"), ("broken", "broken")])
def test_what_was_not_written_is_said_and_nothing_is_kept(enlist, tmp_path, expert, said):
    code, out, err = enlist("--expert", expert)
    assert code == 1
    assert "category 'fours'" in err and said in err and out == ""
    assert not (tmp_path / "new" / "voices.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--expert", "writr"), "Did you mean 'writer'"),
        (("--expert", "writer", "--for", "nobody"), "no entry 'nobody'"),
        (("--expert", "writer", "--only", "four"), "Did you mean 'fours'"),
        (("--expert", "writer", "--out", "experts.yaml"), "whose comments would be lost"),
        (("--expert", "writer", "--data", "none.jsonl"), "none.jsonl"),
    ],
)
def test_a_broken_set_up_is_said_before_anybody_writes(enlist, arguments, said):
    code, _, err = enlist(*arguments)
    assert code == 2 and said in err
