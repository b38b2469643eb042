"""The bench of batching on tiny real models: every way answers the same and loads what it says; no timing is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.perf import batching
from eval.perf._batching_report import BatchingBench, BatchingReport, measure, summary
from eval.perf._batching_runs import same_texts
from eval.perf._batching_scene import BatchingScale, bases, queries_of
from eval.perf._batching_simulated import paper_scene, simulated_speedup
from router_service.errors import ConfigError
from tests.router_service.backends.tiny_models import save_model

SCALE = BatchingScale(bases=4, questions=3, k=3, max_tokens=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_model(tmp_path_factory.mktemp("tiny") / "base"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENLIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def report(source: Path, cache: Path) -> BatchingReport:
    bench = BatchingBench(scale=SCALE, options={"threads": 1}, source=source, long_tokens=8, long_questions=1)
    return measure(bench)


@pytest.mark.slow
def test_each_way_loads_what_it_says_and_answers_the_same(report: BatchingReport, cache: Path) -> None:
    assert report.long is not None
    for comparison, naive_questions in ((report.short, 3), (report.long, 1)):
        naive, grouped, prefetched = comparison.naive, comparison.grouped, comparison.prefetched
        assert (naive.measured, naive.questions) == (naive_questions, 3)
        assert naive.loads == 3 * naive_questions
        assert grouped.loads == grouped.distinct_models == prefetched.loads == len({e for _, e, _ in grouped.texts})
        assert grouped.measured == prefetched.measured == 3
        assert naive.failed == grouped.failed == prefetched.failed == 0
        assert same_texts(naive, grouped) == (
            3 * naive_questions,
            3 * naive_questions,
            naive_questions,
            naive_questions,
        )
        assert grouped.texts == prefetched.texts
        assert naive.all_s == pytest.approx(naive.wall_s * 3 / naive_questions)
    assert not list(cache.iterdir())  # the made bases are gone


@pytest.mark.slow
def test_the_loop_over_questions_ends_at_its_limit(source: Path, cache: Path) -> None:
    bench = BatchingBench(scale=SCALE, options={"threads": 1}, source=source, naive_limit_s=0.0, long_questions=0)
    report = measure(bench)
    assert (report.short.naive.measured, report.short.naive.loads) == (1, 3)
    assert report.long is None
    assert "(by 1 of them)" in summary(report)


@pytest.mark.slow
def test_the_command_writes_the_figures(
    source: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures" / "batching.json"
    sizes = ["--bases=3", "--questions=2", "--max-tokens=2", "--long-questions=0"]
    batching.main(["--json", str(out), "--model", str(source), *sizes])
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["format"] == "enlist-perf-batching/1"
    for field in ("grouped_speedup_real", "grouped_prefetch_speedup_real", "grouped_speedup_simulated"):
        assert written[field] > 0
    short = written["short_answers"]
    assert [run["loads"] for run in short["runs"]] == [6, 3, 3]
    assert (short["completions_equal"], short["completions_compared"]) == (6, 6)
    assert {"machine", "date", "engine", "backend"} <= written.keys() and "torch" in written["engine"]
    assert "grouped_speedup_real" in capsys.readouterr().out


def test_a_backend_without_models_is_refused(source: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="'echo' loads no models"):
        measure(BatchingBench(scale=SCALE, backend="echo", source=source))


def test_bases_are_models_of_their_own(source: Path, cache: Path) -> None:
    with bases(3, source=source) as folders:
        assert len(set(folders)) == 3
        for folder in folders:
            assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
                f.name: f.read_bytes() for f in source.iterdir()
            }
    assert not any(folder.exists() for folder in folders)


def test_no_two_questions_are_alike() -> None:
    texts = [query.text for query in queries_of(BatchingScale(questions=60))]
    assert len(set(texts)) == 60


def test_the_papers_scene_saves_the_papers_factor() -> None:
    works = paper_scene()
    assert len(works) == 594 and len({work.footprint.model for work in works}) == 16
    found = simulated_speedup()
    assert (found.naive_loads, found.grouped_loads) == (594, 16)
    assert found.grouped >= 7.6
    assert found.grouped_prefetch > found.grouped
