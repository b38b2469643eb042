"""What is decided and what comes back: decisions, completions, answers, events (import from `router_service.types`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from router_service._types_asked import Query, ToolCall, Usage
from router_service._types_experts import Expert

__all__ = [
    "NOT_NEEDED",
    "Answer",
    "Answered",
    "Assignment",
    "Completion",
    "CompletionError",
    "CompletionFinished",
    "DecisionMade",
    "Elimination",
    "Event",
    "ExpertBatch",
    "Failed",
    "Outcome",
    "Panel",
    "Recruit",
    "RouteDecision",
    "RouteFailure",
    "RouteResponse",
    "SkillAnnotation",
    "TokenDelta",
]


NOT_NEEDED = "not_needed"
"""Code of a completion that was stopped, or never asked for, because it could no longer change the outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillAnnotation:
    """The skills a query needs with their weights; novelty in [0, 1], 1 = like nothing seen when fitting.

    `embedding` is a unit-length vector of the query text where the annotator made one.
    `nearest` names the fitted questions it was read from, nearest first, with their cosine similarity.
    """

    query_id: str
    skills: Mapping[str, float] = field(default_factory=dict)
    category: str | None = None
    novelty: float | None = None
    annotator: str = "none"
    embedding: Sequence[float] | None = field(default=None, repr=False, compare=False)
    nearest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recruit:
    """One recruited expert; drawn twice means `samples` = 2. `p_correct` is None where no profile says."""

    expert_id: str
    score: float = 0.0
    p_correct: float | None = None
    samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Elimination:
    """An expert that was not recruitable for a query, and why.

    `code` is the kind of reason (`router_service.recruit.eligibility`); `cost_usd` is what one call costs at most where
    that is the reason.
    """

    expert_id: str
    reason: str
    code: str = "ineligible"
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDecision:
    """Who is asked, how often, and how their completions become one answer.

    `scores` holds the recruiter's score of every eligible expert, recruited or not.
    `estimate` is the usage to expect at most; its `cost_usd` is None where a price is unknown.
    """

    query_id: str
    recruits: tuple[Recruit, ...]
    recruiter: str
    aggregator: str | None = None
    eliminated: tuple[Elimination, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    is_fallback: bool = False
    fallback_reason: str | None = None
    estimate: Usage | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One request to one expert: the query, and how many samples of it (numbered from `first_sample`).

    `position` is the expert's place among the query's recruits, so that a panel keeps its order in any batch.
    """

    query: Query
    samples: int = 1
    first_sample: int = 0
    seed: int = 0
    streams: bool = False
    position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertBatch:
    """All that one expert is asked in one wave, so that its model is loaded once.

    `device` names where a scheduler placed it; None where its backend has no devices to choose from.
    """

    expert_id: str
    assignments: tuple[Assignment, ...]
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionError:
    """Why a completion failed: the code of the error tree, the message, and whether another try may help."""

    code: str
    message: str
    is_retryable: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What one expert said once. `logprob` is the mean log-probability per token (nats) where known."""

    query_id: str
    expert_id: str
    sample: int = 0
    text: str = ""
    extracted: str | None = None
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage(completions=1, cost_usd=None)
    latency_s: float = 0.0
    logprob: float | None = None
    error: CompletionError | None = None

    @property
    def succeeded(self) -> bool:
        """True where the expert said something usable."""
        return self.error is None

    @property
    def was_needed(self) -> bool:
        """False where it was stopped because it could no longer change the outcome: neither a success nor a failure."""
        return self.error is None or self.error.code != NOT_NEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """All an aggregator sees: the query, how it was routed, and every completion, in order of recruiting.

    `experts` are those it may ask, by id, whether recruited or not: their windows, prices and limits. Empty where
    nobody said.
    """

    query: Query
    annotation: SkillAnnotation
    decision: RouteDecision
    completions: tuple[Completion, ...]
    experts: Mapping[str, Expert] = field(default_factory=dict, repr=False, compare=False)

    @property
    def members(self) -> tuple[Completion, ...]:
        """The completions that succeeded; failed ones never count."""
        return tuple(c for c in self.completions if c.succeeded)

    def p_correct(self, expert_id: str) -> float | None:
        """The recruiter's P(correct) of an expert for this query; None where it has none."""
        for recruit in self.decision.recruits:
            if recruit.expert_id == expert_id:
                return recruit.p_correct
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer made of many completions.

    `supporters` are the experts whose completions it rests on; `agreement` is the share of members that hold it;
    `usage` is what the aggregator itself spent (nothing for a vote); `confidence` is in [0, 1] or unknown. `notes` say
    in plain words what the caller should know of how it came about: drafts that were cut, a cheaper aggregator that
    stood in, a reply that was repaired.
    """

    text: str
    extracted: str | None = None
    aggregator: str = ""
    supporters: tuple[str, ...] = ()
    agreement: float = 0.0
    confidence: float | None = None
    usage: Usage = Usage()
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteResponse:
    """The envelope of an answered query; `usage` covers annotator, experts and aggregator."""

    query_id: str
    annotation: SkillAnnotation
    decision: RouteDecision
    completions: tuple[Completion, ...]
    answer: Answer
    usage: Usage
    overhead_s: float = 0.0

    @property
    def calls_saved(self) -> int:
        """Completions that nobody waited for, because they could no longer change the outcome."""
        return sum(not completion.was_needed for completion in self.completions)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFailure:
    """A query that got no answer: why, and what was finished before."""

    query_id: str
    code: str
    message: str
    annotation: SkillAnnotation | None = None
    decision: RouteDecision | None = None
    completions: tuple[Completion, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One graded completion of one expert on one question: the unit of profiling and replay.

    `logprob` is the completion's, where the backend gave one.
    """

    dataset: str
    split: str
    question_id: str
    expert_id: str
    sample: int = 0
    extracted: str | None = None
    correct: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    logprob: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMade:
    """A query was routed."""

    query_id: str
    annotation: SkillAnnotation
    decision: RouteDecision


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionFinished:
    """An expert finished one sample, well or not."""

    query_id: str
    completion: Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """A piece of the text that becomes the answer; all pieces of a query together are the answer's text."""

    query_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A query is answered."""

    query_id: str
    response: RouteResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A query failed; the others go on."""

    query_id: str
    failure: RouteFailure


Event = DecisionMade | CompletionFinished | TokenDelta | Answered | Failed
