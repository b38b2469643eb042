"""Values and fakes of the skills room's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from router_service.types import Completion, CompletionError, Query, Question, user_query
from skills.base import Vectors
from skills.embedders.hashing import Hashing

QUESTIONS = (
    Question(id="q1", text="Solve x + 3 = 7 for x.", category="math", skills=("algebra", "equations")),
    Question(id="q2", text="Solve 2 x = 9 for x.", category="math", skills=("algebra",)),
    Question(id="q3", text="How likely are two sixes in a row?", category="math", skills=("probability",)),
    Question(id="q4", text="Which base pairs with adenine in DNA?", category="biology", skills=("genetics",)),
    Question(id="q5", text="What does a mitochondrion do in a cell?", category="biology", skills=("cell biology",)),
    Question(id="q6", text="Who signed the treaty of Westphalia?", category="history", skills=("diplomacy", "history")),
)

QUERIES = (
    user_query("a", "Solve x + 4 = 9 for x.", seed=1),
    user_query("b", "Which base pairs with guanine in DNA?", seed=2),
    user_query("c", "", seed=3),
    user_query("d", "Solve x + 3 = 7 for x.", seed=4),
    user_query("e", "{x} and {{y}}: zzz \ud800 qqq", seed=5),
)


class ScriptedAsk:
    """An `Ask` that writes down every call and replies with what `reply` makes of the query; None is a failed call."""

    def __init__(self, reply: Callable[[Query], str | Exception | None]) -> None:
        self.reply = reply
        self.calls: list[tuple[str, Query]] = []

    async def __call__(self, expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
        self.calls.append((expert_id, query))
        await asyncio.sleep(0)
        reply = self.reply(query)
        if isinstance(reply, Exception):
            raise reply
        if reply is None:
            error = CompletionError(code="expert_timeout", message="too late")
            return Completion(query_id=query.id, expert_id=expert_id, error=error)
        return Completion(query_id=query.id, expert_id=expert_id, text=reply)


def name_known_skills(query: Query) -> str:
    """A reply that depends on the question alone: every skill whose question shares a long word with it."""
    words = {word for word in query.text.split() if len(word) > 4}
    named = [skill for question in QUESTIONS if words & set(question.text.split()) for skill in question.skills]
    return "Keywords: " + ", ".join(named)


class CountingEmbedder:
    """An embedder that counts its calls and the texts it was given."""

    def __init__(self, inner: Hashing | None = None) -> None:
        self.inner = inner or Hashing(256)
        self.batches: list[list[str]] = []

    @property
    def dimension(self) -> int:
        return self.inner.dimension

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.batches.append(list(texts))
        return self.inner.embed(texts)


class TableEmbedder:
    """An embedder with given vectors, for examples that are worked out by hand."""

    fingerprint = "table"

    def __init__(self, table: Mapping[str, Sequence[float]]) -> None:
        self.table = table
        self.dimension = len(next(iter(table.values())))

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.array([self.table[text] for text in texts], dtype=np.float32).reshape(len(texts), self.dimension)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
