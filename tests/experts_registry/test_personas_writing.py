"""What an expert is asked for a persona, what is taken of its reply, and the pool file that keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts_registry.persona_writing import (
    group_questions,
    persona_name,
    pool_with_personas,
    read_description,
    write_pool,
    writing_query,
)
from experts_registry.pool import load_pool
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import Question

GOLDEN = Path(__file__).parent / "personas_writing.golden.txt"
QUESTIONS = [
    Question(id="1", text="What is 2 + 2?", category="sums", skills=("adding", "reading")),
    Question(id="2", text="Sort $a and b.", category="order", skills=("sorting",)),
    Question(id="3", text="What is 3 + 4?", category="sums", skills=("adding",)),
    Question(id="4", text="Why?", category=None),
    Question(id="5", text="What is 9 + 9?", category="sums", skills=("adding", "adding")),
]
GOOD = "You are a teller who adds long columns of figures without a slip, and checks each sum."


def test_questions_are_gathered_by_category_or_skill():
    by_category = group_questions(QUESTIONS, by="category", examples=2)
    assert {label: [q.id for q in shown] for label, shown in by_category.items()} == {
        "order": ["2"],
        "sums": ["1", "3"],
    }
    by_skill = group_questions(QUESTIONS, by="skill", only=["adding"])
    assert {label: [q.id for q in shown] for label, shown in by_skill.items()} == {"adding": ["1", "3", "5"]}
    with pytest.raises(UnknownNameError, match="Did you mean 'sums'"):
        group_questions(QUESTIONS, by="category", only=["sum"])
    with pytest.raises(ConfigError, match="none of 1 questions names a skill"):
        group_questions(QUESTIONS[3:4], by="skill")


def test_the_prompt_reads_as_it_did():
    """After a change: look at it, then write the text that is asked into the golden file."""
    query = writing_query("sums", [QUESTIONS[0], QUESTIONS[1]])
    assert query.text + "\n" == GOLDEN.read_text("utf-8")
    assert (query.sampling.temperature, query.sampling.max_tokens) == (0.0, 256)
    assert "several tasks" not in writing_query("sums", QUESTIONS[:1]).text


@pytest.mark.parametrize(
    ("said", "description"),
    [
        (GOOD, GOOD),
        (f'**Description:** "{GOOD}"', GOOD),
        (f"{GOOD}\nYou never guess.\n\nTask: another", GOOD + " You never guess."),
        (f"{GOOD}\nTask: another", GOOD),
        ("You are a cook.", None),
        ("A teller is somebody who adds long columns of figures without a slip, every day.", None),
        ("", None),
        (" ".join([GOOD, "You add well."] * 40), GOOD + " You add well."),
        (GOOD + " You write that of three people." * 9, GOOD + " You write that of three people."),
        (" ".join(f"You know {n} things." for n in range(200)), " ".join(f"You know {n} things." for n in range(60))),
    ],
)
def test_what_is_taken_of_a_reply(said, description):
    assert read_description(said) == description


@settings(deadline=None)
@given(st.text(max_size=40))
def test_every_label_has_a_name_that_a_pool_takes(label):
    name = persona_name(label)
    assert name == persona_name(name)
    assert name.replace("-", "").isalnum() and name.isascii() and not name.startswith("-")


def test_a_pool_file_keeps_the_personas_and_its_paths(tmp_path):
    source = tmp_path / "team" / "pool.yaml"
    source.parent.mkdir()
    source.write_text(
        "# by hand\ndefaults: {backend: echo, lora_base: ../base}\nexperts:\n"
        "  - {id: a, model: org/m, adapter: adapters/a, api_key: '${KEY:-x}', personas: {old: You are old.}}\n"
        "  - {id: b, model: ./weights, lora_base: null}\n"
    )
    for folder in (source.parent, tmp_path / "elsewhere"):
        data = pool_with_personas(source, expert_id="a", personas={"sums": GOOD, "old": "You are new."}, folder=folder)
        write_pool(folder / "voices.yaml", data)
        before, after = load_pool(source), load_pool(folder / "voices.yaml")
        assert after.ids == ("a", "a.old", "a.sums", "b")
        assert after.expert("a.sums").persona == GOOD and after.expert("a.old").persona == "You are new."
        for expert in (before.expert("a"), before.expert("b")):
            assert after.expert(expert.id) == expert
        assert "${KEY:-x}" in (folder / "voices.yaml").read_text()  # references stay references
    assert "by hand" in source.read_text()


def test_what_cannot_hold_personas_is_refused(tmp_path):
    lite = tmp_path / "lite.yaml"
    lite.write_text("model_list:\n  - {model_name: a, litellm_params: {model: openai/x}}\n")
    with pytest.raises(ConfigError, match="LiteLLM"):
        pool_with_personas(lite, expert_id="a", personas={}, folder=tmp_path)
    plain = tmp_path / "plain.yaml"
    plain.write_text("experts: [{id: a, model: m, backend: echo}]\n")
    with pytest.raises(ConfigError, match="no entry 'b'; it has a"):
        pool_with_personas(plain, expert_id="b", personas={}, folder=tmp_path)
