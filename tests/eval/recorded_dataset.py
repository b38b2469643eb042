"""A small dataset in the replay format, written where a test wants it, and the place of the big recorded ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

__all__ = ["recorded_folder", "write_dataset"]

SKILLS = {"number": "arithmetic", "choice": "geography"}


def recorded_folder(name: str) -> Path:
    """A recorded dataset's folder; skips where there is none."""
    root = Path(os.environ.get("ENLIST_DATA", Path(__file__).parents[2] / "../shared/data"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED: no recorded dataset at {folder}; set ENLIST_DATA to the folder that holds {name}")
    return folder


def write_dataset(folder: Path, *, has_skills: bool = True, has_answers: bool = True, name: str = "tiny") -> Path:
    """Two kinds of questions, twelve of each per split, and three models.

    `counter` is right on every number and wrong on every choice, `traveller` the other way round, `guesser` says
    something unreadable; the outcome of `guesser` on the first test question of a kind is missing. Questions of a kind
    have the same texts in both splits, as no real dataset should.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    questions, outcomes = [], []
    for split in ("fit", "test"):
        for kind, number in ((kind, number) for kind in SKILLS for number in range(12)):
            question = _question(split, kind, number, has_skills=has_skills, has_answers=has_answers)
            questions.append(question)
            outcomes += [
                _outcome(question, model, kind=kind, has_answers=has_answers)
                for model in ("counter", "traveller", "guesser")
                if not (model == "guesser" and split == "test" and number == 0)
            ]
    pq.write_table(pa.Table.from_pylist(questions), folder / "questions.parquet")
    pq.write_table(pa.Table.from_pylist(outcomes), folder / "outcomes.parquet")
    card = {
        "name": name,
        "pools": {"trio": ["counter", "traveller", "guesser"], "duo": ["traveller", "counter"]},
        "prices": {"counter": {"usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0, "basis": "list price"}},
    }
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def _question(split: str, kind: str, number: int, *, has_skills: bool, has_answers: bool) -> dict[str, Any]:
    return {
        "question_id": f"{split}-{kind}-{number}",
        "benchmark": "tiny",
        "category": SKILLS[kind],
        "subject": None,
        "question": f"What is {number} + 1?" if kind == "number" else f"Which of these is capital number {number}?",
        "options": ["Paris", "Lima"] if kind == "choice" else None,
        "answer": (str(number + 1) if kind == "number" else "A") if has_answers else None,
        "answer_kind": kind if has_answers else "none",
        "split": split,
        "skills": [SKILLS[kind]] if has_skills else None,
    }


def _outcome(question: dict[str, Any], model: str, *, kind: str, has_answers: bool) -> dict[str, Any]:
    is_right = (model == "counter") == (kind == "number") and model != "guesser"
    wrong = None if model == "guesser" else "B" if kind == "choice" else "-1"
    return {
        "question_id": question["question_id"],
        "model": model,
        "sample": 0,
        "pred": (question["answer"] if is_right else wrong) if has_answers else None,
        "correct": float(is_right),
        "cost_usd": 0.001 if has_answers else None,
        "prompt_tokens": 10,
        "completion_tokens": 5,
    }
