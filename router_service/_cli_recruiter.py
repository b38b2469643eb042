"""The command `recruiter fit`: a recruiter that takes long to learn does so once, and engines start at once."""

from __future__ import annotations

from dataclasses import dataclass

from router_service._cli_options import EngineOptions, JsonOption
from router_service._cli_output import print_json, print_lines

__all__ = ["FitOptions", "fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions(EngineOptions):
    """Which recruiter to fit on which artefact; the artefact must be one made by `enlist profile`."""

    as_json: JsonOption = False


def fit(options: FitOptions) -> None:
    """Fit a recruiter and keep it in the artefact's folder, where engines find it; asks no model."""
    from router_service.assembly import keep_recruiter

    kept = keep_recruiter(options.engine_config())
    if options.as_json:
        print_json(kept)
    else:
        print_lines(f"{kept.path}: recruiter {kept.recruiter}, fitted in {kept.fit_s:.1f} s on {kept.artefact}")
