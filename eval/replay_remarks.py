"""What a reader of a replay's rows should know before believing them."""

from __future__ import annotations

from collections.abc import Sequence

from eval.datasets import Dataset
from eval.grading import grade
from eval.leaks import leak_remark
from eval.replay_plan import ReplayPlan
from eval.results import LeakAudit, ReplayRow, Skipped

__all__ = ["disagreements", "remarks", "replay_remarks"]

_LISTED = 10
"""So many strategies with unanswered questions are listed; the report has all."""


def replay_remarks(
    dataset: Dataset,
    plan: ReplayPlan,
    rows: Sequence[ReplayRow],
    *,
    audit: LeakAudit,
    skipped: Sequence[Skipped] = (),
) -> list[str]:
    """All remarks on one dataset's rows, the ones that cast most doubt first."""
    leak = leak_remark(audit)
    missing = [split for split in plan.fit_on if split not in plan.fitted_splits(dataset)]
    without = [f"{dataset.name} has no split {split!r}; fitted on the others" for split in missing]
    left_out = [f"{one.dataset}, {one.pool}: {one.part} left out: {one.reason}" for one in skipped]
    return [
        *([leak] if leak else []),
        *_controls_that_know(rows),
        *without,
        *left_out,
        *_fallbacks(rows),
        *_repeats(rows),
        *remarks(dataset, plan, rows),
    ]


def remarks(dataset: Dataset, plan: ReplayPlan, rows: Sequence[ReplayRow]) -> list[str]:
    """Questions without any answer, and what was recorded otherwise than this project grades."""
    said = [
        f"{row.strategy}: {failed.count} of {row.n * row.n_seeds} questions got no answer ({code}); {failed.judged}"
        for row in rows
        for code, failed in row.failures.items()
    ]
    if len(said) > _LISTED:
        more = len(said) - _LISTED
        said[_LISTED:] = [f"{more} more strategies left questions unanswered; see `failures` in the JSON"]
    if not dataset.has_answers:
        said.append(
            "the dataset records who was right, not always what was said: a panel without a readable answer is judged "
            "by its earliest member"
        )
    models = list(dict.fromkeys(model for name in plan.pools_of(dataset) for model in dataset.pools[name]))
    odd = disagreements(dataset, models, split=plan.split)
    if odd:
        said.append(
            f"{len(odd)} recorded {plan.split} outcomes are graded otherwise by this project's rules (for instance "
            f"{odd[0]}); answers of experts count as recorded"
        )
    return said


def disagreements(dataset: Dataset, models: Sequence[str], *, split: str = "test") -> list[str]:
    """Recorded outcomes that this project's grading judges otherwise than the dataset, as `question/model`."""
    if not dataset.has_answers:
        return []
    questions = {question.id: question for question in dataset.split(split)}
    return [
        f"{outcome.question_id}/{outcome.expert_id}"
        for outcome in dataset.outcomes(questions.values(), models)
        if grade(outcome.extracted, questions[outcome.question_id]) != outcome.correct
    ]


def _controls_that_know(rows: Sequence[ReplayRow]) -> list[str]:
    """Controls of one call that beat the best single expert: shuffled grades cannot teach that, so something leaks."""
    return [
        f"CONTROL: {row.strategy} beats the best single expert by {row.vs_best_single.mean:+.3f} "
        f"({row.vs_best_single.low:+.3f} to {row.vs_best_single.high:+.3f}); shuffled grades cannot teach that"
        for row in rows
        if row.is_shuffled and row.calls_per_query <= 1 and row.vs_best_single and row.vs_best_single.low > 0
    ]


def _fallbacks(rows: Sequence[ReplayRow]) -> list[str]:
    """Recruiters whose rows show their fallback rule rather than themselves."""
    said = {}
    for row in rows:
        if row.n_fallbacks == row.n * row.n_seeds:
            said[row.pool, row.recruiter] = (
                f"{row.pool}, {row.recruiter}: every decision used the fallback rule, so these rows show that rule"
            )
    return list(said.values())


def _repeats(rows: Sequence[ReplayRow]) -> list[str]:
    """Recruiters that draw an expert more often than it was recorded."""
    shares: dict[str, float] = {}
    for row in rows:
        if row.n_repeats:
            share = row.n_repeats / (row.calls_per_query * row.n * row.n_seeds)
            shares[row.recruiter] = max(share, shares.get(row.recruiter, 0.0))
    if not shares:
        return []
    listed = ", ".join(f"{name} (up to {share:.0%} of its calls)" for name, share in shares.items())
    return [
        f"{rows[0].dataset}: a recorded answer is repeated where more are drawn of an expert than were recorded, which "
        f"weighs it more and can show nothing of what drawing again is worth: {listed}"
    ]
