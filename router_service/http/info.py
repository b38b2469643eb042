"""The endpoints that tell: models, health and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from router_service.errors import UnknownNameError
from router_service.http.chat import AppDoor, Door
from router_service.http.encoding import WireJson
from router_service.types import Expert

__all__ = ["router"]

router = APIRouter()


@router.get("/v1/models", summary="Names that `model` may be")
async def models(door: AppDoor) -> dict[str, Any]:
    """Names that route first, then every enabled expert."""
    return {"object": "list", "data": [_model(name, door) for name in door.catalogue.names]}


@router.get("/v1/models/{model_id:path}", summary="One of the names")
async def model(model_id: str, door: AppDoor) -> dict[str, Any]:
    """404 `model_not_found` names the nearest one."""
    names = door.catalogue.names
    if model_id not in names:
        raise UnknownNameError("model", model_id, names)
    return _model(model_id, door)


def _model(name: str, door: Door) -> dict[str, Any]:
    catalogue = door.catalogue
    expert = None if name in catalogue.aliases else catalogue.experts[name]
    return {
        "id": name,
        "object": "model",
        "created": door.created,
        "owned_by": "enlist" if expert is None else expert.backend,
        "enlist": {"kind": "route"} if expert is None else _expert(expert),
    }


def _expert(expert: Expert) -> dict[str, Any]:
    prices = expert.prices
    return {
        "kind": "expert",
        "model": expert.model,
        "description": expert.description,
        "context_window": expert.context_window,
        "modalities": sorted(expert.modalities),
        "input_usd_per_mtok": None if prices is None else prices.input_usd_per_mtok,
        "output_usd_per_mtok": None if prices is None else prices.output_usd_per_mtok,
    }


@router.get("/health/liveness", summary="Is the process alive")
@router.get("/health/liveliness", summary="The same, as some call it")
async def liveness() -> dict[str, str]:
    """200 as long as the process can answer, while it stops too: a restart would not help it."""
    return {"status": "alive"}


@router.get("/health/readiness", summary="May work be sent here")
async def readiness(door: AppDoor) -> Response:
    """503 with the reasons while starting, stopping, or without any enabled expert."""
    reasons = list(door.health.reasons)
    if reasons:
        return WireJson({"status": "not_ready", "reasons": reasons}, status_code=503)
    return WireJson({"status": "ready"})


@router.get("/metrics", summary="Prometheus metrics")
async def metrics(door: AppDoor) -> Response:
    """Counts, times and costs; no content."""
    return Response(door.metrics.render(), media_type=CONTENT_TYPE_LATEST)
