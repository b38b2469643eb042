"""The endpoints that ask: `/v1/chat/completions`, streamed or not, and `/v1/route`."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from router_service.http.base import EngineLike
from router_service.http.catalogue import Catalogue
from router_service.http.encoding import WireJson
from router_service.http.errors import WireError, error_response, failure_error
from router_service.http.health import Health
from router_service.http.metrics import DoorMetrics
from router_service.http.presence import ClientLeft, while_present
from router_service.http.queries import controls_of, query_of
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
from router_service.types import Failed, Query, RouteFailure, RouteResponse

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

    def query(self, body: ChatRequest) -> Query:
        """The query asked, its names checked; the id is new each time, whatever the caller calls the request."""
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
    query = door.query(body)
    if body.stream:
        return _streamed(query, body, request, door)
    return await _whole(query, body, request, door)


@router.post("/v1/route", summary="Explain who would be asked, without asking")
async def route(body: RouteRequest, request: Request, door: AppDoor) -> Response:
    """Annotates and recruits only; no expert is called."""
    query = door.query(body)
    try:
        [made] = await while_present(request.receive, door.engine.route([query]))
    except ClientLeft:
        return _left(request)
    if isinstance(made, Failed):
        return error_response(failure_error(made.failure), {"enlist": report_of(made.failure)})
    headers = known_headers(query.controls, body.warnings) | decision_headers(made.decision)
    return WireJson(route_body(made, model=body.model), headers=headers)


async def _whole(query: Query, body: ChatRequest, request: Request, door: Door) -> Response:
    called = time.perf_counter()
    try:
        [end] = await while_present(request.receive, door.engine.run([query]))
    except ClientLeft:
        door.metrics.query_abandoned()
        return _left(request)
    engine_s = time.perf_counter() - called
    door.metrics.query_ended(end)
    known = known_headers(query.controls, body.warnings)
    if isinstance(end, RouteFailure):
        return _failed(end, known)
    return _answered(end, body, known, _overhead_s(request, end, engine_s, door))


def _failed(failure: RouteFailure, known: dict[str, str]) -> Response:
    response = error_response(failure_error(failure), {"enlist": report_of(failure)})
    response.headers.update(known | decision_headers(failure.decision))
    return response


def _answered(end: RouteResponse, body: ChatRequest, known: dict[str, str], overhead_s: float) -> Response:
    content = chat_body(end, model=body.model, created=int(time.time()), overhead_s=overhead_s)
    return WireJson(content, headers={**known, **headers_of(end, overhead_s=overhead_s)})


def _overhead_s(request: Request, end: RouteResponse, engine_s: float, door: Door) -> float:
    """The engine's own time, and all that passed at the door outside the engine."""
    started: float = request.scope["state"]["started"]
    overhead_s = end.overhead_s + max(0.0, time.perf_counter() - started - engine_s)
    door.metrics.overhead(overhead_s)
    return overhead_s


def _streamed(query: Query, body: ChatRequest, request: Request, door: Door) -> Response:
    writer = ChunkWriter(id=query.id, model=body.model, created=int(time.time()), includes_usage=body.includes_usage)
    stream = AnswerStream(writer, metrics=door.metrics, scope=request.scope, heartbeat_s=door.settings.heartbeat_s)
    return EventStream(
        stream.chunks(door.engine.stream([query])),
        headers=known_headers(query.controls, body.warnings),
        on_left=door.metrics.query_abandoned,
    )


def _left(request: Request) -> Response:
    """Nobody reads it; it ends the exchange, and the request is counted under its status."""
    return error_response(WireError(code="client_disconnected", message="the caller left before the answer"))
