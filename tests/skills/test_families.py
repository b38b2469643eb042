"""Skill families: a total and idempotent map onto few names, the same whatever the order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError, NotFittedError
from skills.embedders.hashing import Hashing
from skills.families import SkillFamilies
from tests.skills.fakes import CountingEmbedder, TableEmbedder

SKILLS = [
    "algebra", "linear algebra", "abstract algebra", "algebraic geometry",
    "property law", "tax law", "law of contract", "constitutional law",
    "cell biology", "marine biology", "molecular biology",
]  # fmt: skip
EMBEDDER = Hashing(256)


def fitted(count: int = 3) -> SkillFamilies:
    return SkillFamilies(count, embedder=EMBEDDER).fit(SKILLS)


def test_what_belongs_together_comes_together():
    families = fitted()
    found = {frozenset(families.members(name)) for name in families.names}
    assert found == {frozenset(SKILLS[:4]), frozenset(SKILLS[4:8]), frozenset(SKILLS[8:])}


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=20), st.integers(1, 15))
def test_total_and_idempotent(skill, count):
    families = fitted(count)
    family = families.family_of(skill)
    assert family in families.names
    assert families.family_of(family) == family


@settings(deadline=None, max_examples=15)
@given(st.permutations(SKILLS), st.integers(1, 12), st.integers(0, 5))
def test_every_skill_has_one_family_and_order_does_not_matter(skills, count, seed):
    first = SkillFamilies(count, embedder=EMBEDDER, seed=seed).fit(SKILLS)
    again = SkillFamilies(count, embedder=EMBEDDER, seed=seed).fit([*skills, skills[0], " "])
    assert first.members_ == again.members_
    assert 1 <= len(first.names) <= count
    members = sorted(skill for name in first.names for skill in first.members(name))
    assert members == sorted(SKILLS)
    assert all(name in first.members(name) for name in first.names)
    assert first.families_of(SKILLS) == [next(n for n in first.names if s in first.members(n)) for s in SKILLS]


def test_named_after_the_most_central_skill():
    table = {"left": [1, -1, 0], "middle": [1, 0, 0], "right": [1, 1, 0], "far": [0, 0, 1]}
    families = SkillFamilies(2, embedder=TableEmbedder(table)).fit(["right", "left", "middle", "far"])
    assert families.names == ("far", "middle")
    assert families.members("middle") == ("left", "middle", "right")
    assert families.members("no such family") == ()


def test_skills_with_equal_vectors_share_a_family():
    table = {"a": [1, 0], "b": [1, 0], "c": [1, 0]}
    assert SkillFamilies(3, embedder=TableEmbedder(table)).fit("abc").names == ("a",)


def test_many_strange_skills_cost_one_embedding_call():
    embedder = CountingEmbedder()
    families = SkillFamilies(3, embedder=embedder).fit(SKILLS)
    embedder.batches.clear()
    families.families_of(["algebra", "algebraist", "lawyer", "algebraist"])
    assert embedder.batches == [["algebraist", "lawyer"]]


def test_saved_and_loaded_it_maps_the_same(tmp_path):
    families = fitted()
    families.save(tmp_path / "families")
    loaded = SkillFamilies(embedder=EMBEDDER).load(tmp_path / "families")
    strange = ["lawyer", "biologist", "", "algebra"]
    assert loaded.members_ == families.members_
    assert loaded.families_of(strange) == families.families_of(strange)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="1 or more"):
        SkillFamilies(0, embedder=EMBEDDER)
    with pytest.raises(ConfigError, match="at least one skill"):
        SkillFamilies(embedder=EMBEDDER).fit(["", " "])
    with pytest.raises(NotFittedError, match=r"fit\(skills\)"):
        SkillFamilies(embedder=EMBEDDER).family_of("algebra")
