"""A whole report on small datasets: comparisons, controls, seeds, resuming, audits and tables, as counted by hand."""

from __future__ import annotations

import pytest

from eval.datasets import load_dataset
from eval.replay import FREE, ReplayPlan, replay
from eval.replay_bench import DatasetBench, PoolBench
from eval.replay_plan import Strategy
from eval.replay_report import load_datasets, replay_report
from eval.replay_tables import report_tables
from eval.results import ReplayReport
from router_service.errors import ConfigError
from router_service.recruit.base import RECRUITERS
from router_service.types import MAX_K, Recruit, RouteDecision
from skills.base import ANNOTATORS
from tests.eval.recorded_dataset import write_dataset


def plan(*recruiters, **changes):
    return ReplayPlan(**{"pools": ("trio",), "recruiters": recruiters, "embedder": "hashing", **changes})


@pytest.fixture
def tiny(tmp_path):
    return load_dataset(write_dataset(tmp_path / "tiny"))


async def test_a_panel_greater_than_any_fixed_one_is_compared_with_none(tiny, monkeypatch):
    monkeypatch.setattr("eval.replay_pool.MAX_K", 2)
    [result] = await replay(tiny, plan("all", ks=(FREE,)))
    assert result.row.calls_per_query > 2
    assert result.row.vs_fixed is None


# --- rows ------------------------------------------------------------------------------------------------------------


async def test_rows_are_compared_with_the_best_single_expert_and_the_fixed_panel(tiny):
    """`counter` leads by order: right on the 12 numbers; a fixed pair of the two good ones ties, and the first wins."""
    single, pair, routed = [
        result.row for result in await replay(tiny, plan("best_single", "fixed", "symbolic", ks=(2,)))
    ]
    assert (single.vs_best_single.mean, single.vs_best_single.low, single.vs_best_single.high) == (0, 0, 0)
    assert (pair.vs_fixed.mean, pair.accuracy) == (0, 0.5)
    assert routed.vs_best_single.mean == routed.accuracy - 0.5
    assert routed.vs_fixed.mean == routed.accuracy - pair.accuracy
    assert routed.vs_best_single.low <= routed.vs_best_single.mean <= routed.vs_best_single.high


async def test_regret_and_first_recruits_are_counted_against_the_best_of_the_pool(tiny):
    single, routed = [result.row for result in await replay(tiny, plan("best_single", "symbolic"))]
    assert (single.regret, single.top1_accuracy, single.top1_hit_rate) == (0.5, 0.5, 0.5)
    assert (routed.regret, routed.top1_accuracy, routed.top1_hit_rate) == (0.0, 1.0, 1.0)


async def test_stated_chances_are_held_against_what_was_recorded(tiny):
    [row] = [result.row for result in await replay(tiny, plan("best_single"))]
    assert row.p_correct.n == 24
    assert sum(part.n * part.correct_mean for part in row.p_correct.bins) == pytest.approx(12)
    assert row.confidence.n == 24
    assert row.recruit_ms_median <= row.recruit_ms_p99 and row.decisions_per_s > 0 and row.fit_s >= 0


async def test_a_free_size_is_the_recruiters_own(tiny):
    rows = [result.row for result in await replay(tiny, plan("fixed", "all", ks=(1, FREE)))]
    assert [(row.k, row.calls_per_query) for row in rows] == [(1, 1), (None, 3), (1, 3), (None, 3)]
    assert rows[1].vs_fixed.mean == 0  # the fixed panel of as many calls is itself


@pytest.mark.parametrize(("own", "shown"), [(None, None), (3, MAX_K)])
async def test_who_sizes_panels_goes_by_its_own_limit_or_by_the_highest(tiny, own, shown):
    seen = set()

    class Sizing(Boastful):
        sizes_panel = True
        k = own

        def recruit(self, requests):
            seen.update(request.query.controls.k for request in requests)
            sure = (Recruit(expert_id=self.first, p_correct=0.5),)
            return [RouteDecision(query_id=r.query.id, recruits=sure, recruiter="sizing") for r in requests]

    RECRUITERS.register("sizing")(Sizing)
    try:
        await replay(tiny, plan("sizing", ks=(FREE,)))
    finally:
        del RECRUITERS._factories["sizing"]
    assert seen - {1} == {shown}  # curves are drawn at one call


async def test_what_is_drawn_is_averaged_over_seeds_and_the_rest_is_not_repeated(tiny):
    drawn, fixed = await replay(tiny, plan("random", "fixed", ks=(1,), n_seeds=4, seed=7))
    assert (drawn.row.n_seeds, fixed.row.n_seeds) == (4, 2)
    assert (drawn.row.accuracy_sd > 0, fixed.row.accuracy_sd) == (True, 0)
    alone = [(await replay(tiny, plan("random", ks=(1,), seed=seed)))[0].row.accuracy for seed in range(7, 11)]
    assert drawn.row.accuracy == pytest.approx(sum(alone) / 4)


async def test_repeated_samples_are_counted_and_said(tiny):
    """`symbolic` draws three times among at most three experts, of which one sample each was recorded."""
    report = await replay_report([tiny], plan("symbolic", "fixed", ks=(3,)))
    drawn, fixed = report.rows
    assert (drawn.n_repeats, fixed.n_repeats) == (48, 0)  # always the one who knows, thrice
    [said] = [remark for remark in report.remarks if "repeated" in remark]
    assert "symbolic (up to 67% of its calls)" in said and "fixed" not in said


# --- the control -----------------------------------------------------------------------------------------------------


async def test_what_is_fitted_on_shuffled_grades_knows_no_skills(tiny):
    routed, control = [r.row for r in await replay(tiny, plan("symbolic", ks=(3,), has_shuffled_control=True))]
    assert (routed.is_shuffled, control.is_shuffled) == (False, True)
    assert routed.accuracy == 1.0
    assert control.accuracy < 0.8


async def test_shuffling_deals_out_each_experts_grades_anew_and_keeps_their_number(tiny):
    bench = DatasetBench(tiny, plan("fixed"))
    annotator = ANNOTATORS.create("blank")
    told, shuffled = [PoolBench(bench, tiny.pool("trio"), annotator, is_shuffled=flag) for flag in (False, True)]
    for one in (told, shuffled):
        assert one.problem_with(Strategy(recruiter="fixed", aggregator="majority", k=1)) is None
    rates = [
        {expert_id: profile.overall for expert_id, profile in one.recruiters.get("fixed").roster_.profiles.items()}
        for one in (told, shuffled)
    ]
    skills = [one.recruiters.get("fixed").roster_.profiles["counter"].skills for one in (told, shuffled)]
    assert rates[0] == rates[1]
    assert skills[0] != skills[1]


# --- parts that cannot be used ---------------------------------------------------------------------------------------


class Unfit:
    """A recruiter that finds nothing to learn from."""

    needs_annotation = False

    def fit(self, data):
        raise ConfigError("there is nothing to learn from")


@pytest.fixture
def unfit():
    RECRUITERS.register("unfit")(Unfit)
    yield "unfit"
    del RECRUITERS._factories["unfit"]


async def test_a_recruiter_that_cannot_be_fitted_is_an_error_where_it_was_named(tiny, unfit):
    with pytest.raises(ConfigError, match="nothing to learn from"):
        await replay(tiny, plan("fixed", unfit))


async def test_a_recruiter_that_cannot_be_fitted_is_left_out_where_all_are_judged(tiny, unfit):
    report = await replay_report([tiny], plan(ks=(1,)))
    assert {"fixed", "symbolic"} <= {row.recruiter for row in report.rows}
    assert [(s.part, s.reason) for s in report.skipped if "unfit" in s.part] == [
        ("recruiter 'unfit'", "there is nothing to learn from")
    ]
    assert "tiny, trio: recruiter 'unfit' left out: there is nothing to learn from" in report.remarks


class Boastful:
    """A recruiter that claims more than certainty, which no calibration can hold."""

    needs_annotation = False

    def fit(self, data):
        self.first = data.experts[0].id
        return self

    def recruit(self, requests):
        sure = (Recruit(expert_id=self.first, p_correct=1.5),)
        return [RouteDecision(query_id=r.query.id, recruits=sure, recruiter="boastful") for r in requests]


async def test_a_strategy_that_cannot_be_judged_does_not_end_the_replay_of_all(tiny):
    RECRUITERS.register("boastful")(Boastful)
    try:
        with pytest.raises(ValueError, match="outside"):
            await replay(tiny, plan("boastful"))
        report = await replay_report([tiny], plan(ks=(1,)))
    finally:
        del RECRUITERS._factories["boastful"]
    assert "boastful" not in {row.recruiter for row in report.rows}
    assert [s.reason for s in report.skipped if "boastful" in s.part] == ["ValueError('a chance lies outside [0, 1]')"]


# --- going on --------------------------------------------------------------------------------------------------------


async def test_an_interrupted_replay_goes_on_where_it_was(tiny, tmp_path):
    kept = tmp_path / "kept"
    first = await replay(tiny, plan("random", "symbolic", ks=(1, 3), results_dir=kept))
    lines = (kept / "strategies.jsonl").read_text().splitlines()
    (kept / "strategies.jsonl").write_text("\n".join(lines[:2]) + '\n{"key": "cut o')
    again = await replay(tiny, plan("random", "symbolic", ks=(1, 3), results_dir=kept))
    assert again[:2] == first[:2]  # measured times and all
    assert [result.grades for result in again] == [result.grades for result in first]
    assert await replay(tiny, plan("random", "symbolic", ks=(1, 3), results_dir=kept)) == again
    other = await replay(tiny, plan("random", ks=(1,), results_dir=kept, seed=9))
    assert other[0].grades != first[0].grades


# --- the report ------------------------------------------------------------------------------------------------------


async def test_a_report_holds_every_dataset_and_survives_its_file(tmp_path):
    for name in ("one", "two"):
        write_dataset(tmp_path / "data" / name, name=name)
    datasets = load_datasets([tmp_path / "data"])
    seen = []
    report = await replay_report(
        datasets,
        plan("fixed", "symbolic", pools=()),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [card.name for card in report.datasets] == ["one", "two"]
    assert seen == [(done, 8) for done in range(1, 9)]
    assert [(row.dataset, row.pool, row.recruiter) for row in report.rows] == [
        (dataset, pool, recruiter)
        for dataset in ("one", "two")
        for pool in ("trio", "duo")
        for recruiter in ("fixed", "symbolic")
    ]
    report.save(tmp_path / "report.json")
    assert ReplayReport.load(tmp_path / "report.json") == report


async def test_baselines_curves_tables_and_audits_are_always_there(tiny):
    report = await replay_report([tiny], plan("symbolic", pools=("duo",)))
    reached = {baseline.name: baseline.accuracy for baseline in report.baselines}
    assert (reached["random"], reached["best single"], reached["best per category"]) == (0.5, 0.5, 1.0)
    assert (reached["oracle"], reached["shuffled oracle"]) == (1.0, 0.75)
    [audit] = report.leak_audits
    assert len(audit.leaks) == 24
    assert any(remark.startswith("LEAK in tiny: 24 of 24") for remark in report.remarks)
    assert report.share_curves == ()  # both are as strong: there is no gap to recover
    assert {(table.split, table.by) for table in report.accuracy_tables} == {
        (split, by) for split in ("fit", "test") for by in ("category", "skill")
    }
    assert {curve.kind for curve in report.cost_curves} >= {"models", "recruiter", "strategies"}
    assert report.versions["enlist"] and report.took_s > 0


async def test_tables_put_the_baselines_on_top(tiny):
    report = await replay_report([tiny], plan("symbolic"))
    table = report_tables(report)[0]
    assert table.title == "tiny, trio: 24 test questions, fitted on fit"
    names = [row[0] for row in table.rows]
    assert names[:2] == ["[random]", "[best single]"]
    assert names[-1] == "symbolic"
    assert "[oracle] *" in names
    last = dict(zip(table.columns, table.rows[-1], strict=True))
    assert (last["accuracy"], last["k"], last["calls"]) == (1.0, 3, 3.0)
    assert last["vs best single"] == "+0.500 [+0.292 +0.708]"
    assert "sd of seeds" not in table.columns


def test_a_folder_of_datasets_is_all_of_them_and_names_are_their_own(tmp_path):
    write_dataset(tmp_path / "b", name="bee")
    write_dataset(tmp_path / "a", name="ant")
    assert [dataset.name for dataset in load_datasets([tmp_path])] == ["ant", "bee"]
    assert [dataset.name for dataset in load_datasets([tmp_path / "b"])] == ["bee"]
    with pytest.raises(ConfigError, match="two datasets are named 'bee'"):
        load_datasets([tmp_path, tmp_path / "b"])
    with pytest.raises(ConfigError, match="no dataset folder"):
        load_datasets([tmp_path / "gone"])
