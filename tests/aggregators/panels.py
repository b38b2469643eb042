"""Builds panels and a fake `Ask` for the tests of this room."""

from __future__ import annotations

import math

from aggregators.base import AGGREGATORS, LearnedAggregator
from router_service.types import (
    AnswerKind,
    Completion,
    CompletionError,
    Execution,
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
    TextScore,
    Usage,
    user_query,
)

CHOICE = TaskFormat(kind=AnswerKind.CHOICE, options=("one", "two", "three", "four"))
WINDOW_TOKENS = 32_768
CALL_USAGE = Usage(completions=1, prompt_tokens=30, completion_tokens=5, cost_usd=0.25)
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


def pool_of(expert_ids, *, window_tokens=WINDOW_TOKENS, spare=()) -> dict[str, Expert]:
    """Entries for these experts, and for `spare` ones that were not recruited, by id; each with the same window."""
    return {
        expert_id: Expert(id=expert_id, model=f"model-of-{expert_id}", backend="echo", context_window=window_tokens)
        for expert_id in dict.fromkeys((*expert_ids, *spare))
    }


def panel(completions, *, task_format=CHOICE, p=None, seed=7, query: Query | None = None, experts=None):
    """A panel of `completions`; `p` maps experts to P(correct), `experts` ids to entries (none, unless given: see
    `pool_of`)."""
    recruits = tuple(
        Recruit(expert_id=expert_id, p_correct=(p or {}).get(expert_id))
        for expert_id in dict.fromkeys(c.expert_id for c in completions)
    )
    return Panel(
        query=query or user_query("q", "Which one is it?", task_format=task_format),
        annotation=SkillAnnotation(query_id="q"),
        decision=RouteDecision(query_id="q", recruits=recruits, recruiter="fixed", seed=seed),
        completions=tuple(completions),
        experts=experts or {},
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


def shown_choice(query_id="q") -> Query:
    """A choice question that shows its options."""
    text = "Which one is it?\n\nA) one\nB) two\nC) three\nD) four\n\nAnswer with the letter of the right option."
    return user_query(query_id, text, task_format=CHOICE)


class FakeAsk:
    """Answers every call with `text` (or the result of `text(query)`), and remembers the calls.

    `spent` adds up what the calls used, `refused` counts those that raised. `error` makes every call a failed one,
    `raises` raises; with `until` only the calls after the first so many do.
    """

    def __init__(self, text="The answer is (A)", *, error=None, raises=None, until=0):
        self.text, self.error, self.raises, self.until = text, error, raises, until
        self.calls = []
        self.spent = Usage()
        self.refused = 0

    async def __call__(self, expert_id, query, *, is_visible=False):
        self.calls.append((expert_id, query, is_visible))
        is_well = len(self.calls) <= self.until
        if self.raises is not None and not is_well:
            self.refused += 1
            raise self.raises
        text = self.text(query) if callable(self.text) else self.text
        error = None if is_well else self.error
        self.spent += CALL_USAGE
        return Completion(
            query_id=query.id,
            expert_id=expert_id,
            text="" if error else text,
            finish_reason="stop",
            usage=CALL_USAGE,
            error=error,
        )


class FakeScoringAsk(FakeAsk):
    """A `FakeAsk` that also reads texts: `score_of(query, text)` gives nats per token, words are tokens.

    `cannot` names experts whose backend reads none; `scored` remembers (expert, [(query, text), ...]).
    """

    def __init__(self, text="The answer is (A)", *, score_of=None, cannot=(), score_raises=None, **more):
        super().__init__(text, **more)
        self.score_of = score_of or (lambda query, text: -1.0 - math.log1p(len(text)) / 10)
        self.cannot, self.score_raises = frozenset(cannot), score_raises
        self.scored = []

    def can_score(self, expert_id):
        return expert_id not in self.cannot

    async def score(self, expert_id, texts):
        self.scored.append((expert_id, list(texts)))
        if self.score_raises is not None:
            raise self.score_raises
        lengths = [len(text.split()) for _, text in texts]
        return [
            TextScore(logprob_sum=self.score_of(query, text) * tokens, tokens=tokens)
            for (query, text), tokens in zip(texts, lengths, strict=True)
        ]


class FakeExecutingAsk(FakeAsk):
    """A `FakeAsk` that also "runs" programs: `execution_of(program)` says how each ends, well unless given.

    `executed` remembers (query, [program, ...]).
    """

    def __init__(self, text="The answer is (A)", *, execution_of=None, execute_raises=None, **more):
        super().__init__(text, **more)
        self.execution_of = execution_of or (lambda program: Execution(exit_code=0))
        self.execute_raises = execute_raises
        self.executed = []

    async def execute(self, query, programs):
        self.executed.append((query, list(programs)))
        if self.execute_raises is not None:
            raise self.execute_raises
        return [self.execution_of(program) for program in programs]


class FakeFullAsk(FakeScoringAsk, FakeExecutingAsk):
    """All that an engine's `ask` can do, faked."""
