"""Reading an LLM's reply and voting over runs, as the released code of Symbolic-MoE does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.errors import ConfigError
from skills.vote import SkillVote, parse_skills

GOLDEN = Path(os.environ.get("ENLIST_GOLDEN", Path(__file__).parents[2] / "../shared/golden/seeds_golden.json"))


def golden_vote() -> dict:
    if not GOLDEN.is_file():
        pytest.skip(f"NO GOLDEN FIXTURES at {GOLDEN}: set ENLIST_GOLDEN to the file to run this test")
    return json.loads(GOLDEN.read_text())["symbolic_moe"]["keyword_vote"]


def test_the_golden_vote():
    golden = golden_vote()
    assert list(SkillVote().kept(golden["runs"])) == golden["kept"]


@pytest.mark.parametrize(
    ("reply", "names"),
    [
        ("Keywords: Algebra, Number Theory", ("algebra", "number theory")),
        ("I think. Keywords: wrong\nNo. Keywords: right, Also Right.", ("right", "also right")),
        ("algebra, geometry", ("algebra", "geometry")),
        ("Keywords:\n  algebra ,\n geometry .\n", ("algebra", "geometry")),
        ("Keywords: , ,. ,algebra,,", ("algebra",)),
        ("Keywords: e.coli, U.S. history", ("ecoli", "us history")),
        ("Keywords: counting, counting", ("counting", "counting")),
        ("Keywords:", ()),
        ("", ()),
    ],
)
def test_replies_are_read(reply, names):
    assert parse_skills(reply) == names


@given(st.text())
def test_any_reply_gives_clean_names(reply):
    for name in parse_skills(reply):
        assert name == name.strip() != ""
        assert "," not in name and "." not in name


def test_a_name_twice_in_one_run_passes_only_where_occurrences_count():
    runs = [["counting", "counting"], ["algebra"], ["algebra"]]
    assert SkillVote().kept(runs) == ("counting", "algebra")
    assert SkillVote(count_once_per_run=True).kept(runs) == ("algebra",)


def test_length_and_votes_are_options():
    long = "probability and statistics"
    assert SkillVote().kept([["x" * 20, "y" * 21]] * 2) == ("x" * 20,)
    assert SkillVote().kept([[long]] * 5) == ()
    assert SkillVote(max_characters=26).kept([[long]] * 5) == (long,)
    assert SkillVote(min_votes=3).kept([["a", "b"], ["a", "b"], ["a"]]) == ("a",)
    assert SkillVote(min_votes=1).kept([["a", "b"]]) == ("a", "b")


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=4), max_size=6))
def test_counting_runs_never_keeps_more_than_counting_occurrences(runs):
    assert set(SkillVote(count_once_per_run=True).kept(runs)) <= set(SkillVote().kept(runs))


@pytest.mark.parametrize("options", [{"min_votes": 0}, {"max_characters": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match="1 or more"):
        SkillVote(**options)
