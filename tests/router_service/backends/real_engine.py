"""Real vLLM for slow tests: which interpreter has it, and the built-in pool's experts on it and on transformers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from experts_registry.local.tasks import generate, is_correct
from experts_registry.pool import load_pool
from router_service.backends.base import Backend
from router_service.types import Assignment, Completion, Expert, ExpertBatch, Question, user_query
from tests.meta.source import ROOT


def real_python() -> str:
    """An interpreter with vLLM: ENLIST_VLLM_PYTHON, else the one that `make setup-vllm` makes. Skips without one."""
    named = os.environ.get("ENLIST_VLLM_PYTHON") or str(ROOT / ".venv-vllm" / "bin" / "python")
    if not Path(named).exists():
        pytest.skip(f"NO vLLM: {named} is missing; run `make setup-vllm`, or set ENLIST_VLLM_PYTHON")
    return named


def local_experts(backend: str) -> dict[str, Expert]:
    """The experts of the built-in pool, moved to a backend."""
    return {expert.id: replace(expert, backend=backend) for expert in load_pool("local").experts}


def questions_for(expert: Expert, *, n: int) -> list[Question]:
    """Questions of the expert's own task that nothing was trained on (from the splits test and fit, since one family
    has fewer than 100 in each); the generalist gets facts."""
    task = {"generalist": "facts", "sorting": "number_sorting"}.get(expert.id, expert.id.replace("-", "_"))
    return [*generate(task, "test", n=n - n // 2), *generate(task, "fit", n=n // 2)]


async def graded(backend: Backend, expert: Expert, questions: list[Question]) -> list[bool]:
    """Which of the questions the expert answers right, greedily, all in one batch."""
    assignments = tuple(Assignment(query=user_query(question.id, question.text)) for question in questions)
    said: dict[str, str] = {}
    async for piece in backend.complete(expert, ExpertBatch(expert_id=expert.id, assignments=assignments)):
        assert isinstance(piece, Completion) and piece.succeeded, piece
        said[piece.query_id] = piece.text
    return [is_correct(question, said[question.id]) for question in questions]
