"""How often each expert of the built-in pool is right on vLLM and on transformers, greedily, on the same questions.

    python -m tests.router_service.backends.compare_engines [--n 100] [--expert NAME ...] [--json OUT]

On vLLM all experts are asked at once, in one engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

from router_service.backends.base import Backend
from router_service.backends.transformers import Transformers
from router_service.backends.vllm import Vllm
from tests.router_service.backends.real_engine import graded, local_experts, questions_for, real_python


async def shares(backend: Backend, name: str, chosen: list[str], *, n: int) -> dict[str, float]:
    """The share of right answers of each expert; all are asked at once."""
    experts = local_experts(name)
    for expert in experts.values():
        backend.check(expert)
    asked = [graded(backend, experts[expert_id], questions_for(experts[expert_id], n=n)) for expert_id in chosen]
    return {expert_id: sum(right) / n for expert_id, right in zip(chosen, await asyncio.gather(*asked), strict=True)}


async def compare(chosen: list[str], *, n: int) -> dict[str, object]:
    found: dict[str, dict[str, float]] = {}
    took_s: dict[str, float] = {}
    for name, backend in (("vllm", Vllm(python=real_python(), threads=1)), ("transformers", Transformers(threads=1))):
        began = time.perf_counter()
        found[name] = await shares(backend, name, chosen, n=n)
        took_s[name] = time.perf_counter() - began
        await backend.aclose()
    rows = {e: {"vllm": found["vllm"][e], "transformers": found["transformers"][e]} for e in chosen}
    most = max(abs(row["vllm"] - row["transformers"]) for row in rows.values())
    return {"n": n, "experts": rows, "largest_difference": most, "took_s": took_s}


def main() -> None:
    known = list(local_experts("vllm"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="questions of each expert's own task")
    parser.add_argument("--expert", action="append", choices=known)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = asyncio.run(compare(options.expert or known, n=options.n))
    text = json.dumps(report, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
