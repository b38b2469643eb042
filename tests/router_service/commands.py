"""A working folder with a pool of echoing experts, and a way to run commands in it."""

from __future__ import annotations

import json
from pathlib import Path

from router_service.cli import main

__all__ = ["ENGINE", "run_command", "write_fit_questions", "write_folder"]

_EXPERTS = {"four": "The answer is 4.", "seven": "The answer is 7.", "newcomer": "The answer is 4."}
_PRICE = "{input_usd_per_mtok: 1.0, output_usd_per_mtok: 1.0}"

CONFIG = """
pool: experts.yaml
annotator: {name: embedding, options: {embedder: hashing}}
recruiter: symbolic
aggregator: majority
"""

ENGINE = ("--pool", "experts.yaml", "--config", "enlist.yaml")


def write_folder(folder: Path) -> None:
    """Three echoing experts, a configuration, and two categories of twelve fit questions."""
    lines = [
        f"  - {{id: {name}, model: m, backend: echo, options: {{reply: {reply!r}}}, prices: {_PRICE}}}"
        for name, reply in _EXPERTS.items()
    ]
    (folder / "experts.yaml").write_text("experts:\n" + "\n".join(lines) + "\n")
    (folder / "enlist.yaml").write_text(CONFIG)
    write_fit_questions(folder)


def write_fit_questions(folder: Path) -> None:
    """Two categories of twelve graded questions, as `fit.jsonl`."""
    with (folder / "fit.jsonl").open("w") as file:
        for category, answer in (("fours", "4"), ("sevens", "7")):
            for number in range(12):
                record = {
                    "id": f"{category}-{number}",
                    "question": f"a question about {category}, number {number}",
                    "answer": answer,
                    "answer_kind": "number",
                    "category": category,
                    "skills": [f"{category} sense"],
                }
                file.write(json.dumps(record) + "\n")


def run_command(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `enlist` with these arguments."""
    code: object = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code or 0
    printed = capsys.readouterr()
    assert isinstance(code, int)
    return code, printed.out, printed.err
