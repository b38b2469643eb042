"""What was said is in the file before anybody hears of it, and comes again from there, with the time it took."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.file_memo import FileMemo
from eval.kept_calls import KeptCalls, keeping
from eval.line_file import LineFile
from eval.recorded_calls import RecordedCalls
from router_service.backends.base import ScoringBackend
from router_service.errors import ConfigError
from router_service.types import Assignment, Completion, Expert, ExpertBatch, Sampling, TextScore, user_query
from tests.router_service.parts import FakeBackend

GREEDY = Expert(id="greedy", model="m", backend="fake", sampling=Sampling(temperature=0))


class Reader(FakeBackend):
    """A fake that also reads texts: a nat a letter."""

    async def score(self, expert, texts):
        self.asked += [text for _, text in texts]
        return [TextScore(logprob_sum=-float(len(text)), tokens=len(text.split())) for _, text in texts]


async def said(backend, *texts):
    assignments = tuple(Assignment(query=user_query(f"q{i}", text)) for i, text in enumerate(texts))
    batch = ExpertBatch(expert_id="greedy", assignments=assignments)
    return [event async for event in backend.complete(GREEDY, batch) if isinstance(event, Completion)]


async def test_a_second_process_asks_nothing_that_the_first_one_did(tmp_path):
    path = tmp_path / "made" / "calls.jsonl"
    first = KeptCalls(FakeBackend(pause_s=0.01), path)
    texts = [completion.text for completion in await said(first, "one", "two")]
    again, inner = None, FakeBackend()
    again = KeptCalls(inner, path)
    assert [completion.text for completion in await said(again, "one", "two")] == texts
    assert (again.asked, inner.asked) == (0, [])
    assert again.spent_s == pytest.approx(first.spent_s, abs=0.001)
    assert first.spent_s >= 0.02
    await said(again, "three")
    assert again.asked == 1


async def test_half_a_line_of_a_killed_process_is_asked_again(tmp_path):
    path = tmp_path / "calls.jsonl"
    await said(KeptCalls(FakeBackend(), path), "one", "two")
    path.write_bytes(path.read_bytes()[:-20])
    again = KeptCalls(FakeBackend(), path)
    await said(again, "one", "two")
    assert again.asked == 1


async def test_a_new_setting_that_nobody_uses_changes_no_key(tmp_path):
    """Keys hold what differs from the default, so that a journal outlives a field that is added later."""
    path = tmp_path / "calls.jsonl"
    await said(KeptCalls(FakeBackend(), path), "one")
    batch = ExpertBatch(expert_id="greedy", assignments=(Assignment(query=user_query("q0", "one")),))
    for expert, asks in ((replace(GREEDY, memory_gib=3.0), 0), (replace(GREEDY, sampling=Sampling(top_p=0.5)), 1)):
        kept = KeptCalls(FakeBackend(), path)
        assert len([event async for event in kept.complete(expert, batch)]) == 1
        assert kept.asked == asks


async def test_scores_are_kept_where_the_inner_backend_reads(tmp_path):
    path = tmp_path / "calls.jsonl"
    texts = [(user_query("q", "Why?"), text) for text in ("so", "because of it")]
    assert not isinstance(keeping(FakeBackend(), path), ScoringBackend)
    first, inner = keeping(Reader(), path), Reader()
    assert isinstance(first, ScoringBackend)
    scores = await first.score(GREEDY, texts)
    again = keeping(inner, path)
    assert await again.score(GREEDY, [*texts, (texts[0][0], "new")]) == [*scores, TextScore(logprob_sum=-3.0, tokens=1)]
    assert inner.asked == ["new"]


async def test_a_memo_keeps_the_first_of_a_key(tmp_path):
    memo = FileMemo(tmp_path / "memo.jsonl")
    completion = Completion(query_id="q", expert_id="e", text="one")
    await memo.keep("k", completion)
    await memo.keep("k", replace(completion, text="two"))
    again = FileMemo(tmp_path / "memo.jsonl")
    assert (await again.recall(["k", "other"]))["k"].text == "one"
    assert again.n_kept == 1


def test_a_file_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        LineFile(tmp_path / "file" / "calls.jsonl")


async def test_recorded_calls_repeat_their_samples_and_fail_where_nothing_is():
    first, second = (Completion(query_id="q", expert_id="greedy", sample=i, text=f"{i}") for i in range(2))
    backend = RecordedCalls({"q0": [second, first]})
    batch = ExpertBatch(
        expert_id="greedy",
        assignments=(
            Assignment(query=user_query("q0", "?"), samples=3),
            Assignment(query=user_query("q1", "?")),
        ),
    )
    got = [event async for event in backend.complete(GREEDY, batch)]
    assert [(c.query_id, c.sample, c.text) for c in got] == [
        ("q0", 0, "0"), ("q0", 1, "1"), ("q0", 2, "0"), ("q1", 0, ""),
    ]  # fmt: skip
    assert got[3].error.code == "no_recorded_outcome"
    assert (backend.recorded("q0", "greedy"), backend.recorded("q1", "greedy")) == (2, 0)
