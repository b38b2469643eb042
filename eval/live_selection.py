"""A selection made on the pool's fit questions, so that `selected` can be run live on held-out ones."""

from __future__ import annotations

from pathlib import Path

from aggregators.choices import Choice
from eval.aggregator_selection import AggregatorSelection, SelectionJob, select_aggregator
from eval.live_panels import LivePanels, Progress
from eval.profiling_folder import recorded_completions
from router_service.config import DispatchConfig, PartConfig
from router_service.dispatch.ask import BudgetedAsk
from router_service.dispatch.ledger import Ledger
from router_service.dispatch.runner import Runner
from router_service.types import Budget

__all__ = ["select_live"]


async def select_live(
    panels: LivePanels,
    candidates: tuple[Choice, ...],
    *,
    folder: Path,
    recruiter: str,
    k: int,
    on_progress: Progress | None = None,
) -> AggregatorSelection:
    """Try the candidates on the questions and completions of the artefact in `folder`, asking the live experts."""
    artefact, backend = panels.artefact, panels.backend
    config = panels.config.model_copy(update={"recruiter": PartConfig(name=recruiter), "k": k})
    runner = Runner(
        experts={expert.id: expert for expert in panels.pool.experts},
        backends={expert.backend: backend for expert in panels.pool.experts},
        settings=DispatchConfig(),
    )
    ask = BudgetedAsk(runner, {question.id: Ledger(Budget()) for question in artefact.questions})
    job = SelectionJob(
        pool=panels.pool,
        artefact=artefact,
        completions=recorded_completions(folder, artefact.outcomes),
        candidates=candidates,
        config=config,
    )
    return await select_aggregator(job, ask=ask, progress=on_progress)
