"""The vocabulary: frozen value objects that pass between the rooms; standard library only.

Units are in the names (`_usd`, `_s`, `_tokens`, `_per_mtok`); an unknown price or cost is None, never 0.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol, runtime_checkable

__all__ = [
    "Answer",
    "AnswerKind",
    "Answered",
    "Ask",
    "Assignment",
    "AudioPart",
    "Budget",
    "Completion",
    "CompletionError",
    "CompletionFinished",
    "ContentPart",
    "DecisionMade",
    "Elimination",
    "Event",
    "Expert",
    "ExpertBatch",
    "ExpertLimits",
    "Failed",
    "ImagePart",
    "Message",
    "Outcome",
    "Panel",
    "Prices",
    "Profile",
    "Query",
    "Question",
    "Recruit",
    "Role",
    "RouteControls",
    "RouteDecision",
    "RouteFailure",
    "RouteResponse",
    "Sampling",
    "Secret",
    "SkillAnnotation",
    "Tally",
    "TaskFormat",
    "TextPart",
    "TokenDelta",
    "ToolCall",
    "Usage",
    "stable_seed",
    "user_query",
]

Role = Literal["system", "developer", "user", "assistant", "tool"]


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on the parts' texts alone: same parts, same seed, on any machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Secret:
    """A text that never shows itself: `repr`, `str` and comparison messages hide it; `reveal()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself; call it only where it leaves for its destination."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


# --- what is asked -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """An image by URL or data URL."""

    url: str
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioPart:
    """Audio as base64 text in the named format (wav, mp3)."""

    data: str
    format: str


ContentPart = TextPart | ImagePart | AudioPart


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool that a model proposes; `arguments` is JSON text, as in the OpenAI API."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str | tuple[ContentPart, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the message, parts joined by line breaks, images and audio left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))


class AnswerKind(enum.StrEnum):
    """How an answer is written, which decides how it is extracted, compared and graded."""

    FREE = "free"
    CHOICE = "choice"
    NUMBER = "number"
    LITERAL = "literal"
    CODE = "code"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFormat:
    """What an answer must look like: its kind, the options of a choice, the schema (JSON text) of a JSON answer."""

    kind: AnswerKind = AnswerKind.FREE
    options: tuple[str, ...] = ()
    json_schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings; None leaves the choice to the next in line: query, then expert, then backend."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def over(self, default: Sampling) -> Sampling:
        """These settings where given, else those of `default`."""

        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(default, **{name: value for name, value in given.items() if value not in (None, ())})


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits of one query over everything done for it; None is no limit."""

    max_completions: int | None = None
    max_cost_usd: float | None = None
    max_output_tokens: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was spent; adds up. `cost_usd` is None as soon as one part of it is unknown."""

    completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        cost = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        return Usage(
            completions=self.completions + other.completions,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=cost,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteControls:
    """What a caller decides for one query; None leaves it to the engine's configuration.

    `expert` names one registered expert and bypasses annotation and recruiting.
    `streams` asks for token deltas of the text that becomes the answer.
    """

    recruiter: str | None = None
    aggregator: str | None = None
    k: int | None = None
    expert: str | None = None
    experts_allowed: tuple[str, ...] = ()
    experts_denied: tuple[str, ...] = ()
    streams: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question with all that is known of how to answer it. `tools` holds each tool definition as JSON text.

    `parent_id` names the query on whose budget this one runs: what an annotator or aggregator asks of an LLM.
    """

    id: str
    messages: tuple[Message, ...]
    task_format: TaskFormat = TaskFormat()
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    controls: RouteControls = RouteControls()
    tools: tuple[str, ...] = ()
    tool_choice: str | None = None
    seed: int | None = None
    parent_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text of the last user message: what annotators and embedders read."""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text
        return ""

    @property
    def modalities(self) -> frozenset[str]:
        """The kinds of content in the messages: text, and image or audio where a part holds one."""
        kinds = {"text"}
        for message in self.messages:
            for part in () if isinstance(message.content, str) else message.content:
                kinds.add({"ImagePart": "image", "AudioPart": "audio"}.get(type(part).__name__, "text"))
        return frozenset(kinds)


def user_query(query_id: str, text: str, *, task_format: TaskFormat | None = None, seed: int | None = None) -> Query:
    """A query of one user message: the short way for scripts and tests."""
    message = Message(role="user", content=text)
    return Query(id=query_id, messages=(message,), task_format=task_format or TaskFormat(), seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One benchmark or fit question, with its reference answer where there is one (None where not)."""

    id: str
    text: str
    benchmark: str = ""
    category: str | None = None
    subject: str | None = None
    options: tuple[str, ...] = ()
    answer: str | None = None
    answer_kind: AnswerKind = AnswerKind.FREE
    split: str = "fit"
    skills: tuple[str, ...] = ()


# --- who can answer ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices in USD per million tokens; a call without a price field costs 'unknown', not nothing."""

    input_usd_per_mtok: float
    output_usd_per_mtok: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLimits:
    """How hard an expert may be worked: calls at once, tries per call, seconds per call."""

    max_concurrency: int = 8
    max_attempts: int = 3
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expert:
    """One recruitable entry of a pool: a model behind a backend, with its price, limits and persona.

    `parameters_b` is in billions, `memory_gib` in GiB, `lora_base` the model folder or id that `adapter` sits on.
    `options` holds what only its backend understands, checked by that backend when the pool is loaded.
    """

    id: str
    model: str
    backend: str
    address: str | None = None
    api_key: Secret | None = None
    prices: Prices | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    modalities: frozenset[str] = frozenset({"text"})
    parameters_b: float | None = None
    memory_gib: float | None = None
    lora_base: str | None = None
    adapter: str | None = None
    persona: str | None = None
    description: str | None = None
    sampling: Sampling = Sampling()
    limits: ExpertLimits = ExpertLimits()
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    is_enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Graded trials: `wins` is the sum of grades (0..1 each), `trials` their number."""

    wins: float = 0.0
    trials: int = 0

    @property
    def net(self) -> float:
        """Wins minus losses: the ±1 sum of Symbolic-MoE (section 3.1; released code, profile building)."""
        return 2.0 * self.wins - self.trials

    def rate(self, prior: float = 0.5, weight: float = 2.0) -> float:
        """The smoothed success rate `(wins + prior*weight) / (trials + weight)`: Beta posterior mean."""
        return (self.wins + prior * weight) / (self.trials + weight)

    def __add__(self, other: Tally) -> Tally:
        return Tally(wins=self.wins + other.wins, trials=self.trials + other.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one expert was seen to be good at: a tally overall, per skill and per category."""

    expert_id: str
    overall: Tally = Tally()
    skills: Mapping[str, Tally] = field(default_factory=dict)
    categories: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def support(self) -> int:
        """The number of graded questions behind this profile."""
        return self.overall.trials


# --- what is decided -----------------------------------------------------------------------------------------------


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
    """An expert that was not recruitable for a query, and why."""

    expert_id: str
    reason: str


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
    """One request to one expert: the query, and how many samples of it (numbered from `first_sample`)."""

    query: Query
    samples: int = 1
    first_sample: int = 0
    seed: int = 0
    streams: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertBatch:
    """All that one expert is asked in one wave, so that its model is loaded once."""

    expert_id: str
    assignments: tuple[Assignment, ...]


# --- what comes back -----------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """All an aggregator sees: the query, how it was routed, and every completion, in order of recruiting."""

    query: Query
    annotation: SkillAnnotation
    decision: RouteDecision
    completions: tuple[Completion, ...]

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
    `usage` is what the aggregator itself spent (nothing for a vote); `confidence` is in [0, 1] or unknown.
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
    """One graded completion of one expert on one question: the unit of profiling and replay."""

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


# --- the engine's events -------------------------------------------------------------------------------------------


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


@runtime_checkable
class Ask(Protocol):
    """The right to call an expert, passed in: budgeted, and coalesced with other calls to the same expert."""

    async def __call__(self, expert_id: str, query: Query, *, is_visible: bool = False) -> Completion:
        """One completion of `query` by `expert_id`.

        A failed call is a `Completion` with `error` set. With `is_visible` the text becomes the answer, so its tokens
        are streamed to the caller as they come. Raises `BudgetExceeded` where the query's budget does not cover it,
        and `UnknownNameError` for an expert that is not registered.
        """
        ...
