"""Measures every expert of the built-in pool on every task family, and prints the table.

    python -m experts_registry.local.evaluate [--n 50] [--expert NAME ...] [--json OUT]

Greedy decoding in left-padded batches on the test split; the base model is loaded once and the adapters are switched on
it. `generalist` is the base model as it is, without an adapter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from experts_registry.local import weights
from experts_registry.local.tasks import TASKS, generate, is_correct
from router_service.types import Question

__all__ = ["GENERALIST", "Score", "answer", "evaluate", "load_pool"]

GENERALIST: Final = "generalist"
"""The name under which the base model without an adapter is listed."""

MAX_NEW_TOKENS: Final = 24
"""Twice the longest reference answer; the generalist's sentences are seldom longer."""

BATCH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One cell of the table: how many of a family's questions an expert got right, and when."""

    expert: str
    task: str
    correct: int
    n: int
    wall_s: float


def load_pool(names: Sequence[str], *, adapters: Path = weights.ADAPTERS) -> tuple[Any, Any]:
    """The base model with the named adapters on it (none active yet), and its tokenizer."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = weights.base_model_dir()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    specialists = [name for name in names if name != GENERALIST]
    if specialists:
        first, *others = specialists
        model = PeftModel.from_pretrained(model, str(adapters / first), adapter_name=first)
        for name in others:
            model.load_adapter(str(adapters / name), adapter_name=name)
    return model.eval(), tokenizer


def answer(model: Any, tokenizer: Any, *, expert: str, questions: Sequence[str]) -> list[str]:
    """Greedy answers of one expert, in the questions' order."""
    order = sorted(range(len(questions)), key=lambda i: len(questions[i]))
    texts = [""] * len(questions)
    with _active(model, expert):
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            replies = _generate(model, tokenizer, questions=[questions[i] for i in batch])
            for index, reply in zip(batch, replies, strict=True):
                texts[index] = reply
    return texts


def _active(model: Any, expert: str) -> AbstractContextManager[object]:
    """A context in which the named adapter and no other is active; none at all for the generalist."""
    if expert != GENERALIST:
        model.set_adapter(expert)
        return nullcontext()
    without: AbstractContextManager[object] = (
        model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
    )
    return without


def _generate(model: Any, tokenizer: Any, *, questions: Sequence[str]) -> list[str]:
    import torch

    rendered = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in questions
    ]
    encoded = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(
            **encoded,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
    width = encoded["input_ids"].shape[1]
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return texts


def evaluate(experts: Sequence[str], *, n: int, adapters: Path = weights.ADAPTERS) -> list[Score]:
    """Every expert over `n` test questions of every family, with a progress bar; one cell per pair."""
    from rich.progress import track

    model, tokenizer = load_pool(experts, adapters=adapters)
    tests = [generate(task, "test", n=n) for task in TASKS]
    pairs = [(expert, questions) for expert in experts for questions in tests]
    return [
        _cell(model, tokenizer, expert=expert, questions=questions)
        for expert, questions in track(pairs, description="evaluating")
    ]


def _cell(model: Any, tokenizer: Any, *, expert: str, questions: Sequence[Question]) -> Score:
    began = time.perf_counter()
    texts = answer(model, tokenizer, expert=expert, questions=[q.text for q in questions])
    return Score(
        expert=expert,
        task=questions[0].category or "",
        correct=sum(map(is_correct, questions, texts)),
        n=len(questions),
        wall_s=time.perf_counter() - began,
    )


def _print_table(scores: Sequence[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    tasks = list(dict.fromkeys(score.task for score in scores))
    table = Table("expert", *tasks, "all", "s/100")
    for expert in dict.fromkeys(score.expert for score in scores):
        row = [score for score in scores if score.expert == expert]
        cells = [f"{100 * score.correct / score.n:.0f}" for score in row]
        seconds = 100 * sum(score.wall_s for score in row) / sum(score.n for score in row)
        table.add_row(expert, *cells, f"{_mean_percent(row):.1f}", f"{seconds:.1f}")
    best = [max((s for s in scores if s.task == task), key=lambda s: s.correct) for task in tasks]
    table.add_row("best expert of each task", *(score.expert for score in best), f"{_mean_percent(best):.1f}", "")
    Console(width=200).print(table)


def _mean_percent(row: Sequence[Score]) -> float:
    return 100 * sum(score.correct / score.n for score in row) / len(row)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of the command in the module's docstring."""
    known = [GENERALIST, *weights.adapter_names()]
    parser = argparse.ArgumentParser(prog="experts_registry.local.evaluate", description=__doc__)
    parser.add_argument("--n", type=int, default=50, help="test questions of each family")
    parser.add_argument("--expert", action="append", choices=known, metavar="NAME")
    parser.add_argument("--adapters", type=Path, default=weights.ADAPTERS)
    parser.add_argument("--json", type=Path, help="write the cells here too")
    options = parser.parse_args(argv)
    if options.n < 1:
        parser.error(f"--n must be at least 1, not {options.n}")
    scores = evaluate(options.expert or known, n=options.n, adapters=options.adapters)
    if options.json:
        cells = [dataclasses.asdict(score) for score in scores]
        options.json.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    _print_table(scores)


if __name__ == "__main__":
    main()
