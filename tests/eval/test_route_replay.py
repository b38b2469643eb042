"""Decisions made again: what changed is named, what did not is not, and the seed is the one used then."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from eval.route_replay import RouteReplay, replay_decisions
from router_service.decision_log import DecisionRecord
from router_service.types import DecisionMade, Query, Recruit, RouteDecision, user_query
from tests.router_service.parts import Everyone, FakeBackend, engine_of


@dataclass
class Rated(Everyone):
    """Everyone, with a chance and a score for each; breaks on queries that hold `impossible`."""

    p: float = 0.6
    aggregator: str | None = None

    def _decision(self, request) -> RouteDecision:
        if "impossible" in request.query.text:
            raise ZeroDivisionError("no way")
        recruits = tuple(Recruit(expert_id=i, samples=self.samples, score=self.p, p_correct=self.p) for i in self.ids)
        return RouteDecision(
            query_id=request.query.id,
            recruits=recruits,
            recruiter="rated",
            scores={**dict.fromkeys(self.ids, self.p), "nobody": math.nan},
            seed=request.seed,
        )


def engine(**options):
    return engine_of(FakeBackend(), recruiter=Rated(**{"ids": ("a", "b"), **options}))


async def log_of(queries: list[Query], **options) -> list[DecisionRecord]:
    made = await engine(**options).route(queries)
    return [
        DecisionRecord(time="t", query=query, annotation=one.annotation, decision=one.decision)
        for query, one in zip(queries, made, strict=True)
        if isinstance(one, DecisionMade)
    ]


QUERIES = [user_query(f"q{number}", f"algebra {number}") for number in range(3)]


async def test_the_same_engine_changes_nothing() -> None:
    report = await replay_decisions(engine(), await log_of(QUERIES))
    assert (len(report.changes), report.n_other_panels, report.n_other_numbers, report.n_failed) == (3, 0, 0, 0)
    assert report.mean_p_correct_shift == 0
    assert report.shares == {"a": (0.5, 0.5), "b": (0.5, 0.5)}


async def test_other_experts_are_named() -> None:
    report = await replay_decisions(engine(ids=("b", "c"), p=0.7), await log_of(QUERIES))
    assert [(change.joined, change.left) for change in report.changes] == [(("c",), ("a",))] * 3
    assert report.n_other_panels == 3
    assert report.mean_p_correct_shift == pytest.approx(0.1)
    assert report.shares == {"a": (0.5, 0.0), "c": (0.0, 0.5), "b": (0.5, 0.5)}
    one = report.changes[0].as_json()
    assert (one["joined"], one["left"], one["question"]) == (["c"], ["a"], "algebra 0")
    assert one["scores"] == {"a": [0.6, None], "b": [0.6, 0.7], "nobody": [None, None], "c": [None, 0.7]}
    assert report.as_json()["shares"]["c"] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("options", "panels", "numbers"), [({"p": 0.65}, 0, 3), ({"samples": 2}, 3, 0), ({"p": 0.6 + 1e-12}, 0, 0)]
)
async def test_numbers_and_panels_are_told_apart(options, panels, numbers) -> None:
    report = await replay_decisions(engine(**options), await log_of(QUERIES))
    assert (report.n_other_panels, report.n_other_numbers) == (panels, numbers)


async def test_another_aggregator_is_another_panel() -> None:
    records = await log_of(QUERIES)
    records[1] = replace(records[1], decision=replace(records[1].decision, aggregator="first"))
    report = await replay_decisions(engine(), records)
    assert [change.has_other_panel for change in report.changes] == [False, True, False]


async def test_what_can_no_longer_be_decided_is_a_change_of_its_own() -> None:
    [record] = await log_of([user_query("q", "algebra")])
    impossible = replace(record, query=replace(record.query, messages=user_query("q", "impossible").messages))
    report = await replay_decisions(engine(), [record, impossible])
    assert (report.n_failed, report.n_other_panels) == (1, 1)
    failed = report.changes[1]
    assert (failed.left, failed.joined, failed.p_correct_shift) == (("a", "b"), (), None)
    assert failed.as_json()["failure"]["code"] == "routing_error"


async def test_the_seed_of_the_log_is_used_and_ids_may_repeat() -> None:
    records = await log_of([user_query("question", "algebra", seed=41)]) * 3
    seen = []

    @dataclass
    class Noting(Rated):
        def recruit(self, requests):
            seen.extend((request.query.id, request.seed) for request in requests)
            return super().recruit(requests)

    asked = []
    noting = engine_of(FakeBackend(), recruiter=Noting(("a", "b")))
    report = await replay_decisions(noting, records, on_progress=lambda done, total: asked.append((done, total)))
    assert seen == [("question", 41)] * 3
    assert asked == [(1, 3), (2, 3), (3, 3)]
    assert report.n_other_panels == 0


def test_an_empty_log_has_an_empty_summary() -> None:
    report = RouteReplay(changes=())
    assert report.as_json() == {
        "decisions": 0,
        "other_panel": 0,
        "other_numbers": 0,
        "failed": 0,
        "mean_p_correct_shift": None,
        "shares": {},
    }
