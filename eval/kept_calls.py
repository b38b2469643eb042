"""A backend that remembers on disk: comparing many strategies asks each expert each thing once, kills included."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import aclosing
from pathlib import Path

from eval.line_file import LineFile
from eval.reuse import ReusingBackend
from router_service.backends.base import Backend, ScoringBackend
from router_service.store.records import completion_from_json, completion_to_json
from router_service.types import Completion, Expert, ExpertBatch, Query, TextScore, TokenDelta

__all__ = ["KeptCalls", "keeping"]


class KeptCalls(ReusingBackend):
    """As `ReusingBackend`, and what succeeded is in a file of JSON lines before anybody hears of it.

    `spent_s` adds up how long the inner backend took for everything that was given out, remembered or not: a share of
    its time goes to each completion as it comes. So the time of a strategy is known also where nothing had to be asked.
    """

    def __init__(self, inner: Backend, path: Path) -> None:
        super().__init__(inner)
        self._file = LineFile(path)
        self._took_s: dict[str, float] = {}
        self._kept: dict[str, Completion] = {}
        self._scores: dict[str, TextScore] = {}
        self._last_event_s, self._open = 0.0, 0
        self.spent_s = 0.0
        self._read()

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Completion | TokenDelta]:
        """What is known at once, the rest from the inner backend, timed."""
        self._start_watch()
        try:
            async with aclosing(super().complete(expert, batch)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        finally:
            self._open -= 1

    def _find(self, key: Hashable) -> Completion | None:
        digest = _digest(key)
        self.spent_s += self._took_s.get(digest, 0.0)
        return self._kept.get(digest)

    def _keep(self, key: Hashable, completion: Completion) -> None:
        digest = _digest(key)
        took_s = self._lap()
        if digest not in self._kept:
            self._file.add({"key": digest, "took_s": round(took_s, 4), "completion": completion_to_json(completion)})
            self._kept[digest], self._took_s[digest] = completion, took_s
        self.spent_s += took_s

    async def _score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """Scores from the file, the missing ones from the inner backend."""
        keys = [_digest(("score", expert.id, expert.sampling, query.messages, text)) for query, text in texts]
        missing = [place for place, key in enumerate(keys) if key not in self._scores]
        if missing:
            assert isinstance(self._inner, ScoringBackend)
            self._start_watch()
            try:
                scores = await self._inner.score(expert, [texts[place] for place in missing])
            finally:
                self._open -= 1
            took_s = self._lap() / len(missing)
            for place, score in zip(missing, scores, strict=True):
                self.asked += 1
                said = {"logprob_sum": score.logprob_sum, "tokens": score.tokens}
                self._file.add({"key": keys[place], "took_s": round(took_s, 4), "score": said})
                self._scores[keys[place]], self._took_s[keys[place]] = score, took_s
        self.spent_s += sum(self._took_s[key] for key in keys)
        return [self._scores[key] for key in keys]

    def _start_watch(self) -> None:
        """A call begins; where another one is open, its watch runs on, so that no second counts twice."""
        if self._open == 0:
            self._last_event_s = time.perf_counter()
        self._open += 1

    def _lap(self) -> float:
        now = time.perf_counter()
        took_s, self._last_event_s = now - self._last_event_s, now
        return took_s

    def _read(self) -> None:
        for record in self._file.records():
            if "completion" in record:
                self._kept[record["key"]] = completion_from_json(record["completion"])
            elif "score" in record:
                self._scores[record["key"]] = TextScore(**record["score"])
            self._took_s[record.get("key", "")] = record.get("took_s", 0.0)


class _ScoringKeptCalls(KeptCalls):
    """One whose inner backend reads texts."""

    async def score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """As the inner backend scores them; each text once."""
        return await self._score(expert, texts)


def keeping(inner: Backend, path: Path) -> KeptCalls:
    """The backend with a memory in the file `path`; it scores texts where the inner one does."""
    return _ScoringKeptCalls(inner, path) if isinstance(inner, ScoringBackend) else KeptCalls(inner, path)


def _digest(key: Hashable) -> str:
    return hashlib.blake2b(repr(_said(key)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _said(value: object) -> object:
    """The value with the fields of dataclasses that are not at their default, so that a new field changes no key."""
    if isinstance(value, tuple):
        return tuple(_said(part) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return tuple((field.name, _said(part)) for field, part in given if part != field.default)
    return value
