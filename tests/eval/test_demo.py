"""The demo's table: experts that know one thing each, a router that finds the right one, and honest gains."""

from __future__ import annotations

import json
from pathlib import Path

from eval.demo import compare, summarise, write_report
from eval.reuse import ReusingBackend
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.config import EngineConfig, PartConfig
from router_service.types import AnswerKind, Completion, Expert, Outcome, Question, Sampling
from tests.router_service.parts import FakeBackend, completion

TOPICS = {"birds": "feathers wings beak nest", "ships": "anchor mast harbour sail", "stars": "orbit galaxy comet moon"}


def question(topic: str, n: int, split: str) -> Question:
    words = TOPICS[topic].split()
    text = f"{topic} {words[n % 4]} {words[(n + 1) % 4]} question {split} {n}"
    return Question(
        id=f"{topic}-{split}-{n}",
        text=text,
        category=topic,
        answer=f"{topic}{n}",
        answer_kind=AnswerKind.LITERAL,
        split=split,
        skills=(topic,),
    )


FIT = [question(topic, n, "fit") for topic in TOPICS for n in range(6)]
TEST = [question(topic, n, "test") for topic in TOPICS for n in range(5)]
POOL = Pool(
    name="test",
    experts=tuple(Expert(id=topic, model="m", backend="fake", sampling=Sampling(temperature=0)) for topic in TOPICS),
)
CONFIG = EngineConfig(annotator=PartConfig(name="embedding", options={"embedder": "hashing", "neighbours": 3}))


def specialist(expert, assignment, sample) -> Completion:
    """Right on its own topic, wrong elsewhere."""
    topic, *_, n = assignment.query.text.split()
    return completion(expert, assignment, sample, f"{topic}{n}" if topic == expert.id else "no idea")


def fitted() -> Artefact:
    outcomes = [
        Outcome(dataset="t", split="fit", question_id=q.id, expert_id=topic, correct=float(q.category == topic))
        for q in FIT
        for topic in TOPICS
    ]
    return Artefact.fit(outcomes, FIT, pool_name="test")


def test_the_router_finds_the_specialist_and_the_table_says_so(tmp_path: Path) -> None:
    backend = ReusingBackend(FakeBackend(reply=specialist))
    rows = list(compare(POOL, fitted(), TEST, backends={"fake": backend}, config=CONFIG))
    report = summarise(rows, fitted())
    accuracy = {row.name: row.accuracy for row in rows}
    assert accuracy["symbolic 3 + majority"] == 1.0
    assert all(abs(accuracy[topic] - 1 / 3) < 1e-9 for topic in TOPICS)
    assert report.gains["symbolic 3 + weighted"][0] > 0.6
    assert report.row("ships").per_category == {"birds": 0.0, "ships": 1.0, "stars": 0.0}
    assert backend.asked < sum(round(row.calls_per_query * len(TEST)) for row in rows)
    write_report(tmp_path / "report.json", report)
    assert [row["name"] for row in json.loads((tmp_path / "report.json").read_text())["rows"]] == list(accuracy)


def test_experts_that_know_nothing_gain_nothing() -> None:
    backend = ReusingBackend(FakeBackend(reply=lambda e, a, s: completion(e, a, s, "no idea")))
    report = summarise(list(compare(POOL, fitted(), TEST, backends={"fake": backend}, config=CONFIG)), fitted())
    assert set(report.gains.values()) == {(0.0, 0.0, 0.0)}
