"""The bench of routing at a tiny size: it measures what it says, every time the same data; no timing is judged."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from eval.perf import routing
from eval.perf.plot import plot_growth
from eval.perf.report import RoutingBench, RoutingReport, measure
from eval.perf.scene import Scale, Scene, sentences
from eval.perf.timing import latency, per_second

TINY = Scale(experts=5, skills=12, fit_questions=40, queries=24, dimension=16, words=9)
BENCH = RoutingBench(
    scale=TINY,
    growth_experts=(3, 6),
    growth_fit_questions=20,
    growth_queries=8,
    recruiters=("fixed", "symbolic", "named"),
    embedders=("hashing", "nonesuch"),
    texts=3,
    repeats=2,
)


@pytest.fixture(scope="module")
def report() -> RoutingReport:
    return measure(BENCH)


def test_every_figure_is_there_and_makes_sense(report: RoutingReport) -> None:
    measured = [speed for speed in report.recruiters if speed.skipped is None]
    assert [speed.recruiter for speed in measured] == ["fixed", "symbolic"]
    for speed in measured:
        assert speed.recruit_per_s and speed.recruit_per_cpu_s and speed.fit_s is not None
        assert speed.decision_p50_ms and speed.decision_p99_ms
        assert 0 < speed.decision_p50_ms <= speed.decision_p99_ms
    (named,) = (speed for speed in report.recruiters if speed.skipped)
    assert (named.recruiter, named.skipped) == ("named", "recruits nobody for these queries")
    assert named.recruit_per_s is None


def test_growth_has_every_size(report: RoutingReport) -> None:
    assert {(speed.recruiter, speed.experts) for speed in report.growth} == {
        (name, size) for name in BENCH.recruiters for size in BENCH.growth_experts
    }


def test_embedding_is_compared_in_turns_and_an_unknown_embedder_left_out(report: RoutingReport) -> None:
    hashing, unknown = report.embedders
    assert hashing.embedding_ms and hashing.cold_ms and hashing.warm_ms and hashing.cold_over_embedding
    assert hashing.embed_per_s and hashing.embed_per_s_batch_8 and hashing.embed_per_s_batch_32
    assert hashing.remembered_per_s
    assert unknown.embedding_ms is None and "unknown embedder" in (unknown.skipped or "")


def test_aims_say_whether_they_are_met(report: RoutingReport) -> None:
    aims = {(aim.what, aim.of): aim for aim in report.aims}
    assert set(aims) == {(w, r) for w in ("recruit_per_s", "decision_p99_ms") for r in ("fixed", "symbolic")}
    for (what, _), aim in aims.items():
        assert aim.is_met == (aim.value >= aim.limit if what == "recruit_per_s" else aim.value <= aim.limit)


def test_a_recruiter_whose_fit_would_take_too_long_is_left_out() -> None:
    bench = RoutingBench(
        scale=TINY,
        growth_experts=(3, 6),
        growth_fit_questions=20,
        growth_queries=8,
        recruiters=("fixed",),
        embedders=(),
        repeats=1,
        max_fit_s=0.0,
    )
    first, second = measure(bench).growth
    assert first.skipped is None
    assert second.skipped is not None and "over 0 s" in second.skipped


def test_the_document_names_no_machine(report: RoutingReport, tmp_path: Path) -> None:
    text = json.dumps(report.as_json())
    assert os.uname().nodename not in text and str(Path.cwd()) not in text and str(Path.home()) not in text
    document = json.loads(text)
    assert set(document) == {"format", "date", "machine", "scale", "aims", "recruiters", "growth", "embedders"}
    assert document["machine"]["cores"] == os.cpu_count()


def test_the_plot_shows_every_recruiter(report: RoutingReport, tmp_path: Path) -> None:
    plot_growth(report.growth, tmp_path / "deep" / "growth.svg")
    drawn = (tmp_path / "deep" / "growth.svg").read_text()
    assert drawn.startswith("<?xml") and len(drawn) > 5000


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in (*routing.THREADS, "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(variable, "7")  # put back afterwards
    routing.main(["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.svg")], bench=BENCH)
    printed = capsys.readouterr()
    document = json.loads((tmp_path / "out.json").read_text())
    assert (document["format"], document["machine"]["threads"]) == ("enlist-perf-routing/1", "1")
    assert (tmp_path / "out.svg").exists()
    assert "recruit_per_s" in printed.out and "left out: named" in printed.out
    assert "growth over 3, 6 experts" in printed.err


def test_the_same_scale_makes_the_same_scene() -> None:
    first, second = Scene(TINY), Scene(TINY)
    assert first.artefact.version == second.artefact.version
    assert first.queries == second.queries
    assert np.array_equal(first.vectors, second.vectors)
    assert {skill for question in first.artefact.questions for skill in question.skills} == {
        f"skill {number}" for number in range(TINY.skills)
    }


@pytest.mark.parametrize(("count", "words"), [(1, 1), (500, 3), (3000, 10)])
def test_made_up_texts_differ_and_have_so_many_words(count: int, words: int) -> None:
    texts = sentences(count, words)
    assert len(set(texts)) == count
    assert {len(text.split()) for text in texts} == {words}


def test_medians_and_percentiles_by_hand() -> None:
    passes = [[(0.001, 0.001), (0.003, 0.002)], [(0.005, 0.001), (0.007, 0.004)], [(0.002, 0.001), (0.002, 0.001)]]
    found = latency(passes)
    assert (found.p50_ms, found.p50_cpu_ms) == pytest.approx((2.0, 1.5))
    assert found.p99_ms == pytest.approx(2.98)
    by_clock, by_work = per_second(10, [(2.0, 1.0), (1.0, 1.0), (5.0, 2.0)])
    assert (by_clock, by_work) == (5.0, 10.0)
    assert math.isfinite(per_second(1, [(1.0, 0.0)])[1])
