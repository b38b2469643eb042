"""What `profile --adaptive` prints: each new expert's accuracy with its error bar, overall and by category."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from router_service._cli_output import print_error, print_json, print_lines, print_note, print_table

if TYPE_CHECKING:
    from eval.adaptive import ExpertEstimate
    from eval.profiling_adaptive import AdaptiveReport

__all__ = ["end_with_failures", "print_adaptive"]

_COLUMNS = ["category", "asked", "accuracy", "low", "high", "best known", "its accuracy", "against it"]


def print_adaptive(report: AdaptiveReport, out: Path, *, as_json: bool) -> None:
    """The estimates as tables or as one JSON document; exit code 1 where completions failed."""
    if as_json:
        from eval.adaptive_record import estimate_record

        print_json(
            {
                "artefact": out,
                "version": report.artefact.version,
                "new": report.n_new,
                "known": report.n_known,
                "estimates": {made.profile.expert_id: estimate_record(made) for made in report.estimates},
                "failures": {name: {"count": n, "first": first} for name, (n, first) in report.failures.items()},
            }
        )
    else:
        for estimate in report.estimates:
            _print_estimate(estimate)
        print_lines(f"{out}: {report.n_new} new completions, {report.n_known} known before", style="dim")
    end_with_failures(report.failures)


def _print_estimate(estimate: ExpertEstimate) -> None:
    overall = estimate.overall
    rows = [
        [
            name or "(no category)",
            stratum.n_asked,
            stratum.estimate.accuracy,
            stratum.estimate.low,
            stratum.estimate.high,
            stratum.incumbent,
            stratum.incumbent_accuracy,
            stratum.verdict or "open",
        ]
        for name, stratum in estimate.strata.items()
    ]
    title = (
        f"{estimate.profile.expert_id}: accuracy {overall.accuracy:.3f} ({overall.low:.3f} to {overall.high:.3f} at "
        f"{estimate.confidence:.0%}), from {estimate.n_asked} of {estimate.n_bank} questions"
    )
    print_table(title, _COLUMNS, rows)


def end_with_failures(failures: Mapping[str, tuple[int, str]]) -> None:
    """Say which completions failed, and end with exit code 1 where some did."""
    for name, (count, first) in failures.items():
        print_error(f"{count} completions of expert {name} failed: {first}")
    if failures:
        print_note("failed completions are not graded; run the same command again to ask for them again")
        raise typer.Exit(1)
