"""The bench of streaming at a small size: real processes and a real server; its bars are generous here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval.perf import streaming
from eval.perf._streaming_runs import EarlyStop, Spread, StreamingBench, StreamingReport

BENCH = StreamingBench(requests=12, at_once=3, panel_s=0.4, straggler_s=1.5, votes=5)
QUICK = Spread(count=3, p50_ms=1.0, p99_ms=2.0, max_ms=2.0)
REPORT = StreamingReport(
    first_byte=QUICK,
    first_token=QUICK,
    all_tokens=QUICK,
    early_stop=EarlyStop(
        votes=2,
        calls_saved_per_vote=1.0,
        answered_early_s=0.5,
        answered_heard_out_s=3.0,
        straggler_dropped=2,
        straggler_finished=0,
        answers_equal=2,
    ),
)


def test_a_report_says_which_bars_it_keeps() -> None:
    assert all(aim.is_met for aim in REPORT.aims)
    late = replace(QUICK, p99_ms=60.0)
    idle = replace(REPORT.early_stop, calls_saved_per_vote=0.5, answered_early_s=2.9)
    missed = replace(REPORT, first_byte=late, first_token=late, early_stop=idle)
    assert not any(aim.is_met for aim in missed.aims)
    figures = missed.as_json()
    assert figures["first_byte"] == {"count": 3, "p50_ms": 1.0, "p99_ms": 60.0, "max_ms": 2.0}
    assert figures["saved_s_per_vote"] == pytest.approx(0.1)


@pytest.mark.slow
def test_callers_read_at_once_and_stragglers_are_stopped(tmp_path: Path, capsys) -> None:
    target = tmp_path / "streaming.json"
    streaming.main(["--json", str(target)], bench=BENCH)
    figures = json.loads(target.read_text())
    assert figures["first_byte"]["count"] == figures["first_token"]["count"] == BENCH.requests
    assert figures["all_tokens"]["count"] == 20 * BENCH.requests
    assert figures["first_byte"]["p50_ms"] < 200 < 1000 * BENCH.panel_s
    assert figures["first_token"]["p50_ms"] < 100
    early = figures["early_stop"]
    assert early["calls_saved_per_vote"] == 1 and early["answers_equal"] == BENCH.votes
    assert early["straggler_dropped"] == BENCH.votes + 1 and early["straggler_finished"] == 0  # one warms up
    assert early["answered_early_s"] < BENCH.straggler_s <= early["answered_heard_out_s"]
    assert "calls saved per vote" in capsys.readouterr().out
