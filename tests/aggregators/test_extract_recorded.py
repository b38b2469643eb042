"""Extraction against recorded answers of real models: what others read out of the same texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aggregators.equivalence import same_answer
from aggregators.extract import extract
from router_service.types import AnswerKind, TaskFormat

DATA = Path(os.environ.get("ENLIST_DATA", Path(__file__).parents[3] / "shared/data"))
EVERY = 11
"""Every eleventh response is enough, and spreads over all models and questions."""


def rows(dataset, name, columns):
    path = DATA / dataset / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"RECORDED ANSWERS NOT CHECKED: no file at {path}; set ENLIST_DATA to the folder of datasets")
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=columns).to_pylist()


@pytest.mark.parametrize(("dataset", "kinds", "floor"), [("mmlu_pro", "choice", 0.98), ("zeroeval", "number", 0.9)])
def test_we_read_what_the_recorders_read(dataset, kinds, floor):
    questions = {
        row["question_id"]: row for row in rows(dataset, "questions", ["question_id", "options", "answer_kind"])
    }
    recorded = {
        (row["question_id"], row["model"]): row["pred"]
        for row in rows(dataset, "outcomes", ["question_id", "model", "pred"])
    }
    same = seen = 0
    for row in rows(dataset, "responses", ["question_id", "model", "response"])[::EVERY]:
        question = questions[row["question_id"]]
        theirs = recorded.get((row["question_id"], row["model"]))
        if question["answer_kind"] != kinds or theirs is None:
            continue
        kind = AnswerKind(question["answer_kind"])
        ours = extract(row["response"] or "", TaskFormat(kind=kind, options=tuple(question["options"] or ())))
        seen += 1
        same += ours is not None and same_answer(ours, theirs, kind)
    assert seen > 300
    assert same / seen >= floor, f"{same} of {seen} answers are the recorded ones"
