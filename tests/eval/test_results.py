"""A report comes back from its file as it was, and a file that is no report says what it is instead."""

from __future__ import annotations

import json

import pytest

from eval.results import (
    Calibration,
    CalibrationBin,
    CostCurve,
    CurvePoint,
    LeakAudit,
    PairedDifference,
    ReplayReport,
    ReplayRow,
    ReplaySettings,
    Unanswered,
)
from router_service.errors import ConfigError

SETTINGS = ReplaySettings(
    recruiters=("fixed",),
    aggregators=("majority",),
    ks=(3, None),
    seeds=(0, 1),
    fit_on=("fit",),
    split="test",
    embedder="hashing",
)
ROW = ReplayRow(
    dataset="d",
    pool="p",
    recruiter="fixed",
    aggregator="majority",
    k=None,
    n=2,
    accuracy=0.5,
    ci95=(0.0, 1.0),
    calls_per_query=2.5,
    cost_usd_per_1k=None,
    vs_fixed=PairedDifference(mean=0.1, low=-0.1, high=0.3),
    p_correct=Calibration(n=2, ece=0.1, brier=0.2, bins=(CalibrationBin(n=2, p_mean=0.5, correct_mean=0.5),)),
    failures={"aggregation_error": Unanswered(count=1, n_wrong=1)},
)
REPORT = ReplayReport(
    settings=SETTINGS,
    rows=(ROW,),
    cost_curves=(
        CostCurve(
            dataset="d",
            pool="p",
            name="knn",
            kind="recruiter",
            points=(CurvePoint(label="a", cost=1.0, quality=0.5),),
            hull=((1.0, 0.5),),
        ),
    ),
    leak_audits=(LeakAudit(dataset="d", fitted=("fit",), judged="test", n_fitted=1, n_judged=2),),
)


def test_a_report_survives_its_file(tmp_path):
    path = tmp_path / "deep" / "report.json"
    REPORT.save(path)
    assert ReplayReport.load(path) == REPORT


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: d.update(version=2), "version 2"),
        (lambda d: d.pop("format"), "no replay report"),
        (lambda d: d["rows"][0].update(acuracy=1.0), "Did you mean 'accuracy'"),
        (lambda d: d["rows"][0].pop("n"), "rows.0.n"),
        (lambda d: d["rows"][0].update(accuracy="good"), "rows.0.accuracy"),
    ],
)
def test_a_document_that_is_no_report_is_refused_with_what_is_wrong(spoil, said):
    document = json.loads(json.dumps(REPORT.as_json()))
    spoil(document)
    with pytest.raises(ConfigError, match=said):
        ReplayReport.from_json(document)


def test_what_is_no_number_cannot_be_reported():
    with pytest.raises(ValueError, match="finite"):
        PairedDifference(mean=float("nan"), low=0.0, high=0.0)


def test_a_missing_or_broken_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="enlist eval replay --json"):
        ReplayReport.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not readable as JSON"):
        ReplayReport.load(tmp_path / "broken.json")


def test_a_row_names_its_strategy():
    assert ROW.strategy == "p, fixed, majority, k = free"
    assert ROW.model_copy(update={"is_shuffled": True}).strategy.endswith("fitted on shuffled grades")
