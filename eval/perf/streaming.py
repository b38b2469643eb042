"""The bench of streaming, `python -m eval.perf.streaming --json OUT`: how soon callers read, and what stopping saves.

A real server over a made-up upstream on this machine, each in a process of its own: the first byte of a stream while a
slow panel works, tokens of an answer that an expert writes against the upstream's own clock, and votes of five with one
straggler, stopped early and heard out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.perf._streaming_runs import StreamingBench, measure

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None, *, bench: StreamingBench | None = None) -> None:
    """Measure, write what was asked for, and print the aims; `bench` goes before what the arguments say of it."""
    usual = StreamingBench()
    parser = argparse.ArgumentParser(prog="python -m eval.perf.streaming", description="How soon callers read.")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--requests", type=int, default=usual.requests, help="streams of each run")
    parser.add_argument("--at-once", type=int, default=usual.at_once, help="streams that are open at the same time")
    given = parser.parse_args(arguments)
    asked = StreamingBench(requests=given.requests, at_once=given.at_once)
    report = measure(bench or asked, progress=lambda text: print(text, file=sys.stderr, flush=True))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    for aim in report.aims:
        bar = "at least" if aim.is_least else "at most"
        print(f"{'met   ' if aim.is_met else 'MISSED'} {aim.what:32} {aim.value:8.3f}  aim {bar} {aim.limit:g}")


if __name__ == "__main__":
    main()
