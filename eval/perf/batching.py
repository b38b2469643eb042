"""The bench of batching, `python -m eval.perf.batching --json OUT`: what it saves to load each model once for all.

The same questions, each of several experts with a base model of its own, are answered by a loop over questions, as one
wave, and as one wave with the next model loaded ahead; on real engines, and on made-up time with the paper's figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.perf._batching_report import BatchingBench, measure, summary
from eval.perf._batching_scene import BatchingScale

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures, and print them."""
    given = _parser().parse_args(arguments)
    report = measure(_bench(given), progress=lambda text: print(text, file=sys.stderr, flush=True))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    print(summary(report))


def _parser() -> argparse.ArgumentParser:
    usual = BatchingBench()
    parser = argparse.ArgumentParser(prog="python -m eval.perf.batching", description="What grouping by model saves.")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--backend", default=usual.backend, help="transformers or vllm")
    parser.add_argument("--python", help="interpreter that has vLLM, for --backend vllm")
    parser.add_argument("--model", type=Path, help="folder of the base that is copied; the built-in one unless given")
    parser.add_argument("--memory-gib", type=float, default=usual.memory_gib, help="memory of one such base")
    parser.add_argument("--bases", type=int, default=usual.scale.bases, help="how many of them")
    parser.add_argument("--questions", type=int, default=usual.scale.questions)
    parser.add_argument("--max-tokens", type=int, default=usual.scale.max_tokens, help="limit of the short answers")
    parser.add_argument("--long-tokens", type=int, default=usual.long_tokens, help="limit of the longer answers")
    parser.add_argument(
        "--long-questions", type=int, default=usual.long_questions, help="longer ones of the loop; 0 leaves them out"
    )
    parser.add_argument(
        "--naive-limit-s", type=float, default=usual.naive_limit_s, help="the loop over questions ends after so long"
    )
    return parser


def _bench(given: argparse.Namespace) -> BatchingBench:
    scale = BatchingScale(bases=given.bases, questions=given.questions, max_tokens=given.max_tokens)
    return BatchingBench(
        scale=scale,
        backend=given.backend,
        options={"python": given.python} if given.python else None,
        source=given.model,
        memory_gib=given.memory_gib,
        naive_limit_s=given.naive_limit_s,
        long_tokens=given.long_tokens,
        long_questions=given.long_questions,
    )


if __name__ == "__main__":
    main()
