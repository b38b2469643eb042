"""Adaptive profiling as a run: a new expert is asked a few questions once, kept at once, and nobody else changes."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace

import pytest

from eval.profiling import ProfilingJob, profile_experts
from eval.profiling_adaptive import AdaptiveJob, profile_adaptively
from eval.profiling_folder import ADAPTIVE_FILE, ProfilingFolder
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.backends.base import Backend
from router_service.config import EngineConfig, PartConfig
from router_service.errors import ConfigError
from router_service.types import AnswerKind, Completion, CompletionError, Expert, Question, Usage

QUESTIONS = tuple(
    Question(
        id=f"{category}-{number}",
        text=f"{category} question {number}",
        answer=str(number % 3),
        answer_kind=AnswerKind.NUMBER,
        category=category,
        skills=(f"skill of {category}",),
        benchmark="tiny",
    )
    for category in ("fours", "sevens")
    for number in range(20)
)
KNOWN = tuple(Expert(id=f"known-{number}", model=f"model-{number}", backend="fake") for number in range(3))
NEW = tuple(Expert(id=name, model=name, backend="fake") for name in ("new", "newer"))
POOL = Pool(name="numbers", experts=(*KNOWN, *NEW))


class Fake(Backend):
    """Says the same number to every question (`known-1` always 1; new ones always 2); fails where told to."""

    is_batched = True

    def __init__(self, failing=()):
        self.asked = []
        self.failing = failing

    async def complete(self, expert, batch):
        for assignment in batch.assignments:
            query_id = assignment.query.id
            self.asked.append((expert.id, query_id))
            said = expert.id.rpartition("-")[2] if expert.id.startswith("known") else "2"
            completion = Completion(
                query_id=query_id,
                expert_id=expert.id,
                text=f"The answer is {said}.",
                usage=Usage(completions=1, cost_usd=0.0),
            )
            if query_id in self.failing or "all" in self.failing:
                completion = replace(completion, error=CompletionError(code="expert_refused", message="will not"))
            yield completion


class Contrary(Fake):
    """Wrong about everything."""

    async def complete(self, expert, batch):
        async for completion in super().complete(expert, batch):
            yield replace(completion, text="The answer is 9.")


class PowerCut(Exception):
    """Raised from a progress callback: the run ends between two answers."""


def engine_with(backend, pool=POOL):
    config = EngineConfig(annotator=PartConfig(name="blank"), recruiter=PartConfig(name="all"))
    return build_engine(config, pool=pool, backends={"fake": backend})


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A folder with an artefact of the known experts."""

    async def make(folder_path):
        job = ProfilingJob(questions=QUESTIONS, experts=tuple(expert.id for expert in KNOWN))
        with ProfilingFolder(folder_path) as folder:
            await profile_experts(engine_with(Fake()), job, folder)

    path = tmp_path_factory.mktemp("known") / "out"
    asyncio.run(make(path))
    return path


@pytest.fixture
def out(known, tmp_path):
    """A copy of it to go on with."""
    return shutil.copytree(known, tmp_path / "out")


async def run(out, *, backend=None, cut_after=None, pool=POOL, **job):
    def on_progress(done, total):
        if done == cut_after:
            raise PowerCut

    with ProfilingFolder(out) as folder:
        return await profile_adaptively(
            engine_with(backend or Fake(), pool),
            AdaptiveJob(**{"experts": ("new",), "n_questions": 12, **job}),
            folder,
            on_progress=on_progress,
        )


async def test_a_new_expert_is_asked_a_few_questions_and_nobody_else_changes(out):
    before = Artefact.load(out)
    backend = Fake()
    report = await run(out, backend=backend)
    assert len(backend.asked) == len(set(backend.asked)) == 12
    assert {expert_id for expert_id, _ in backend.asked} == {"new"}
    assert (report.n_new, report.n_known, report.failures) == (12, 0, {})
    after = Artefact.load(out)
    assert after == report.artefact
    assert {name: after.profiles[name] for name in before.profiles} == dict(before.profiles)
    [estimate] = report.estimates
    assert after.profiles["new"] == estimate.profile
    assert after.profiles["new"].overall.trials == 12
    assert estimate.overall.low <= 12 / 40 <= estimate.overall.high


async def test_everybody_new_is_profiled_where_nobody_is_named(out):
    backend = Fake()
    report = await run(out, backend=backend, experts=())
    assert [estimate.profile.expert_id for estimate in report.estimates] == ["new", "newer"]
    assert len(backend.asked) == 24
    assert report.estimates[0].overall == report.estimates[1].overall


@pytest.mark.parametrize("cut_after", [0, 1, 7, 11])
async def test_a_run_that_was_cut_goes_on_where_it_was(out, cut_after):
    first, second = Fake(), Fake()
    with pytest.raises(PowerCut):
        await run(out, backend=first, cut_after=cut_after)
    assert "new" not in Artefact.load(out).profiles
    report = await run(out, backend=second)
    assert len(second.asked) == report.n_new == 12 - cut_after
    assert report.n_known == cut_after
    assert report.artefact.profiles["new"].overall.trials == 12


async def test_asking_more_later_goes_on_too(out):
    await run(out)
    backend = Fake()
    report = await run(out, backend=backend, n_questions=20)
    assert len(backend.asked) == 8
    assert report.artefact.profiles["new"].overall.trials == 20


async def test_an_estimate_outlives_the_profiling_of_others(out):
    estimated = (await run(out)).artefact.profiles["new"]
    with ProfilingFolder(out) as folder:
        report = await profile_experts(
            engine_with(Fake()), ProfilingJob(questions=QUESTIONS, experts=("newer",)), folder
        )
    assert report.artefact.profiles["new"] == estimated
    assert report.artefact.profiles["newer"].overall.trials == 40


async def test_profiling_in_full_takes_the_estimates_place(out):
    await run(out)
    with ProfilingFolder(out) as folder:
        report = await profile_experts(engine_with(Fake()), ProfilingJob(questions=QUESTIONS, experts=("new",)), folder)
    assert report.n_new == 28
    assert (report.artefact.profiles["new"].overall.wins, report.artefact.profiles["new"].overall.trials) == (12, 40)


async def test_an_expert_that_became_another_starts_anew(out):
    await run(out)
    changed = replace(POOL, experts=(*KNOWN, replace(NEW[0], persona="Be brief."), NEW[1]))
    backend = Fake()
    await run(out, backend=backend, pool=changed)
    assert len(backend.asked) == 12


async def test_what_another_expert_of_the_name_was_estimated_at_is_gone_however_often_the_new_one_is_asked(out):
    await run(out, n_questions=len(QUESTIONS), confidence=0.999)
    asked = len([o for o in Artefact.load(out).outcomes if o.expert_id == "new"])
    other = Pool(name="numbers", experts=(*KNOWN, replace(NEW[0], model="another")))
    before = Artefact.load(out).profiles["new"].overall
    job = ProfilingJob(questions=QUESTIONS[:asked], experts=("new",))
    with ProfilingFolder(out) as folder:
        report = await profile_experts(engine_with(Contrary(), other), job, folder)
    after = report.artefact.profiles["new"].overall
    assert before.wins > 0
    assert (after.wins, after.trials) == (0, asked)


async def test_failures_are_counted_not_chosen_again_and_cost_part_of_the_questions(out):
    probe = Fake()
    await run(out, backend=probe, experts=("newer",))
    failing = {query_id for _, query_id in probe.asked[:2]}
    backend = Fake(failing=failing)
    report = await run(out, backend=backend)
    assert report.failures == {"new": (2, "will not")}
    assert len(backend.asked) == len(set(backend.asked)) == 12
    assert report.artefact.profiles["new"].overall.trials == 10


async def test_an_expert_of_whom_nothing_came_has_no_profile(out):
    report = await run(out, backend=Fake(failing={"all"}))
    assert (report.estimates, report.failures) == ((), {"new": (12, "will not")})
    assert "new" not in report.artefact.profiles


async def test_the_error_bars_lie_beside_the_artefact(out):
    await run(out)
    record = json.loads((out / ADAPTIVE_FILE).read_text())["experts"]["new"]
    assert (record["n_asked"], record["n_bank"], record["confidence"]) == (12, 40, 0.9)
    assert record["overall"]["low"] < record["overall"]["accuracy"] < record["overall"]["high"]
    assert record["categories"]["fours"]["best_known_accuracy"] == pytest.approx(7 / 20)
    (out / ADAPTIVE_FILE).write_text("{oops")
    with pytest.raises(ConfigError, match="remove it, and profile the experts it was about again"):
        await run(out, n_questions=14)


async def test_a_bank_given_as_questions_is_chosen_from(tmp_path):
    """Nobody is known in a new folder: the questions count as equally hard."""
    report = await run(tmp_path / "out", questions=QUESTIONS[:30])
    assert len(report.artefact.outcomes) == 12
    assert report.estimates[0].n_bank == 30


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"experts": ("known-1",)}, "known-1: profiled in full on these questions already"),
        ({"n_questions": 0}, "the budget is 0 questions"),
    ],
)
async def test_what_cannot_be_done_is_said_before_anybody_is_asked(out, job, said):
    backend = Fake()
    with pytest.raises(ConfigError, match=said):
        await run(out, backend=backend, **job)
    assert backend.asked == []


async def test_nobody_left_and_nothing_to_choose_from(out, tmp_path):
    few = replace(POOL, experts=KNOWN)
    with pytest.raises(ConfigError, match="name a new expert with --expert"):
        await run(out, pool=few, experts=())
    with pytest.raises(ConfigError, match="holds no questions to choose from"):
        await run(tmp_path / "empty")
