"""Experts by modality and skill, exact names only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.errors import ConfigError
from router_service.recruit.modality import match_skills, skill_holders
from router_service.types import ImagePart, Message, Tally, TextPart
from tests.router_service.recruit.pools import SKILLS, expert, fit_data, profile, recruiter, request

NETS = {"algebraist": {"algebra": 4, "chess": 2}, "biologist": {"biology": 3}, "seer": {"biology": 2, "drama": 2}}


def pool():
    experts = [expert(i, modalities=frozenset({"text", "image"} if i == "seer" else {"text"})) for i in NETS]
    weak = {**NETS, "seer": {**NETS["seer"], "algebra": -2}}
    overall = {"algebraist": 6, "biologist": 9, "seer": 4}
    return fit_data(experts, {i: profile(i, n, overall=Tally(wins=overall[i], trials=12)) for i, n in weak.items()})


def decide(item, **options):
    (decision,) = recruiter("modality", pool(), **options).recruit([item])
    return decision


def panel(item, **options):
    return [r.expert_id for r in decide(item, **options).recruits]


def with_image(item):
    parts = (TextPart(text="What is this?"), ImagePart(url="https://example.org/leaf.png"))
    return replace(item, query=replace(item.query, messages=(Message(role="user", content=parts),)))


def test_everyone_with_a_needed_skill_is_asked_those_with_most_first():
    assert panel(request(["biology"])) == ["biologist", "seer"]
    assert panel(request({"biology": 1.0, "drama": 0.5})) == ["seer", "biologist"]
    assert panel(request(["algebra"])) == ["algebraist"]
    assert panel(request(["biology"], k=1)) == ["biologist"]


def test_images_go_only_to_who_reads_them():
    decision = decide(with_image(request(["biology"])))
    assert [r.expert_id for r in decision.recruits] == ["seer"]
    assert {e.expert_id: e.code for e in decision.eliminated} == {"algebraist": "modality", "biologist": "modality"}
    assert panel(with_image(request(["algebra"]))) == ["seer"]  # nobody who reads images: the generalist of those left


def test_a_strange_skill_is_left_out_and_said():
    decision = decide(request(["chess", "alchemy"]))
    assert [r.expert_id for r in decision.recruits] == ["algebraist"]
    assert "'alchemy'" in decision.fallback_reason and "left out" in decision.fallback_reason
    assert decide(request(["chess"])).fallback_reason is None


@pytest.mark.parametrize("skills", [(), ("alchemy",), ("Chess",)])
def test_nothing_that_matches_goes_to_the_generalist(skills):
    decision = decide(request(skills))
    assert [r.expert_id for r in decision.recruits] == ["biologist"]
    assert "the best on the fit questions is asked" in decision.fallback_reason


def test_the_floor_says_who_has_a_skill():
    assert panel(request(["algebra"]), floor=0.0) == ["algebraist", "seer"]
    with pytest.raises(ConfigError, match=r"floor is 1\.5"):
        recruiter("modality", pool(), floor=1.5)


@given(st.dictionaries(st.sampled_from([*SKILLS, "unseen"]), st.sampled_from([0.5, 1.0, 2.0])))
def test_matching_is_a_function_of_the_skill_names(skills):
    holders = skill_holders([pool().profiles.get(i) for i in NETS] + [None], floor=0.5)
    scores, strange = match_skills(holders, skills, size=4)
    assert scores[3] == 0.0 and set(strange) == skills.keys() - holders.keys()
    expected = [sum(skills.get(s, 0.0) for s, net in nets.items() if net >= 0) for nets in NETS.values()]
    assert scores[:3] == pytest.approx(expected)
    assert match_skills(holders, dict(reversed(skills.items())), size=4) == (pytest.approx(scores), strange)
