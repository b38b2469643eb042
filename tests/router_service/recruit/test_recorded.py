"""The baselines on recorded answers of real models: known accuracies of known arithmetic, to the last question."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from experts_registry.profiles import fit_profiles
from router_service.recruit.base import FitData, RecruitRequest
from router_service.types import Expert, Outcome, Question, SkillAnnotation, stable_seed, user_query
from tests.router_service.recruit.pools import recruiter

DATA = Path(os.environ.get("ENLIST_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "mmlu_pro"


@pytest.fixture(scope="module")
def recorded():
    """Eight models on MMLU-Pro: what recruiters fit on, the test questions, and each model's answer to them."""
    if not DATA.is_dir():
        pytest.skip(f"NO RECORDED OUTCOMES: {DATA} is missing; set ENLIST_DATA to the folder that holds mmlu_pro")
    from pyarrow import parquet

    ids = json.loads((DATA / "dataset.json").read_text())["pools"]["inst8"]
    rows = parquet.read_table(DATA / "questions.parquet", filters=[("split", "in", ["fit", "test"])]).to_pylist()
    questions = {row["question_id"]: row for row in rows}
    outcomes = parquet.read_table(
        DATA / "outcomes.parquet",
        columns=["question_id", "model", "pred", "correct"],
        filters=[("model", "in", ids), ("question_id", "in", list(questions))],
    ).to_pylist()
    fit = [row for row in outcomes if questions[row["question_id"]]["split"] == "fit"]
    profiles = fit_profiles(
        [
            Outcome(dataset="d", split="fit", question_id=r["question_id"], expert_id=r["model"], correct=r["correct"])
            for r in fit
        ],
        [
            Question(id=r["question_id"], text="?", category=r["category"], skills=tuple(r["skills"] or ()))
            for r in rows
            if r["split"] == "fit"
        ],
    )
    data = FitData(experts=tuple(Expert(id=i, model=i, backend="replay") for i in ids), profiles=profiles)
    said = {(row["question_id"], row["model"]): row["pred"] for row in outcomes}
    return data, [row for row in rows if row["split"] == "test"], said


def accuracy(name: str, recorded) -> float:
    """Share of test questions that the recruited panel's majority gets right; ties go to the earlier recruit."""
    data, test, said = recorded
    requests = [
        RecruitRequest(
            query=user_query(row["question_id"], row["question"]),
            annotation=SkillAnnotation(
                query_id=row["question_id"], skills=dict.fromkeys(row["skills"] or (), 1.0), category=row["category"]
            ),
            seed=stable_seed(0, row["question_id"]),
        )
        for row in test
    ]
    right = 0
    for row, decision in zip(test, recruiter(name, data).recruit(requests), strict=True):
        votes: Counter[str] = Counter()
        for recruit in decision.recruits:
            answer = said.get((row["question_id"], recruit.expert_id))
            if answer is not None:
                votes[answer] += recruit.samples
        right += bool(votes) and votes.most_common(1)[0][0] == row["answer"]
    return right / len(test)


@pytest.mark.parametrize(("name", "expected"), [("best_single", 0.465), ("fixed", 0.505), ("all", 0.484)])
def test_baselines_are_exact(name, expected, recorded):
    assert round(accuracy(name, recorded), 3) == expected


def test_symbolic_is_within_the_noise_of_its_draws(recorded):
    """0.460 in one run of the released arithmetic."""
    assert 0.44 < accuracy("symbolic", recorded) < 0.49
