"""Personas in a pool file: each is an expert of its own, and what is wrong with one is said clearly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.extract import extract
from experts_registry.estimate import estimate_usage, max_output_tokens
from experts_registry.personas import builtin_personas, persona_text, virtual_id
from experts_registry.pool import load_pool, parse_pool
from experts_registry.profiles import fit_profiles
from router_service.errors import ConfigError
from router_service.prompt_tokens import persona_tokens
from router_service.types import AnswerKind, Outcome, Prices, Question, TaskFormat, user_query

TWO = {"careful": "You check each step.", "quick": "You answer at once."}


def pool_of(*experts, **rest):
    return parse_pool({"experts": list(experts), **rest}, "test", Path("/pools"))


def entry(expert_id="a", **rest):
    return {"id": expert_id, "model": "m", "backend": "echo", **rest}


def problem_of(*experts, **rest):
    with pytest.raises(ConfigError) as caught:
        pool_of(*experts, **rest)
    return caught.value.message


def test_each_persona_is_an_expert_beside_the_plain_one():
    full = entry(
        "a",
        personas=TWO,
        lora_base="org/base",
        adapter="adapters/law",
        prices={"input_usd_per_mtok": 1, "output_usd_per_mtok": 2},
        context_window=100,
        sampling={"temperature": 0},
        description="knows law",
    )
    pool = pool_of(full, entry("b"))
    assert pool.ids == ("a", "a.careful", "a.quick", "b")
    plain, careful, quick, _ = pool.experts
    assert (plain.persona, careful.persona, quick.persona) == (None, *TWO.values())
    assert careful.description == "knows law, as careful"
    for voice in (careful, quick):
        assert replace(voice, id="a", persona=None, description="knows law") == plain
    assert plain.prices == Prices(input_usd_per_mtok=1, output_usd_per_mtok=2)


def test_personas_of_the_defaults_hold_for_every_expert_that_does_not_take_them_away():
    defaults = {"model": "m", "backend": "echo", "personas": {"careful": "You check."}}
    pool = pool_of(
        {"id": "a"}, {"id": "b", "personas": {"quick": "You guess."}}, {"id": "c", "personas": None}, defaults=defaults
    )
    assert pool.ids == ("a", "a.careful", "b", "b.careful", "b.quick", "c")


def test_a_disabled_entry_disables_its_personas():
    assert pool_of(entry(personas=TWO, enabled=False), entry("b")).enabled == (pool_of(entry("b")).experts)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"personas": {"careful": " "}}, "'careful' is empty"),
        ({"personas": {"two words": "You."}}, "'two words' is no name of a persona"),
        ({"personas": {"a.b": "You."}}, "'a.b' is no name of a persona"),
        ({"personas": {"": "You."}}, "'' is no name of a persona"),
        ({"personas": {"solo": "builtin:solo_perfomance"}}, "Did you mean 'builtin:solo_performance'"),
        ({"persona": "builtin:nobody"}, "there is no persona 'builtin:nobody'; the package has 'solo_performance'"),
        ({"persona": "You.", "personas": TWO}, "stands beside persona"),
        ({"personas": ["You."]}, "personas"),
        ({"personas": {"careful": 3}}, "personas"),
        ({"persnas": TWO}, "Did you mean 'personas'"),
    ],
)
def test_what_is_wrong_is_said(fields, said):
    problem = problem_of(entry("a", **fields), entry("b"))
    assert said in problem and "expert 'a'" in problem


def test_ids_that_clash_are_named():
    assert "expert 'a.careful' is also the id of a persona" in problem_of(entry(personas=TWO), entry("a.careful"))
    assert "expert 'a' is listed 2 times" in problem_of(entry(personas=TWO), entry())


def test_a_persona_that_is_written_twice_is_refused(tmp_path):
    path = tmp_path / "pool.yaml"
    path.write_text("experts:\n  - {id: a, model: m, backend: echo, personas: {x: One., x: Two.}}\n")
    with pytest.raises(ConfigError, match="the key 'x' is written twice"):
        load_pool(path)


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]*", fullmatch=True))
def test_every_name_makes_an_id_that_the_pool_takes(name):
    pool = pool_of(entry("org/model:7b@v1", personas={name: "You."}))
    assert pool.ids == ("org/model:7b@v1", virtual_id("org/model:7b@v1", name))
    assert pool_of(entry(pool.ids[1])).ids == (pool.ids[1],)


def test_built_in_texts_are_resolved_in_either_place():
    text = builtin_personas()["solo_performance"]
    pool = pool_of(
        entry("a", persona="builtin:solo_performance"), entry("b", personas={"s": "builtin:solo_performance"})
    )
    assert pool.expert("a").persona == pool.expert("b.s").persona == text == persona_text("builtin:solo_performance")
    assert persona_text("You are terse.") == "You are terse."


def test_the_solo_persona_asks_for_what_the_extractor_reads():
    text = builtin_personas()["solo_performance"]
    for word in ("Participants:", "Finish collaboration!", "Final answer:"):
        assert f'"{word}"' in text
    said = "Participants: a chemist\nChemist: the answer is (A)?\nFinish collaboration!\nFinal answer: (B)"
    assert extract(said, TaskFormat(kind=AnswerKind.CHOICE)) == "B"


def test_a_personas_tokens_are_counted():
    limits = {"context_window": 60, "prices": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}
    plain, voice = pool_of(entry(personas={"long": "You are a patient teacher. " * 4}, **limits)).experts
    query = user_query("q", "What is it?")
    extra = persona_tokens(voice)
    assert extra > 20
    assert estimate_usage(voice, query).prompt_tokens == estimate_usage(plain, query).prompt_tokens + extra
    assert max_output_tokens(voice, query) < max_output_tokens(plain, query)


def test_each_persona_has_a_profile_of_its_own():
    pool = pool_of(entry(personas=TWO))
    outcomes = [
        Outcome(dataset="d", split="fit", question_id=f"q{n}", expert_id=expert_id, correct=float(n < right))
        for expert_id, right in zip(pool.ids, (1, 3, 2), strict=True)
        for n in range(4)
    ]
    questions = [Question(id=f"q{n}", text="?") for n in range(4)]
    profiles = fit_profiles(outcomes, questions)
    assert {expert_id: profiles[expert_id].overall.wins for expert_id in pool.ids} == dict(
        zip(pool.ids, (1.0, 3.0, 2.0), strict=True)
    )
