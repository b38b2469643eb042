"""The backend `vllm`: open models in vLLM engines, one process per resident base, so that memory is truly returned."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from router_service.backends._engine_process import EngineGone, Line
from router_service.backends._text_requests import refusal, refusals_of, sample_groups
from router_service.backends._vllm_backend import WORKER, EngineBackend, require_positive
from router_service.backends._vllm_bases import adapter_folder
from router_service.backends._vllm_engines import Engine, Engines
from router_service.backends._vllm_requests import Asked, add_order, pieces_of, refused_by, score_order
from router_service.backends.base import BACKENDS
from router_service.errors import ExpertRefused, ExpertUnavailable
from router_service.types import Completion, Expert, ExpertBatch, Query, TextScore, TokenDelta

__all__ = ["Vllm"]

Piece = Completion | TokenDelta


@BACKENDS.register("vllm")
class Vllm(EngineBackend[Engine]):
    """Runs experts in vLLM engines of its own; what those of one engine are asked at the same time runs as one mixed
    batch. See `EngineBackend` for what an expert's entry says."""

    name = "vllm"

    def __init__(
        self,
        *,
        python: str = sys.executable,
        devices: list[dict[str, Any]] | None = None,
        threads: int | None = None,
        load_timeout_s: float = 1800.0,
        silence_s: float = 300.0,
        worker: str = WORKER,
    ) -> None:
        """`python` is an interpreter that has vLLM (a virtual environment of its own may hold it); `devices` where
        engines can be, `{name, memory_gib, gpus}` each (None: every visible GPU, else the processor); `threads` of an
        engine on the processor (None: the cores this process may use); `load_timeout_s` the longest start;
        `silence_s` after which an engine at work that says nothing is killed; `worker` the script it runs."""
        require_positive(self.name, {"threads": threads, "load_timeout_s": load_timeout_s, "silence_s": silence_s})
        engines = Engines(load_timeout_s=load_timeout_s, silence_s=silence_s)
        super().__init__(engines, python=python, devices=devices, threads=threads, worker=worker)

    async def complete(self, expert: Expert, batch: ExpertBatch) -> AsyncIterator[Piece]:
        """See `Backend.complete`; without `batch.device` the model is brought to the first device, in place of any
        other there once that is idle."""
        async with self._engine_for(expert, batch.device) as engine:
            try:
                with engine.process.line() as line:
                    async for piece in self._answers(expert, batch, engine=engine, line=line):
                        if isinstance(piece, Completion):
                            engine.learned.tokens += piece.usage.completion_tokens
                        yield piece
            except EngineGone as gone:
                raise await self._lost(expert, engine, gone) from gone

    async def score(self, expert: Expert, texts: Sequence[tuple[Query, str]]) -> list[TextScore]:
        """See `ScoringBackend.score`; where the model is not resident, as `complete` without a device."""
        found: dict[int, TextScore] = {}
        async with self._engine_for(expert, None) as engine:
            if not engine.can_score:
                raise refusal(
                    expert, "runs in an engine that cannot score texts: one of its adapters changes the last layer"
                )
            adapter = _adapter_word(expert, engine)
            try:
                with engine.process.line() as line:
                    for number, (query, text) in enumerate(texts):
                        line.say(**score_order(expert, query, text, adapter=adapter), id=number)
                    while len(found) < len(texts):
                        word = await line.hear()
                        if word["op"] == "failed":
                            raise refused_by(word, expert=expert, query=texts[word["id"]][0])
                        found[word["id"]] = TextScore(logprob_sum=word["logprob_sum"], tokens=word["tokens"])
            except EngineGone as gone:
                raise await self._lost(expert, engine, gone) from gone
        return [found[number] for number in range(len(texts))]

    # --- asking ----------------------------------------------------------------------------------------------------

    async def _answers(self, expert: Expert, batch: ExpertBatch, *, engine: Engine, line: Line) -> AsyncIterator[Piece]:
        adapter = _adapter_word(expert, engine)
        asked: dict[int, Asked] = {}
        refused: list[Completion] = []
        for number, assignment in enumerate(batch.assignments):
            try:
                order = add_order(expert, assignment, adapter=adapter)
            except ExpertRefused as error:
                refused += refusals_of(assignment, error)
                continue
            groups = sample_groups(assignment, assignment.query.sampling.over(expert.sampling))
            asked[number] = Asked(assignment=assignment, groups=groups, began_s=time.monotonic())
            line.say(**order, id=number)
        for completion in refused:
            yield completion
        while asked:
            word = await line.hear()
            try:
                current = asked.get(word["id"])
                pieces = [] if current is None else pieces_of(current, word, expert=expert, now_s=time.monotonic())
            except (KeyError, TypeError) as malformed:
                raise await engine.process.kill(f"it said what means nothing: {word!r:.200}") from malformed
            for piece in pieces:
                yield piece
            if current is not None and not current.open:
                del asked[word["id"]]


def _adapter_word(expert: Expert, engine: Engine) -> dict[str, Any] | None:
    folder = adapter_folder(expert)
    if not engine.has_place_for(folder):
        raise ExpertUnavailable(
            f"expert {expert.id!r} has an adapter that its engine has no place for: it was started for "
            f"{engine.max_adapters}, before this one was known; check all experts of a base before it is loaded",
            expert_id=expert.id,
            retryable=False,
        )
    return engine.adapter_word(folder)
