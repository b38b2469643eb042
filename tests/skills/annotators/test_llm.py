"""The LLM annotator: every run asked, failed ones left out, kept names snapped."""

from __future__ import annotations

import asyncio

import pytest

from router_service.errors import BudgetExceeded, ConfigError, ExpertTimeout, UnknownNameError
from router_service.types import Question, stable_seed, user_query
from skills.annotators.llm import Llm
from skills.embedders.hashing import Hashing
from tests.skills.fakes import QUESTIONS, ScriptedAsk
from tests.skills.test_vote import golden_vote

EMBEDDER = Hashing(256)
QUERY = user_query("q", "Solve {x} + 3 = 7.", seed=11)


def llm(**options) -> Llm:
    return Llm(expert="scribe", embedder=EMBEDDER, **options).fit(QUESTIONS)


def run_number(query) -> int:
    return int(query.id.rpartition("-")[2])


def by_run(*replies):
    """A fake that gives run number i the i-th reply."""
    return ScriptedAsk(lambda query: replies[run_number(query)])


async def test_the_golden_vote_end_to_end():
    golden = golden_vote()
    ask = by_run(*("Keywords: " + ", ".join(run) for run in golden["runs"]))
    assert await llm().name_skills([QUERY], ask=ask) == [tuple(golden["kept"])]


@pytest.mark.parametrize("runs", [1, 2, 3, 5, 8])
async def test_runs_is_really_honoured(runs):
    """The released code takes the number of runs on its command line and always asks five times."""
    ask = ScriptedAsk(lambda query: "Keywords: algebra")
    queries = [QUERY, user_query("r", "Another one", seed=12)]
    await llm(runs=runs, min_votes=1).annotate(queries, ask=ask)
    assert len(ask.calls) == 2 * runs
    for query in queries:
        mine = [asked for _, asked in ask.calls if asked.parent_id == query.id]
        assert [asked.seed for asked in mine] == [stable_seed(query.seed, run) for run in range(runs)]
        assert len({asked.id for asked in mine}) == runs


async def test_the_last_run_decides_where_it_should():
    ask = by_run("Keywords: algebra", "Keywords: genetics", "Keywords: genetics")
    (annotation,) = await llm(runs=3).annotate([QUERY], ask=ask)
    assert annotation.skills == {"genetics": 1.0}


async def test_what_is_asked():
    ask = ScriptedAsk(lambda query: "Keywords: algebra")
    await llm(temperature=0.3, max_tokens=77).annotate([QUERY], ask=ask)
    expert, asked = ask.calls[0]
    assert expert == "scribe"
    assert asked.text.count(QUERY.text) == 1
    assert "2 to 5" in asked.text and "Keywords:" in asked.text
    assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0.3, 77)


async def test_all_runs_of_all_queries_are_in_flight_together():
    """So that `ask` can coalesce them: the fake holds every call back until all have come."""
    everyone = asyncio.Barrier(5 * 4)

    class Gathering(ScriptedAsk):
        async def __call__(self, expert_id, query, *, is_visible=False):
            await everyone.wait()
            return await super().__call__(expert_id, query, is_visible=is_visible)

    queries = [user_query(str(i), "Solve x.", seed=i) for i in range(4)]
    async with asyncio.timeout(20):
        found = await llm().annotate(queries, ask=Gathering(lambda query: "Keywords: algebra"))
    assert [a.skills for a in found] == [{"algebra": 1.0}] * 4


async def test_names_that_snap_to_one_skill_add_up():
    ask = ScriptedAsk(lambda query: "Keywords: algebra, algebras, genetics")
    (annotation,) = await llm().annotate([QUERY], ask=ask)
    assert annotation.skills == {"algebra": 2.0, "genetics": 1.0}


async def test_names_below_the_floor_are_no_skills():
    ask = ScriptedAsk(lambda query: "Keywords: algebras, zzyzx")
    (annotation,) = await llm(floor=0.5).annotate([QUERY], ask=ask)
    assert annotation.skills == {"algebra": 1.0}


@pytest.mark.parametrize(
    "failure",
    [None, BudgetExceeded("spent"), ExpertTimeout("too late", expert_id="scribe")],
    ids=["data", "budget", "late"],
)
async def test_failed_runs_are_left_out_with_one_warning(failure, caplog):
    ask = by_run("Keywords: algebra", failure, "Keywords: algebra", failure, failure)
    (annotation,) = await llm().annotate([QUERY], ask=ask)
    assert annotation.skills == {"algebra": 1.0}
    (record,) = caplog.records
    assert "'scribe' failed in 3 of 5 runs" in record.getMessage()
    assert ("too late" if failure is None else failure.message) in record.getMessage()


async def test_without_a_failure_nothing_is_logged(caplog):
    await llm().annotate([QUERY], ask=ScriptedAsk(lambda query: "Keywords: algebra"))
    assert not caplog.records


async def test_one_querys_failure_leaves_the_others_alone():
    ask = ScriptedAsk(lambda query: None if query.parent_id == "q" else "Keywords: algebra")
    found = await llm().annotate([QUERY, user_query("r", "Another one")], ask=ask)
    assert [a.skills for a in found] == [{}, {"algebra": 1.0}]


async def test_an_expert_that_is_not_registered_is_a_broken_set_up():
    ask = ScriptedAsk(lambda query: UnknownNameError("expert", "scribe", ["other"]))
    with pytest.raises(UnknownNameError, match="scribe"):
        await llm().annotate([QUERY], ask=ask)


async def test_a_broken_set_up_stops_the_calls_that_are_under_way():
    stopped = []

    class Slow(ScriptedAsk):
        async def __call__(self, expert_id, query, *, is_visible=False):
            if run_number(query) == 2:
                await asyncio.sleep(0.01)
                raise ConfigError("no such server")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped.append(run_number(query))
                raise

    with pytest.raises(ConfigError, match="no such server"):
        await llm().annotate([QUERY], ask=Slow(lambda query: None))
    assert sorted(stopped) == [0, 1, 3, 4]


async def test_names_can_be_had_before_fitting_to_label_the_fit_questions():
    ask = ScriptedAsk(lambda query: "Keywords: Topology, knots")
    (names,) = await Llm(expert="scribe", embedder=EMBEDDER).name_skills([QUERY], ask=ask)
    assert names == ("topology", "knots")
    fitted = Llm(expert="scribe", embedder=EMBEDDER).fit([Question(id="1", text="?", skills=names)])
    assert fitted.index_.skills_ == ("knots", "topology")


@pytest.mark.parametrize(
    "options",
    [{"runs": 0}, {"max_tokens": 0}, {"temperature": -0.1}, {"floor": 1.5}, {"min_votes": 6}, {"max_characters": 0}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        Llm(expert="scribe", embedder=EMBEDDER, **options)
