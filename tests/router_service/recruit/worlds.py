"""Made-up worlds of experts with answers, for what learns from who said what."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from experts_registry.profiles import fit_profiles
from router_service.recruit.base import FitData, RecruitRequest
from router_service.types import (
    AnswerKind,
    Completion,
    Outcome,
    Question,
    RouteControls,
    SkillAnnotation,
    TaskFormat,
    Usage,
    user_query,
)
from tests.router_service.recruit.pools import expert, vector

DIMENSION = 8


@dataclass(frozen=True)
class World:
    """`accuracy[category][expert]`: how often each expert is right; wrong answers are drawn from three letters, alike
    for all `twins`."""

    accuracy: Sequence[Sequence[float]]
    twins: tuple[int, ...] = ()
    seed: int = 0

    @property
    def experts(self) -> int:
        return len(self.accuracy[0])

    def said(self, count: int, *, seed: int) -> list[tuple[int, list[str]]]:
        """Category and letters of every expert, per question; "A" is right."""
        random = np.random.default_rng([self.seed, seed])
        rows = []
        for number in range(count):
            category = number % len(self.accuracy)
            luck, slip = random.random(self.experts), random.integers(0, 3, self.experts)
            for twin in self.twins[1:]:
                luck[twin], slip[twin] = luck[self.twins[0]], slip[self.twins[0]]
            right = luck < np.array(self.accuracy[category])
            rows.append((category, ["A" if ok else "BCD"[wrong] for ok, wrong in zip(right, slip, strict=True)]))
        return rows

    def data(self, count: int = 200) -> FitData:
        """Graded outcomes with embeddings that show the category."""
        outcomes, questions, annotations = [], {}, {}
        for number, (category, letters) in enumerate(self.said(count, seed=1)):
            question_id = f"q{number:04}"
            questions[question_id] = Question(
                id=question_id, text="?", category=f"c{category}", answer="A", answer_kind=AnswerKind.CHOICE
            )
            annotations[question_id] = self.annotation(question_id, category, number)
            for place, letter in enumerate(letters):
                outcomes.append(
                    Outcome(
                        dataset="d",
                        split="fit",
                        question_id=question_id,
                        expert_id=f"e{place}",
                        extracted=letter,
                        correct=float(letter == "A"),
                    )
                )
        return FitData(
            experts=tuple(expert(f"e{place}") for place in range(self.experts)),
            profiles=fit_profiles(outcomes, questions.values()),
            outcomes=tuple(outcomes),
            annotations=annotations,
            questions=questions,
            embed=lambda texts: [vector(text) for text in texts],
        )

    def annotation(self, query_id: str, category: int, number: int) -> SkillAnnotation:
        direction = np.random.default_rng([7, category]).normal(size=DIMENSION)
        noise = np.random.default_rng([8, category, number]).normal(scale=0.4, size=DIMENSION)
        row = ((direction + noise) / np.linalg.norm(direction + noise)).astype(np.float32)
        skills = {f"s{category}": 1.0}
        embedding = array("f", row.tobytes())
        return SkillAnnotation(query_id=query_id, category=f"c{category}", skills=skills, embedding=embedding)

    def request(self, category: int = 0, *, number: int = 10_000, **controls) -> RecruitRequest:
        """A query of that category, new unless its number is that of a fit question."""
        task_format = TaskFormat(kind=AnswerKind.CHOICE, options=("w", "x", "y", "z"))
        query = user_query(f"new{number}", "Which?", task_format=task_format)
        query = replace(query, controls=RouteControls(**controls))
        return RecruitRequest(query=query, annotation=self.annotation(query.id, category, number))


def completion(place: int, letter: str | None) -> Completion:
    """What expert number `place` said."""
    return Completion(
        query_id="q", expert_id=f"e{place}", text=letter or "", extracted=letter, usage=Usage(completions=1)
    )
