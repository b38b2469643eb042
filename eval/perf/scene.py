"""A made-up pool with fit questions, graded outcomes and queries, the same for the same scale: what benches route."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.lessons import Lessons
from router_service.recruit.base import RecruitRequest
from router_service.types import (
    AnswerKind,
    Expert,
    Outcome,
    Prices,
    Query,
    Question,
    TaskFormat,
    stable_seed,
    user_query,
)
from skills.annotators.embedding import Embedding
from skills.base import Vectors

__all__ = ["GivenEmbedder", "Scale", "Scene", "sentences"]

_CATEGORIES = 14
"""As many as MMLU-Pro has."""
_SKILLS_PER_QUESTION = 3
"""As an LLM names for MMLU-Pro's questions, where three questions together have about four different ones."""
_OPTIONS = ("A", "B", "C", "D")
_COMMON = (
    "the of and to in is that for with as what which how when where why who most least first last more less than "
    "value number energy force field light heat water air cell blood bone law court tax price market trade profit "
    "theory proof set group ring map point line area volume rate speed time year day war peace king city river"
)
"""Common words, each one token of MiniLM's vocabulary."""
_WORDS = tuple(_COMMON.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything. Every skill is some fit question's where there are two questions to three skills."""

    experts: int = 32
    skills: int = 1200
    fit_questions: int = 900
    queries: int = 2048
    dimension: int = 384
    words: int = 58
    """Words of a query; MiniLM adds two marks, so that these are 60 tokens."""
    seed: int = 0


class GivenEmbedder:
    """An embedder of texts whose vectors are given, so that a bench measures all but embedding; any other text (the
    name of a skill, say) has a vector drawn from it."""

    fingerprint = "given"

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self._vectors = dict(zip(texts, vectors, strict=True))
        self.dimension = int(vectors.shape[1])

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Shape (texts, dimension)."""
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self._vectors[text] if text in self._vectors else self._drawn(text)
        return rows

    def _drawn(self, text: str) -> npt.NDArray[np.float32]:
        drawn = np.random.default_rng(stable_seed(text)).normal(size=self.dimension)
        return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float32)


class Scene:
    """Everything a decision needs, made once per scale: pool, artefact, fitted annotator, queries with embeddings."""

    def __init__(self, scale: Scale) -> None:
        rng = np.random.default_rng(scale.seed)
        self.scale = scale
        self.pool = Pool(name="made-up", experts=_experts(scale.experts))
        questions, categories = _questions(scale, rng)
        self.artefact = Artefact.fit(_outcomes(self.pool.experts, questions, rng), questions, pool_name="made-up")
        self.queries = tuple(_query(number, text) for number, text in enumerate(sentences(scale.queries, scale.words)))
        centres = rng.normal(size=(_CATEGORIES, scale.dimension))
        fit_vectors = _around(centres[categories], rng)
        self.vectors = _around(centres[rng.integers(0, _CATEGORIES, len(self.queries))], rng)
        texts = [question.text for question in questions] + [query.text for query in self.queries]
        embedder = GivenEmbedder(texts, np.concatenate([fit_vectors, self.vectors]))
        self.annotator = Embedding(embedder=embedder).fit(questions)
        self.lessons = Lessons(self.pool, self.artefact, self.annotator)

    def requests(self) -> list[RecruitRequest]:
        """One request per query, annotated by its nearest fit questions."""
        annotations = self.annotator.annotations(self.queries, self.vectors)
        return [
            RecruitRequest(query=query, annotation=annotation, seed=number)
            for number, (query, annotation) in enumerate(zip(self.queries, annotations, strict=True))
        ]


def sentences(count: int, words: int, *, seed: int = 0) -> list[str]:
    """So many different texts of so many common words."""
    rng = np.random.default_rng([seed, count, words])
    numbers = rng.integers(0, len(_WORDS), size=(count, words))
    numbers[:, : _digits(count)] = _places(count)[:, :words]
    return [" ".join(_WORDS[number] for number in row) for row in numbers.tolist()]


def _digits(count: int) -> int:
    """How many leading words it takes to tell so many texts apart."""
    return max(1, math.ceil(math.log(max(2, count), len(_WORDS)) - 1e-9))


def _places(count: int) -> npt.NDArray[np.int64]:
    """The numbers of `count` texts written in words, shape (count, digits)."""
    base = len(_WORDS)
    return np.arange(count)[:, None] // base ** np.arange(_digits(count)) % base


def _experts(count: int) -> tuple[Expert, ...]:
    prices = [Prices(input_usd_per_mtok=0.1 * (1 + i % 9), output_usd_per_mtok=0.4 * (1 + i % 9)) for i in range(count)]
    return tuple(Expert(id=f"expert-{i:04}", model="made-up", backend="echo", prices=prices[i]) for i in range(count))


def _questions(scale: Scale, rng: np.random.Generator) -> tuple[list[Question], npt.NDArray[np.int64]]:
    categories = rng.integers(0, _CATEGORIES, scale.fit_questions)
    drawn = rng.integers(0, scale.skills, size=(scale.fit_questions, _SKILLS_PER_QUESTION))
    drawn[:, :2] = np.arange(2 * scale.fit_questions).reshape(-1, 2) % scale.skills
    questions = [
        Question(
            id=f"fit-{number:05}",
            text=f"{text}?",
            category=f"category-{categories[number]:02}",
            options=_OPTIONS,
            answer="A",
            answer_kind=AnswerKind.CHOICE,
            skills=tuple(dict.fromkeys(f"skill {skill}" for skill in drawn[number].tolist())),
        )
        for number, text in enumerate(sentences(scale.fit_questions, max(1, scale.words // 6), seed=1))
    ]
    return questions, categories


def _outcomes(experts: Sequence[Expert], questions: Sequence[Question], rng: np.random.Generator) -> list[Outcome]:
    """Grades drawn from a strength of each expert in each category; a wrong answer is any of the other options."""
    overall = rng.uniform(0.3, 0.75, len(experts))
    chances = np.clip(overall[:, None] + rng.normal(0, 0.15, (len(experts), _CATEGORIES)), 0.05, 0.95)
    outcomes = []
    for question in questions:
        category = int((question.category or "0").rsplit("-", 1)[-1])
        is_right = rng.random(len(experts)) < chances[:, category]
        said = np.where(is_right, 0, rng.integers(1, len(_OPTIONS), len(experts))).tolist()
        outcomes += [
            Outcome(
                dataset="made-up",
                split="fit",
                question_id=question.id,
                expert_id=expert.id,
                extracted=_OPTIONS[option],
                correct=float(option == 0),
            )
            for expert, option in zip(experts, said, strict=True)
        ]
    return outcomes


def _query(number: int, text: str) -> Query:
    task_format = TaskFormat(kind=AnswerKind.CHOICE, options=_OPTIONS)
    return user_query(f"query-{number:06}", text, task_format=task_format, seed=number)


def _around(centres: npt.NDArray[np.float64], rng: np.random.Generator) -> Vectors:
    """Unit vectors scattered around the centres, so that neighbours mostly share a category."""
    rows = centres + 1.5 * rng.normal(size=centres.shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
