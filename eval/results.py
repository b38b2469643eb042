"""What a replay found, as one document: rows, baselines, curves, tables and audits, saved as strict JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from router_service.config import StrictModel, parse_model
from router_service.errors import ConfigError
from router_service.files import write_atomically

__all__ = [
    "REPORT_FORMAT",
    "REPORT_VERSION",
    "AccuracyTable",
    "Baseline",
    "Calibration",
    "CalibrationBin",
    "CostCurve",
    "CurvePoint",
    "DatasetCard",
    "Leak",
    "LeakAudit",
    "PairedDifference",
    "ReplayReport",
    "ReplayRow",
    "ReplaySettings",
    "ShareCurve",
    "SharePoint",
    "Skipped",
    "Unanswered",
]

REPORT_FORMAT: Final = "enlist replay report"
REPORT_VERSION: Final = 1

Interval = tuple[float, float]
"""Both ends of a 95 % interval."""


class _Result(StrictModel):
    """Base of the parts of a report: frozen, unknown keys and NaN are errors."""

    model_config = ConfigDict(allow_inf_nan=False)

    def as_json(self) -> dict[str, Any]:
        """The part as JSON holds it."""
        return self.model_dump(mode="json")


class PairedDifference(_Result):
    """By how much a strategy's mean grade exceeds another's on the same questions, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class CalibrationBin(_Result):
    """One of the equal-mass bins: how many chances fell in it, their mean, and the mean grade that followed."""

    n: int
    p_mean: float
    correct_mean: float


class Calibration(_Result):
    """How well stated chances are kept. `ece` is the mean of |p - correct| over the bins, weighted by their size
    (Naeini et al. 2015, here with bins of equal mass, as Nixon et al. 2019); `brier` the mean squared error (Brier
    1950)."""

    n: int
    ece: float
    brier: float
    bins: tuple[CalibrationBin, ...] = ()


class Unanswered(_Result):
    """How many questions got no answer, and how many of these were graded 0; the others count as recorded."""

    count: int = 0
    n_wrong: int = 0

    @property
    def judged(self) -> str:
        """How they count, in words."""
        if self.n_wrong == self.count:
            return "all count as wrong"
        return f"counted as wrong: {self.n_wrong}, as recorded: {self.count - self.n_wrong}"

    def with_one(self, grade: float) -> Unanswered:
        """One question more, graded `grade`."""
        return Unanswered(count=self.count + 1, n_wrong=self.n_wrong + (grade == 0))


class ReplayRow(_Result):
    """What one strategy (recruiter, aggregator and k on a pool) reached; means over the seeds where there are several.

    `k` is None where the recruiter sizes its panel itself ("free").
    """

    dataset: str
    pool: str
    recruiter: str
    aggregator: str
    k: int | None
    n: int
    accuracy: float
    ci95: Interval
    calls_per_query: float
    cost_usd_per_1k: float | None
    """None where a cost is unknown."""
    n_seeds: int = 1
    accuracy_sd: float | None = None
    """The standard deviation of the accuracy over the seeds; None with one seed."""
    vs_best_single: PairedDifference | None = None
    """Against the best single expert as chosen on the fitted questions."""
    vs_fixed: PairedDifference | None = None
    """Against the vote of the k best experts of the fitted questions, k as here (rounded calls where it is free)."""
    regret: float = 0.0
    """The mean of what the best expert of the pool reached on each question, less what this reached."""
    top1_accuracy: float | None = None
    """The mean grade of the first recruit."""
    top1_hit_rate: float | None = None
    """Where any expert of the pool is right: how often the first recruit is one of them. None where none ever is."""
    p_correct: Calibration | None = None
    """Of the recruits' P(correct); None where they have none."""
    confidence: Calibration | None = None
    """Of the answers' confidence; None where they have none."""
    fit_s: float | None = None
    """Seconds the recruiter took to learn."""
    recruit_ms_median: float | None = None
    recruit_ms_p99: float | None = None
    """Milliseconds that recruiting one query alone takes, its annotation being there."""
    decisions_per_s: float | None = None
    """Queries a second when all are recruited for at once, their annotations being there."""
    n_fallbacks: int = 0
    """Decisions for which the recruiter used its fallback rule (over all seeds)."""
    n_repeats: int = 0
    """Completions that repeat a recorded sample because more were drawn than recorded (over all seeds)."""
    failures: dict[str, Unanswered] = Field(default_factory=dict)
    """Questions without an answer, by error code (over all seeds)."""
    is_shuffled: bool = False
    """True for a control: fitted on grades shuffled over the questions, so that nothing but strength can be learnt."""

    @property
    def strategy(self) -> str:
        """Pool, recruiter, aggregator and k in words."""
        size = "free" if self.k is None else str(self.k)
        marked = ", fitted on shuffled grades" if self.is_shuffled else ""
        return f"{self.pool}, {self.recruiter}, {self.aggregator}, k = {size}{marked}"


class Baseline(_Result):
    """What a simple rule reaches, computed from the outcomes alone. `looks_at_test` marks what no one could choose
    beforehand: a bound, not a competitor."""

    dataset: str
    pool: str
    name: str
    accuracy: float
    ci95: Interval | None = None
    calls_per_query: float
    cost_usd_per_1k: float | None
    looks_at_test: bool = False
    detail: str = ""


class CurvePoint(_Result):
    """A point of a cost-quality curve. `cost` is in US dollars per 1,000 questions, `quality` a mean grade."""

    label: str
    cost: float
    quality: float
    is_pareto: bool = False
    """True where no point of the curve is both as cheap and better, or cheaper and as good."""


class CostCurve(_Result):
    """Quality against cost. `kind`: `models` (each alone), `mix` (straight-line price mix of the cheapest and the best
    model as chosen on the fitted questions), `recruiter` (its scores traded against the experts' mean costs on the
    fitted questions at every exchange rate) or `strategies` (the rows of a recruiter)."""

    dataset: str
    pool: str
    name: str
    kind: Literal["models", "mix", "recruiter", "strategies"]
    points: tuple[CurvePoint, ...]
    hull: tuple[tuple[float, float], ...] = ()
    """The non-decreasing convex hull as (cost, quality), from the cheapest point on (RouterBench, Hu et al. 2024)."""
    aiq: float | None = None
    """The mean height of the hull between the least and the greatest cost of all curves of this pool that make one
    call each, or of all kinds `strategies`; None where these are one."""


class SharePoint(_Result):
    """Quality, and performance gap recovered, where this share of the questions goes to the strong model."""

    share: float
    quality: float
    pgr: float


class ShareCurve(_Result):
    """A recruiter as RouteLLM judges routers between two models (Ong et al. 2024, section 2): `cpt50` and `cpt80` are
    the smallest shares of strong calls that recover 50 % and 80 % of the gap, `apgr` the mean gap recovered."""

    dataset: str
    pool: str
    name: str
    strong: str
    weak: str
    strong_quality: float
    weak_quality: float
    points: tuple[SharePoint, ...]
    apgr: float
    cpt50: float | None
    cpt80: float | None
    """None where the curve never gets there."""


class AccuracyTable(_Result):
    """Mean grades, experts × groups of questions. `accuracy[i][j]` belongs to `experts[i]` and `groups[j]`, with
    `counts[j]` questions; an outcome that was not recorded is wrong."""

    dataset: str
    split: str
    by: Literal["category", "skill", "benchmark"]
    groups: tuple[str, ...]
    counts: tuple[int, ...]
    experts: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]


class Leak(_Result):
    """A judged question whose text, normalised, was fitted on too."""

    question_id: str
    fitted_id: str
    has_same_options: bool = True
    """False where the two differ in their options, so that they may be different questions after all."""


class LeakAudit(_Result):
    """Which judged questions stand among the fitted ones, going by normalised text."""

    dataset: str
    fitted: tuple[str, ...]
    judged: str
    n_fitted: int
    n_judged: int
    leaks: tuple[Leak, ...] = ()


class Skipped(_Result):
    """A recruiter or aggregator that could not be run on a pool, and why."""

    dataset: str
    pool: str
    part: str
    reason: str


class DatasetCard(_Result):
    """What was replayed: questions per split, the models of each pool that was judged."""

    name: str
    splits: dict[str, int]
    pools: dict[str, tuple[str, ...]]
    has_skills: bool
    has_answers: bool
    has_costs: bool


class ReplaySettings(_Result):
    """How it was replayed. `ks` holds None for "free"."""

    recruiters: tuple[str, ...]
    aggregators: tuple[str, ...]
    ks: tuple[int | None, ...]
    seeds: tuple[int, ...]
    fit_on: tuple[str, ...]
    split: str
    embedder: str
    has_shuffled_control: bool = False


class ReplayReport(_Result):
    """Everything one replay found."""

    format: Literal["enlist replay report"] = REPORT_FORMAT
    version: Literal[1] = REPORT_VERSION
    created_at: str = ""
    """When it was finished, UTC, ISO 8601."""
    took_s: float = 0.0
    settings: ReplaySettings
    versions: dict[str, str] = Field(default_factory=dict)
    datasets: tuple[DatasetCard, ...] = ()
    rows: tuple[ReplayRow, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    cost_curves: tuple[CostCurve, ...] = ()
    share_curves: tuple[ShareCurve, ...] = ()
    accuracy_tables: tuple[AccuracyTable, ...] = ()
    leak_audits: tuple[LeakAudit, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Any, *, source: str = "replay report") -> ReplayReport:
        """The report in a parsed JSON document; raises `ConfigError` naming every key that is missing, wrong or
        unknown, and saying so where it is no report of this version."""
        kind = (data.get("format"), data.get("version")) if isinstance(data, dict) else (None, None)
        if kind != (REPORT_FORMAT, REPORT_VERSION):
            raise ConfigError(
                f"{source} is no replay report of version {REPORT_VERSION} (format {kind[0]!r}, version {kind[1]!r}); "
                "make one with `enlist eval replay --json FILE`"
            )
        return parse_model(cls, data, source)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON, whole or not at all."""
        write_atomically(Path(path), json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> ReplayReport:
        """Read what `save` wrote; raises `ConfigError` where the file is missing, damaged or of another format."""
        try:
            data = json.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no replay report at {path}; make one with `enlist eval replay --json {path}`") from None
        except (OSError, ValueError) as damaged:
            raise ConfigError(f"{path} is not readable as JSON: {damaged}") from None
        return cls.from_json(data, source=str(path))
