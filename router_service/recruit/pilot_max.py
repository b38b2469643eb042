"""Recruiter `pilot_max`: the experts of the pilots most like the query."""

from __future__ import annotations

from typing import ClassVar

from router_service.recruit.base import RECRUITERS
from router_service.recruit.pilot_mean import PilotMean

__all__ = ["PilotMax"]


@RECRUITERS.register("pilot_max")
class PilotMax(PilotMean):
    """RouterRetriever as released: an expert counts by the one of its pilots that is most like the query, where the
    paper takes the mean of all (`pilot_mean`, which says how pilots are made)."""

    name: ClassVar[str] = "pilot_max"
    by_max: ClassVar[bool] = True
