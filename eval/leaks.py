"""Leak audit: which judged questions stand, word for word, among the fitted ones."""

from __future__ import annotations

from collections.abc import Sequence

from eval.question_text import normalised_text
from eval.results import Leak, LeakAudit
from router_service.types import Question

__all__ = ["audit_leaks", "leak_remark"]

_SHOWN = 3


def audit_leaks(
    dataset: str, fitted: Sequence[Question], judged: Sequence[Question], *, splits: Sequence[str], split: str
) -> LeakAudit:
    """Every judged question whose normalised text a fitted one has too, with the first such one by id.

    Going by text rather than by ids finds what a careless split or a merged benchmark brings in twice. Questions that
    share a text and differ in their options are listed too, marked so: they may be harmless.
    """
    seen: dict[str, list[Question]] = {}
    for question in sorted(fitted, key=lambda question: question.id):
        seen.setdefault(normalised_text(question.text), []).append(question)
    leaks = [_leak(question, twins) for question in judged if (twins := seen.get(normalised_text(question.text)))]
    return LeakAudit(
        dataset=dataset,
        fitted=tuple(splits),
        judged=split,
        n_fitted=len(fitted),
        n_judged=len(judged),
        leaks=tuple(leaks),
    )


def leak_remark(audit: LeakAudit) -> str | None:
    """The audit's finding in a sentence; None where nothing was found."""
    if not audit.leaks:
        return None
    same = sum(leak.has_same_options for leak in audit.leaks)
    shown = ", ".join(f"{leak.question_id} = {leak.fitted_id}" for leak in audit.leaks[:_SHOWN])
    more = f" and {len(audit.leaks) - _SHOWN} more" if len(audit.leaks) > _SHOWN else ""
    return (
        f"LEAK in {audit.dataset}: {len(audit.leaks)} of {audit.n_judged} questions of {audit.judged} have the text of "
        f"a question of {' or '.join(audit.fitted)} ({same} with the same options too): {shown}{more}"
    )


def _leak(question: Question, twins: Sequence[Question]) -> Leak:
    options = _options(question)
    same = next((twin for twin in twins if _options(twin) == options), None)
    return Leak(question_id=question.id, fitted_id=(same or twins[0]).id, has_same_options=same is not None)


def _options(question: Question) -> tuple[str, ...]:
    return tuple(sorted(normalised_text(option) for option in question.options))
