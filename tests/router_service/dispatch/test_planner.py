"""The planner's laws: nothing lost, nothing doubled, each expert once a wave, answers independent of company."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.dispatch.planner import keys_of, plan_batches, remaining
from router_service.errors import InvalidQuery
from router_service.types import Recruit, RouteDecision
from tests.router_service.dispatch.fakes import decision, plan, query

DRAWS = st.dictionaries(st.text("pqr", min_size=1, max_size=3), st.text("ABCDE", max_size=5), max_size=6)
ROOT = Path(__file__).resolve().parents[3]


@given(DRAWS)
def test_no_assignment_is_lost_or_doubled(draws: dict[str, str]) -> None:
    asked = Counter((key[0], key[1]) for batch in plan(draws) for key in keys_of(batch))
    assert asked == Counter((query_id, expert_id) for query_id, drawn in draws.items() for expert_id in drawn)
    keys = [key for batch in plan(draws) for key in keys_of(batch)]
    assert len(keys) == len(set(keys))


@given(DRAWS)
def test_each_expert_gets_one_batch(draws: dict[str, str]) -> None:
    batches = plan(draws)
    assert [batch.expert_id for batch in batches] == list(dict.fromkeys("".join(draws.values())))


@given(DRAWS)
def test_a_query_is_asked_the_same_alone_and_in_company(draws: dict[str, str]) -> None:
    together = {(b.expert_id, a.query.id): a for b in plan(draws) for a in b.assignments}
    alone = {(b.expert_id, a.query.id): a for q, d in draws.items() for b in plan({q: d}) for a in b.assignments}
    assert together == alone


@given(DRAWS, st.data())
def test_the_remaining_batch_asks_for_exactly_what_is_missing(draws: dict[str, str], data: st.DataObject) -> None:
    for batch in plan(draws):
        keys = list(keys_of(batch))
        missing = data.draw(st.sets(st.sampled_from(keys)))
        left = remaining(batch, missing)
        assert list(keys_of(left)) == [key for key in keys if key in missing]
        assert all(assignment.samples > 0 for assignment in left.assignments)


def test_duplicates_are_samples_of_one_assignment() -> None:
    [batch] = plan({"q1": "BBB"})
    [assignment] = batch.assignments
    assert (assignment.samples, assignment.first_sample) == (3, 0)


def test_an_expert_listed_twice_is_asked_once() -> None:
    twice = RouteDecision(query_id="q", recruits=(Recruit(expert_id="A"), Recruit(expert_id="A")), recruiter="test")
    [batch] = plan_batches([(query("q"), twice)])
    assert [assignment.samples for assignment in batch.assignments] == [2]


def test_the_place_among_the_recruits_is_kept() -> None:
    batches = plan({"q1": "AB", "q2": "BA"})
    places = {(b.expert_id, a.query.id): a.position for b in batches for a in b.assignments}
    assert places == {("A", "q1"): 0, ("B", "q1"): 1, ("B", "q2"): 0, ("A", "q2"): 1}


def test_seeds_differ_by_expert_and_by_decision_only() -> None:
    def seed_of(expert_id: str, seed: int) -> int:
        [batch] = plan_batches([(query("q"), decision("q", expert_id, seed=seed))])
        return batch.assignments[0].seed

    assert seed_of("A", 1) == seed_of("A", 1)
    assert len({seed_of("A", 1), seed_of("A", 2), seed_of("B", 1)}) == 3


def test_later_waves_go_on_counting_samples() -> None:
    [batch] = plan_batches([(query("q"), decision("q", "AA"))], first_samples={("q", "A"): 3})
    assert list(keys_of(batch)) == [("q", "A", 3), ("q", "A", 4)]


def test_only_the_named_queries_stream() -> None:
    batches = plan_batches(
        [(query("q1"), decision("q1", "A")), (query("q2"), decision("q2", "A"))], streaming_ids={"q2"}
    )
    assert [a.streams for a in batches[0].assignments] == [False, True]


def test_one_id_for_two_queries_is_an_error() -> None:
    with pytest.raises(InvalidQuery, match="share the id 'q'"):
        plan_batches([(query("q"), decision("q", "A")), (query("q"), decision("q", "B"))])


def test_the_worked_example_of_symbolic_moe() -> None:
    path = Path(os.environ.get("ENLIST_GOLDEN", ROOT.parent / "shared" / "golden" / "seeds_golden.json"))
    if not path.exists():
        pytest.skip(f"NO GOLDEN FIXTURES: {path} is missing; set ENLIST_GOLDEN to the golden file to run this test")
    golden = json.loads(path.read_text(encoding="utf-8"))["symbolic_moe"]["batching"]
    grouped = plan(golden["recruits"])
    requests = {batch.expert_id: sum(a.samples for a in batch.assignments) for batch in grouped}
    assert requests == golden["requests"]
    assert sum(requests.values()) == 18
    assert len(grouped) == golden["loads_grouped"] == 3  # one batch is one load where one model fits at a time
    one_by_one = [batch for query_id, drawn in golden["recruits"].items() for batch in plan({query_id: drawn})]
    assert len(one_by_one) == golden["loads_per_question"] == 10
