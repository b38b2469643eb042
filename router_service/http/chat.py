"""The endpoints that ask: `/v1/chat/completions`, streamed or not, and `/v1/route`."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from router_service.http.base import EngineLike
from router_service.http.catalogue import Catalogue
from router_service.http.caveats import caveats_of
from router_service.http.encoding import WireJson
from router_service.http.errors import WireError, error_response, failure_error
from router_service.http.health import Health
from router_service.http.metrics import DoorMetrics
from router_service.http.presence import ClientLeft, while_present
from router_service.http.queries import controls_of, query_of, require_demands
from router_service.http.reports import (
    chat_body,
    decision_headers,
    headers_of,
    known_headers,
    report_of,
    route_body,
)
from router_service.http.schemas import ChatRequest, RouteRequest
from router_service.http.settings import ServerSettings
from router_service.http.streams import AnswerStream, ChunkWriter, EventStream
from router_service.types import DecisionMade, Failed, Query, RouteFailure, RouteResponse

__all__ = ["Door", "door_of", "router"]

router = APIRouter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What the endpoints of one app share."""

    engine: EngineLike
    settings: ServerSettings
    catalogue: Catalogue
    metrics: DoorMetrics
    health: Health
    created: int

    async def query(self, body: ChatRequest) -> Query:
        """The query asked, its names and its JSON schemas checked; the id is new each time, whatever the caller calls
        the request."""
        if body.response_format is not None or body.tools:
            await asyncio.to_thread(require_demands, body)
        controls = self.catalogue.resolve(body.model, controls_of(body))
        return query_of(body, controls, f"chatcmpl-{uuid.uuid4().hex}")


def door_of(request: Request) -> Door:
    """The app's door."""
    door: Door = request.app.state.door
    return door


AppDoor = Annotated[Door, Depends(door_of)]


@router.post("/v1/chat/completions", summary="Answer a chat, by the experts that are good at it")
async def chat(body: ChatRequest, request: Request, door: AppDoor) -> Response:
    """OpenAI-compatible; `model` routes (`auto`, `auto/<recruiter>`) or names one expert."""
    exchange = _Exchange(body=body, request=request, door=door, query=await door.query(body))
    return exchange.streamed() if body.stream else await exchange.whole()


@router.post("/v1/route", summary="Explain who would be asked, without asking")
async def route(body: RouteRequest, request: Request, door: AppDoor) -> Response:
    """Annotates and recruits only; no expert is called."""
    return await _Exchange(body=body, request=request, door=door, query=await door.query(body)).explained()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """One request under way: what was asked, as it came and as the engine gets it."""

    body: ChatRequest
    request: Request
    door: Door
    query: Query

    def streamed(self) -> Response:
        """The answer as server-sent events, opened before any work is done."""
        door, query, body = self.door, self.query, self.body
        writer = ChunkWriter(
            id=query.id, model=body.model, created=int(time.time()), includes_usage=body.includes_usage
        )
        stream = AnswerStream(
            writer,
            metrics=door.metrics,
            scope=self.request.scope,
            heartbeat_s=door.settings.heartbeat_s,
            report_of=self._report,
        )
        chunks = stream.chunks(door.engine.stream([query]))
        return EventStream(
            chunks, headers=known_headers(query.controls, body.warnings), on_left=door.metrics.query_abandoned
        )

    async def whole(self) -> Response:
        """The answer in one piece; a caller that leaves before it ends the work."""
        called = time.perf_counter()
        try:
            [end] = await while_present(self.request.receive, self.door.engine.run([self.query]))
        except ClientLeft:
            self.door.metrics.query_abandoned()
            return _LEFT
        engine_s = time.perf_counter() - called
        self.door.metrics.query_ended(end)
        if isinstance(end, RouteFailure):
            return self._failed(end)
        overhead_s = self._overhead_s(end, engine_s)
        report = self._report(end, overhead_s)
        content = chat_body(end, model=self.body.model, created=int(time.time()), report=report)
        return WireJson(content, headers={**self._headers(end), **headers_of(end, overhead_s=overhead_s)})

    async def explained(self) -> Response:
        """Who would be asked, and why."""
        try:
            [made] = await while_present(self.request.receive, self.door.engine.route([self.query]))
        except ClientLeft:
            return _LEFT
        if isinstance(made, Failed):
            return self._failed(made.failure)
        headers = self._headers(made) | decision_headers(made.decision)
        return WireJson(route_body(made, model=self.body.model), headers=headers)

    def _warnings(self, end: RouteResponse | RouteFailure | DecisionMade) -> tuple[str, ...]:
        """All that was sent and had no effect."""
        return (*self.body.warnings, *caveats_of(self.query, end))

    def _report(self, end: RouteResponse | RouteFailure, overhead_s: float | None = None) -> dict[str, Any]:
        """The `enlist` field."""
        return report_of(end, kind=self.query.task_format.kind, overhead_s=overhead_s, warnings=self._warnings(end))

    def _headers(self, end: RouteResponse | RouteFailure | DecisionMade) -> dict[str, str]:
        return known_headers(self.query.controls, self._warnings(end))

    def _failed(self, failure: RouteFailure) -> Response:
        response = error_response(failure_error(failure), {"enlist": self._report(failure)})
        response.headers.update(self._headers(failure) | decision_headers(failure.decision))
        return response

    def _overhead_s(self, end: RouteResponse, engine_s: float) -> float:
        """The engine's own time, and all that passed at the door outside the engine."""
        started: float = self.request.scope["state"]["started"]
        overhead_s = end.overhead_s + max(0.0, time.perf_counter() - started - engine_s)
        self.door.metrics.overhead(overhead_s)
        return overhead_s


_LEFT = error_response(WireError(code="client_disconnected", message="the caller left before the answer"))
"""Nobody reads it; it ends the exchange, and the request is counted under its status."""
