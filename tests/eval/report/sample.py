"""A small replay report with something of everything, for tests of the page."""

from __future__ import annotations

from eval.results import (
    AccuracyTable,
    Baseline,
    Calibration,
    CalibrationBin,
    CostCurve,
    CurvePoint,
    DatasetCard,
    Leak,
    LeakAudit,
    PairedDifference,
    ReplayReport,
    ReplayRow,
    ReplaySettings,
    ShareCurve,
    SharePoint,
    Skipped,
    Unanswered,
)

__all__ = ["HOSTILE", "difference", "report", "row"]

HOSTILE = "<img src=x onerror=alert(1)>\"'&"
"""A name that would run in a browser, were it not escaped."""

_CALIBRATION = Calibration(
    n=200,
    ece=0.05,
    brier=0.21,
    bins=(CalibrationBin(n=100, p_mean=0.3, correct_mean=0.35), CalibrationBin(n=100, p_mean=0.7, correct_mean=0.65)),
)


def difference(mean: float, *, half: float = 0.02) -> PairedDifference:
    return PairedDifference(mean=mean, low=mean - half, high=mean + half)


def row(recruiter: str, accuracy: float, **fields: object) -> ReplayRow:
    """A row of dataset d, pool p; `fields` replace what is usual."""
    usual: dict[str, object] = {
        "dataset": "d",
        "pool": "p",
        "recruiter": recruiter,
        "aggregator": "majority",
        "k": 3,
        "n": 200,
        "accuracy": accuracy,
        "ci95": (accuracy - 0.04, accuracy + 0.04),
        "calls_per_query": 3.0,
        "cost_usd_per_1k": 1.5,
        "regret": 0.3,
        "top1_hit_rate": 0.6,
        "vs_best_single": difference(accuracy - 0.5),
        "vs_fixed": difference(accuracy - 0.55),
    }
    return ReplayRow(**{**usual, **fields})  # type: ignore[arg-type]


def report() -> ReplayReport:
    """Two datasets, three pools; one with hostile names, one with a leak, one with unknown costs."""
    rows = (
        row("best_single", 0.5, k=1, calls_per_query=1.0, cost_usd_per_1k=2.0),
        row("fixed", 0.55, vs_fixed=difference(0.0, half=0.0)),
        row("fixed", 0.56, k=5, calls_per_query=5.0, cost_usd_per_1k=9.0),
        row("knn", 0.6, p_correct=_CALIBRATION, confidence=_CALIBRATION, recruit_ms_median=0.2, recruit_ms_p99=0.4),
        row("knn", 0.6, aggregator="weighted", k=None, calls_per_query=2.4, cost_usd_per_1k=0.9),
        row("symbolic", 0.45, failures={"aggregation_error": Unanswered(count=2, n_wrong=1)}),
        row("knn", 0.52, is_shuffled=True),
        *(row(f"tree{number}", 0.4 + number / 100) for number in range(12)),
        row(HOSTILE, 0.7, pool="odd", aggregator=HOSTILE, cost_usd_per_1k=None, vs_best_single=None, vs_fixed=None),
        row("best_single", 0.8, dataset="two", pool="pair", k=1, calls_per_query=1.0),
        row("knn", 0.79, dataset="two", pool="pair", k=1, calls_per_query=1.0, vs_best_single=difference(-0.01)),
    )
    return ReplayReport(
        created_at="2026-11-22T12:00:00+00:00",
        took_s=12.0,
        settings=ReplaySettings(
            recruiters=("best_single", "fixed", "knn"),
            aggregators=("majority", "weighted"),
            ks=(1, 3, None),
            seeds=(0, 1),
            fit_on=("fit", "extra"),
            split="test",
            embedder="hashing",
            has_shuffled_control=True,
        ),
        versions={"enlist": "0.1.0"},
        datasets=(
            DatasetCard(
                name="d",
                splits={"fit": 100, "test": 200},
                pools={"p": ("a", "b"), "odd": (HOSTILE,)},
                has_skills=True,
                has_answers=True,
                has_costs=True,
            ),
        ),
        rows=rows,
        baselines=(_baseline("best single", 0.5), _baseline("oracle", 0.9, looks_at_test=True)),
        cost_curves=(
            _curve("single models", "models", [("a", 0.5, 0.4), ("b", 2.0, 0.5)]),
            _curve("price mix", "mix", [("a", 0.5, 0.4), ("b", 2.0, 0.5)]),
            _curve("knn", "recruiter", [("cheap", 0.5, 0.4), ("dear", 2.0, 0.55)]),
        ),
        share_curves=(_share_curve(),),
        accuracy_tables=(
            AccuracyTable(
                dataset="d",
                split="fit",
                by="category",
                groups=("algebra", HOSTILE),
                counts=(40, 60),
                experts=("a", "b"),
                accuracy=((0.5, 0.6), (0.2, 0.9)),
            ),
        ),
        leak_audits=(
            LeakAudit(dataset="d", fitted=("fit", "extra"), judged="test", n_fitted=100, n_judged=200),
            LeakAudit(
                dataset="two",
                fitted=("fit",),
                judged="test",
                n_fitted=10,
                n_judged=20,
                leaks=(Leak(question_id="q7", fitted_id="q1"),),
            ),
        ),
        skipped=(Skipped(dataset="d", pool="p", part="modality", reason="no expert sees images"),),
        remarks=(f"a remark about {HOSTILE}",),
    )


def _baseline(name: str, accuracy: float, *, looks_at_test: bool = False) -> Baseline:
    return Baseline(
        dataset="d",
        pool="p",
        name=name,
        accuracy=accuracy,
        ci95=(accuracy - 0.04, accuracy + 0.04),
        calls_per_query=1.0,
        cost_usd_per_1k=2.0,
        looks_at_test=looks_at_test,
        detail="b",
    )


def _curve(name: str, kind: str, points: list[tuple[str, float, float]]) -> CostCurve:
    return CostCurve(
        dataset="d",
        pool="p",
        name=name,
        kind=kind,  # type: ignore[arg-type]
        points=tuple(CurvePoint(label=label, cost=cost, quality=quality) for label, cost, quality in points),
        hull=tuple((cost, quality) for _, cost, quality in points),
        aiq=sum(quality for _, _, quality in points) / len(points),
    )


def _share_curve() -> ShareCurve:
    return ShareCurve(
        dataset="two",
        pool="pair",
        name="knn",
        strong="gpt",
        weak="mixtral",
        strong_quality=0.8,
        weak_quality=0.6,
        points=tuple(SharePoint(share=s, quality=0.6 + 0.2 * s, pgr=s) for s in (0.0, 0.5, 1.0)),
        apgr=0.5,
        cpt50=0.5,
        cpt80=None,
    )
