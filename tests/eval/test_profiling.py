"""Profiling asks every expert every question once, grades it, keeps it at once, and asks again only what is missing."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from eval.profiling import ProfilingJob, accuracy_table, profile_experts
from eval.profiling_folder import TEXTS_FILE, ProfilingFolder, recorded_completions
from eval.skill_labels import label_by_category, label_skills
from experts_registry.artefact import Artefact
from experts_registry.pool import Pool
from router_service.assembly import build_engine
from router_service.backends.base import Backend
from router_service.config import EngineConfig, PartConfig
from router_service.errors import ConfigError, InvalidQuery, UnknownNameError
from router_service.types import AnswerKind, Completion, CompletionError, Expert, Question, Usage
from skills.annotators.llm import Llm

QUESTIONS = tuple(
    Question(
        id=f"{category}-{number}",
        text=f"{category} question {number}",
        answer="4" if category == "fours" else "7",
        answer_kind=AnswerKind.NUMBER,
        category=category,
        skills=(f"skill of {category}",),
        benchmark="tiny",
    )
    for category in ("fours", "sevens")
    for number in range(5)
)
POOL = Pool(name="numbers", experts=tuple(Expert(id=name, model=f"model-{name}", backend="fake") for name in "47x"))


class Fake(Backend):
    """Each expert says its own name; names a skill where asked for keywords; fails on the questions it is told to."""

    is_batched = True

    def __init__(self, failing=()):
        self.batches = []
        self.failing = failing

    @property
    def asked(self):
        return [(expert_id, query_id) for expert_id, ids in self.batches for query_id in ids]

    async def complete(self, expert, batch):
        self.batches.append((expert.id, [a.query.id for a in batch.assignments]))
        for assignment in batch.assignments:
            query = assignment.query
            completion = Completion(query_id=query.id, expert_id=expert.id, usage=Usage(completions=1, cost_usd=0.0))
            if query.id in self.failing:
                error = CompletionError(code="expert_refused", message=f"{expert.id} will not")
                yield replace(completion, error=error)
            elif "Keywords:" in query.text:
                category = "fours" if "fours question" in query.text else "sevens"
                yield replace(completion, text=f"Keywords: {category} sense")
            else:
                yield replace(completion, text=f"I say {expert.id}.", logprob=-0.5)


class PowerCut(Exception):
    """Raised from a progress callback: the profiling ends between two outcomes."""


def engine_with(backend, pool=POOL):
    config = EngineConfig(annotator=PartConfig(name="blank"), recruiter=PartConfig(name="all"))
    return build_engine(config, pool=pool, backends={"fake": backend})


async def run(out, *, backend=None, pool=POOL, cut_after=None, **job):
    def on_progress(done, total):
        if done == cut_after:
            raise PowerCut

    engine = engine_with(backend or Fake(), pool)
    with ProfilingFolder(out) as folder:
        return await profile_experts(
            engine, ProfilingJob(**{"questions": QUESTIONS, **job}), folder, on_progress=on_progress
        )


async def test_everybody_is_asked_everything_once_each_in_one_batch(tmp_path):
    backend = Fake()
    report = await run(tmp_path / "out", backend=backend)
    assert [expert_id for expert_id, _ in backend.batches] == ["4", "7", "x"]
    assert len(backend.asked) == len(set(backend.asked)) == 30
    assert (report.n_new, report.n_known, report.failures) == (30, 0, {})


async def test_how_likely_an_answer_was_to_its_expert_is_kept(tmp_path):
    report = await run(tmp_path / "out")
    assert {outcome.logprob for outcome in report.artefact.outcomes} == {-0.5}
    assert {outcome.logprob for outcome in Artefact.load(tmp_path / "out").outcomes} == {-0.5}


async def test_profiles_say_who_is_good_at_what(tmp_path):
    report = await run(tmp_path / "out")
    four = report.artefact.profiles["4"]
    assert (four.skills["skill of fours"].wins, four.skills["skill of fours"].trials) == (5, 5)
    assert (four.categories["sevens"].wins, four.overall.trials) == (0, 10)
    assert Artefact.load(tmp_path / "out") == report.artefact
    columns, rows = accuracy_table(report.artefact)
    assert columns == ["expert", "fours", "sevens", "all"]
    assert rows == [["4", 1.0, 0.0, 0.5], ["7", 0.0, 1.0, 0.5], ["x", 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("cut_after", [1, 13, 29])
async def test_a_cut_profiling_goes_on_where_it_was(tmp_path, cut_after):
    calm = await run(tmp_path / "calm")
    first, second = Fake(), Fake()
    with pytest.raises(PowerCut):
        await run(tmp_path / "out", backend=first, cut_after=cut_after)
    report = await run(tmp_path / "out", backend=second)
    assert len(second.asked) == 30 - cut_after
    assert (report.n_new, report.n_known) == (30 - cut_after, cut_after)
    assert report.artefact.profiles == calm.artefact.profiles
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"experts.json", "meta.json", "outcomes.jsonl", "profiles.json", "questions.jsonl", TEXTS_FILE}


async def test_a_new_expert_is_the_only_one_asked(tmp_path):
    few = replace(POOL, experts=POOL.experts[:2])
    before = (await run(tmp_path / "out", pool=few)).artefact
    backend = Fake()
    after = (await run(tmp_path / "out", backend=backend, experts=("x",))).artefact
    assert {expert_id for expert_id, _ in backend.asked} == {"x"}
    assert {name: after.profiles[name] for name in "47"} == dict(before.profiles)
    assert set(after.profiles) == set("47x")


async def test_an_expert_that_became_another_starts_anew_and_nobody_else(tmp_path):
    await run(tmp_path / "out")
    changed = replace(POOL, experts=(replace(POOL.experts[0], persona="Be brief."), *POOL.experts[1:]))
    backend = Fake()
    report = await run(tmp_path / "out", backend=backend, pool=changed)
    assert {expert_id for expert_id, _ in backend.asked} == {"4"}
    assert len(report.artefact.outcomes) == 30
    moved = replace(POOL, experts=tuple(replace(e, address="http://other") for e in changed.experts))
    backend = Fake()
    await run(tmp_path / "out", backend=backend, pool=moved)
    assert backend.asked == []


async def test_more_samples_later_ask_only_the_new_ones(tmp_path):
    await run(tmp_path / "out")
    backend = Fake()
    report = await run(tmp_path / "out", backend=backend, samples=3)
    assert len(backend.asked) == 60
    assert len(backend.batches) == 3
    assert report.artefact.profiles["4"].overall.trials == 30


async def test_a_failed_completion_is_no_outcome_and_is_asked_for_again(tmp_path):
    report = await run(tmp_path / "out", backend=Fake(failing={"fours-0"}))
    assert report.failures == {name: (1, f"{name} will not") for name in "47x"}
    assert report.artefact.profiles["4"].overall.trials == 9
    backend = Fake()
    report = await run(tmp_path / "out", backend=backend)
    assert {query_id for _, query_id in backend.asked} == {"fours-0"}
    assert report.artefact.profiles["4"].overall.trials == 10


async def test_what_was_said_is_kept_for_choosing_an_aggregator(tmp_path):
    report = await run(tmp_path / "out")
    completions = recorded_completions(tmp_path / "out", report.artefact.outcomes)
    assert {c.expert_id: c.text for c in completions["fours-0"]} == {name: f"I say {name}." for name in "47x"}
    (tmp_path / "out" / TEXTS_FILE).unlink()
    without = recorded_completions(tmp_path / "out", report.artefact.outcomes)
    assert {c.expert_id: c.text for c in without["fours-0"]} == {"4": "4", "7": "7", "x": ""}


async def test_a_cut_profiling_can_be_followed_by_other_questions(tmp_path):
    with pytest.raises(PowerCut):
        await run(tmp_path / "out", questions=QUESTIONS[:5], cut_after=7)
    report = await run(tmp_path / "out", questions=QUESTIONS[5:])
    assert {question.id for question in report.artefact.questions} == {
        *(outcome.question_id for outcome in report.artefact.outcomes)
    }
    assert len(report.artefact.outcomes) == 7 + 15
    backend = Fake()
    report = await run(tmp_path / "out", backend=backend)
    assert (len(backend.asked), report.n_known) == (8, 22)


async def test_questions_of_a_cut_run_that_nobody_answered_are_not_learnt(tmp_path):
    with pytest.raises(PowerCut):
        await run(tmp_path / "out", questions=QUESTIONS[:5], cut_after=0)
    report = await run(tmp_path / "out", questions=QUESTIONS[5:])
    assert report.artefact.questions == QUESTIONS[5:]


async def test_a_changed_expert_in_a_cut_profiling_takes_nobody_elses_outcomes_along(tmp_path):
    with pytest.raises(PowerCut):
        await run(tmp_path / "out", cut_after=29)
    changed = replace(POOL, experts=(replace(POOL.experts[0], persona="Be brief."), *POOL.experts[1:]))
    backend = Fake()
    with pytest.raises(PowerCut):
        await run(tmp_path / "out", backend=backend, pool=changed, cut_after=19)
    report = await run(tmp_path / "out", backend=backend, pool=changed)
    assert len(report.artefact.outcomes) == 30
    assert sum(expert_id != "4" for expert_id, _ in backend.asked) == 1


@pytest.mark.parametrize("torn", [b'{"key": ["4", "fours', b'{"key": ["4", "fours-1", 0], "text": "\xe2\x80'])
async def test_a_torn_text_takes_no_other_along(tmp_path, caplog, torn):
    with pytest.raises(PowerCut):
        await run(tmp_path / "out", cut_after=13)
    with (tmp_path / "out" / TEXTS_FILE).open("ab") as file:
        file.write(torn)
    report = await run(tmp_path / "out")
    completions = recorded_completions(tmp_path / "out", report.artefact.outcomes)
    assert {c.text for said in completions.values() for c in said} == {f"I say {name}." for name in "47x"}
    assert not caplog.records


async def test_a_text_may_hold_any_line_break_and_lost_ones_are_counted(tmp_path, caplog):
    class Wordy(Fake):
        async def complete(self, expert, batch):
            async for completion in super().complete(expert, batch):
                yield replace(completion, text=f"one\u2028two\x85three\nfour \udc80 {expert.id}")

    report = await run(tmp_path / "out", backend=Wordy())
    completions = recorded_completions(tmp_path / "out", report.artefact.outcomes)
    assert completions["fours-0"][0].text == "one\u2028two\x85three\nfour \udc80 4"
    assert not caplog.records
    path = tmp_path / "out" / TEXTS_FILE
    first, second, *others, last = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first[:9], second[:9], *others, last[:9]]))
    recorded_completions(tmp_path / "out", report.artefact.outcomes)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "2 lines cannot be read; the extracted answer stands in for each of these texts"
    ]


async def test_the_folder_one_stands_in_can_be_profiled_into(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    await run(Path())
    assert len(Artefact.load(tmp_path / "out").outcomes) == 30


async def test_another_question_under_a_known_id_is_an_error(tmp_path):
    await run(tmp_path / "out")
    other = (replace(QUESTIONS[0], answer="5"), *QUESTIONS[1:])
    with pytest.raises(ConfigError, match=r"'fours-0' is not what .* was made with"):
        await run(tmp_path / "out", questions=other)


@pytest.mark.parametrize(
    ("job", "error", "said"),
    [
        ({"questions": ()}, ConfigError, "no questions to profile on"),
        ({"questions": (replace(QUESTIONS[0], answer=None),)}, ConfigError, "'fours-0' has no reference answer"),
        ({"questions": (replace(QUESTIONS[0], options=("4",) * 27),)}, InvalidQuery, "'fours-0' has 27 options"),
        ({"experts": ("44",)}, UnknownNameError, "unknown expert '44'"),
    ],
)
async def test_what_cannot_be_profiled_is_said_before_anybody_is_asked(tmp_path, job, error, said):
    backend = Fake()
    with pytest.raises(error, match=said):
        await run(tmp_path / "out", backend=backend, **job)
    assert backend.asked == []


async def test_a_second_writer_is_refused(tmp_path):
    def profile_there(queue):
        try:
            with ProfilingFolder(tmp_path / "out"):
                queue.put("entered")
        except ConfigError as refused:
            queue.put(refused.message)

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with ProfilingFolder(tmp_path / "out"):
        process = context.Process(target=profile_there, args=(queue,))
        process.start()
        assert "is in use" in queue.get(timeout=10)
        process.join()
    with ProfilingFolder(tmp_path / "out"):
        pass


# --- skills of the questions -----------------------------------------------------------------------------------------

BARE = tuple(replace(question, skills=()) for question in QUESTIONS)


async def test_questions_without_skills_are_refused_with_the_ways_out():
    with pytest.raises(ConfigError, match=r"10 of 10 questions have no skills.*--skills category.*--annotator llm"):
        await label_skills(engine_with(Fake()), BARE)


async def test_a_category_stands_in_for_skills():
    labelled = await label_skills(engine_with(Fake()), (*BARE, QUESTIONS[0]), by_category=True)
    assert [question.skills for question in labelled[:5]] == [("fours",)] * 5
    assert labelled[-1].skills == ("skill of fours",)
    with pytest.raises(ConfigError, match="neither skills nor a category, for instance 'fours-0'"):
        label_by_category([replace(BARE[0], category=None)])


async def test_an_expert_names_the_skills_and_they_are_remembered(tmp_path):
    backend = Fake()
    engine = engine_with(backend)
    labelled = await label_skills(engine, BARE, annotator=Llm(expert="x"))
    assert [question.skills for question in labelled] == [("fours sense",)] * 5 + [("sevens sense",)] * 5
    assert {expert_id for expert_id, _ in backend.asked} == {"x"}
    with pytest.raises(PowerCut):
        await run(tmp_path / "out", questions=tuple(labelled), cut_after=3)
    with ProfilingFolder(tmp_path / "out") as folder:
        assert folder.remembered(BARE) == labelled


async def test_an_expert_that_names_nothing_is_no_annotator():
    class Silent(Fake):
        async def complete(self, expert, batch):
            for assignment in batch.assignments:
                yield Completion(query_id=assignment.query.id, expert_id=expert.id, text="I do not know what you mean")

    with pytest.raises(ConfigError, match="'x' named no skill that was kept for any of 10 questions"):
        await label_skills(engine_with(Silent()), BARE, annotator=Llm(expert="x"))


def test_the_notes_of_a_run_are_plain_json(tmp_path):
    path = tmp_path / "out"
    with ProfilingFolder(path) as folder:
        folder.begin(QUESTIONS, POOL.experts, pool_name="numbers")
    assert set(json.loads((path / "experts.json").read_text())) == set("47x")
