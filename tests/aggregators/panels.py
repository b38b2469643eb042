"""Builds panels and a fake `Ask` for the tests of this room."""

from __future__ import annotations

from aggregators.base import AGGREGATORS, LearnedAggregator
from router_service.types import (
    AnswerKind,
    Completion,
    CompletionError,
    Expert,
    FitData,
    Outcome,
    Panel,
    Query,
    Question,
    Recruit,
    RouteDecision,
    SkillAnnotation,
    TaskFormat,
    Usage,
    user_query,
)

CHOICE = TaskFormat(kind=AnswerKind.CHOICE, options=("one", "two", "three", "four"))
TEXTS = {AnswerKind.CHOICE: "I weigh it. The answer is ({}).", AnswerKind.FREE: "{}"}


def said(expert_id, answer, *, sample=0, text=None, calls=(), task_format=CHOICE):
    """A completion of `expert_id` that holds `answer`; None for one that was finished without an answer."""
    pattern = TEXTS.get(task_format.kind, "The answer is {}")
    written = text if text is not None else ("No idea." if answer is None else pattern.format(answer))
    return Completion(
        query_id="q", expert_id=expert_id, sample=sample, text=written, extracted=answer, tool_calls=tuple(calls)
    )


def failed(expert_id, *, code="expert_timeout", text="The answer is (D)", extracted="D"):
    """A completion that failed; it holds a text and an answer all the same, which nobody may count."""
    error = CompletionError(code=code, message="too late")
    return Completion(query_id="q", expert_id=expert_id, text=text, extracted=extracted, error=error)


def panel(completions, *, task_format=CHOICE, p=None, seed=7, query: Query | None = None):
    """A panel of `completions`; `p` maps experts to P(correct)."""
    recruits = tuple(
        Recruit(expert_id=expert_id, p_correct=(p or {}).get(expert_id))
        for expert_id in dict.fromkeys(c.expert_id for c in completions)
    )
    return Panel(
        query=query or user_query("q", "Which one is it?", task_format=task_format),
        annotation=SkillAnnotation(query_id="q"),
        decision=RouteDecision(query_id="q", recruits=recruits, recruiter="fixed", seed=seed),
        completions=tuple(completions),
    )


def lessons(experts=("ann", "ben", "cyd", "dan", "eve"), questions=24) -> FitData:
    """Graded outcomes in which the experts are right more or less often, and the last two err alike."""
    outcomes, known = [], {}
    for number in range(questions):
        question_id = f"fit{number}"
        known[question_id] = Question(id=question_id, text=f"Case {number}?", answer="A", answer_kind=AnswerKind.CHOICE)
        for place, expert_id in enumerate(experts):
            is_right = (number * 7 + 3 * min(place, len(experts) - 2)) % (place + 3) > 0
            letter = "A" if is_right else "BCD"[(number + min(place, len(experts) - 2)) % 3]
            outcomes.append(
                Outcome(
                    dataset="d",
                    split="fit",
                    question_id=question_id,
                    expert_id=expert_id,
                    extracted=letter,
                    correct=float(is_right),
                    completion_tokens=10 + 5 * place + number % 4,
                )
            )
    annotations = {i: SkillAnnotation(query_id=i, category=("arts", "maths")[n % 2]) for n, i in enumerate(known)}
    pool = tuple(Expert(id=expert_id, model="m", backend="echo") for expert_id in experts)
    return FitData(experts=pool, outcomes=tuple(outcomes), annotations=annotations, questions=known)


def made(name, options=None):
    """The registered aggregator, fitted on `lessons` where it learns."""
    aggregator = AGGREGATORS.create(name, options)
    return aggregator.fit(lessons()) if isinstance(aggregator, LearnedAggregator) else aggregator


class FakeAsk:
    """Answers every call with `text` (or the result of `text(query)`), and remembers the calls."""

    def __init__(self, text="The answer is (A)", *, error=None, raises=None):
        self.text, self.error, self.raises = text, error, raises
        self.calls = []

    async def __call__(self, expert_id, query, *, is_visible=False):
        self.calls.append((expert_id, query, is_visible))
        if self.raises is not None:
            raise self.raises
        text = self.text(query) if callable(self.text) else self.text
        return Completion(
            query_id=query.id,
            expert_id=expert_id,
            text="" if self.error else text,
            finish_reason="stop",
            usage=Usage(completions=1, prompt_tokens=30, completion_tokens=5, cost_usd=0.25),
            error=self.error,
        )
