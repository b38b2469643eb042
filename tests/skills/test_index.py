"""The skill index: known names are exact, unknown ones snap to the nearest, below the floor to none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.errors import ConfigError, NotFittedError
from router_service.types import Question
from skills.embedders.hashing import Hashing
from skills.index import SkillIndex
from tests.skills.fakes import CountingEmbedder, TableEmbedder

SKILLS = ["algebra", "linear algebra", "property law", "tax law", "virology"]
EMBEDDER = Hashing(256)


def fitted() -> SkillIndex:
    return SkillIndex(EMBEDDER).fit(SKILLS)


def test_known_names_match_themselves_without_any_embedding():
    embedder = CountingEmbedder()
    index = SkillIndex(embedder).fit(SKILLS)
    matches = index.match([*SKILLS, "  tax law "], floor=1.0)
    assert [m.skill for m in matches] == [*SKILLS, "tax law"]
    assert {m.similarity for m in matches} == {1.0}
    assert embedder.batches == []


def test_unknown_names_snap_and_each_is_embedded_once():
    embedder = CountingEmbedder()
    index = SkillIndex(embedder).fit(SKILLS)
    matches = index.match(["linear algebras", "virologist", "linear algebras"])
    assert [m.skill for m in matches] == ["linear algebra", "virology", "linear algebra"]
    assert all(m.skill == m.nearest and 0 < m.similarity < 1 for m in matches)
    assert embedder.batches == [sorted(SKILLS), ["linear algebras", "virologist"]] or embedder.batches == [
        ["linear algebras", "virologist"],
        sorted(SKILLS),
    ]


def test_below_the_floor_the_nearest_is_reported_but_not_taken():
    table = {"a": [1, 0], "b": [0, 1], "almost a": [4, 3]}
    index = SkillIndex(TableEmbedder(table)).fit(["a", "b"])
    (taken,) = index.match(["almost a"], floor=0.8)
    (left,) = index.match(["almost a"], floor=0.81)
    assert (taken.skill, taken.similarity) == ("a", 0.8)
    assert (left.skill, left.nearest, left.similarity) == (None, "a", 0.8)


def test_two_names_on_one_skill_count_twice():
    assert fitted().weights_of_each([["algebra", "algebras", "virology"]]) == [{"algebra": 2.0, "virology": 1.0}]
    assert fitted().weights_of_each([["algebra", "algebra"]]) == [{"algebra": 2.0}]


def test_weights_of_each_equal_weights_one_by_one():
    lists = [["algebra", "taxes"], [], ["law", "law of property"], ["zzz"]]
    index = fitted()
    assert index.weights_of_each(lists, 0.2) == [index.weights_of_each([names], 0.2)[0] for names in lists]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(max_size=12), max_size=6), st.permutations(SKILLS))
def test_order_is_kept_and_the_order_of_fitting_does_not_matter(names, skills):
    matches = fitted().match(names, floor=-1.0)
    assert [m.name for m in matches] == names
    assert matches == SkillIndex(EMBEDDER).fit([*skills, *skills, " ", ""]).match(names, floor=-1.0)
    assert all(m.skill in SKILLS for m in matches)


def test_an_index_without_skills_matches_nothing():
    (match,) = SkillIndex(EMBEDDER).fit([]).match(["algebra"])
    assert (match.skill, match.nearest, match.similarity) == (None, None, None)


def test_saved_and_loaded_it_matches_the_same_and_embeds_no_skill_again(tmp_path):
    fitted().save(tmp_path / "index")
    embedder = CountingEmbedder(Hashing(256))
    loaded = SkillIndex(embedder).load(tmp_path / "index")
    names = ["algebras", "tax", "virology"]
    assert loaded.match(names) == fitted().match(names)
    assert embedder.batches == [["algebras", "tax"]]


def test_loading_with_another_embedder_is_refused(tmp_path):
    fitted().save(tmp_path / "index")
    with pytest.raises(ConfigError, match="fitted with the embedder"):
        SkillIndex(Hashing(128)).load(tmp_path / "index")


@pytest.mark.parametrize("use", [lambda i, p: i.match(["a"]), lambda i, p: i.save(p), lambda i, p: i.require_fitted()])
def test_before_fit_it_says_so(use, tmp_path):
    with pytest.raises(NotFittedError, match=r"fit\(skills\)"):
        use(SkillIndex(EMBEDDER), tmp_path / "index")


def test_fitting_on_questions_takes_the_union_and_needs_one_skill():
    questions = [Question(id="1", text="?", skills=("b", "a")), Question(id="2", text="?", skills=("a", " "))]
    assert SkillIndex(EMBEDDER).fit_questions(questions).skills_ == ("a", "b")
    with pytest.raises(ConfigError, match="none of the 1 questions"):
        SkillIndex(EMBEDDER).fit_questions([Question(id="1", text="?")])
