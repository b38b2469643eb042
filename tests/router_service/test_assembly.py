"""An engine is what its configuration says: parts, options, artefact; what cannot work is named before it is asked."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from experts_registry.artefact import Artefact
from experts_registry.pool import Pool, parse_pool
from router_service._assembly_parts import FittedRecruiters, LazyParts
from router_service.assembly import artefact_folder, asking_only, build_engine, keep_recruiter, usable_pool
from router_service.config import EngineConfig, PartConfig
from router_service.errors import ConfigError, UnknownNameError
from router_service.lessons import Lessons
from router_service.recruit.base import RECRUITERS, Recruiter
from router_service.recruit.fixed import Fixed
from router_service.types import (
    DecisionMade,
    Expert,
    FitData,
    Outcome,
    Question,
    RouteControls,
    RouteFailure,
    RouteResponse,
    user_query,
)
from skills.base import ANNOTATORS
from tests.router_service.parts import FakeBackend, pool_of

ECHO = parse_pool(
    {"experts": [{"id": name, "model": "echo", "backend": "echo", "options": {"reply": name}} for name in "abc"]},
    "echo",
    Path(),
)
BLANK = PartConfig(name="blank")


class Picky(FakeBackend):
    """Serves only experts whose id is not in `bad`."""

    def __init__(self, *bad: str) -> None:
        super().__init__()
        self.bad = bad

    def check(self, expert: Expert) -> None:
        if expert.id in self.bad:
            raise ConfigError(f"expert {expert.id!r} has no weights")


def artefact(pool: Pool) -> Artefact:
    """Expert `b` is right on everything, the others on nothing."""
    questions = [Question(id=f"q{n}", text=f"question {n}", category="all", skills=("asking",)) for n in range(4)]
    outcomes = [
        Outcome(dataset="d", split="fit", question_id=q.id, expert_id=e.id, correct=float(e.id == "b"))
        for q in questions
        for e in pool.experts
    ]
    return Artefact.fit(outcomes, questions, pool_name=pool.name)


def test_an_unusable_expert_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pool = usable_pool(pool_of("a", "b"), {"fake": Picky("a")})
    assert [expert.id for expert in pool.enabled] == ["b"]
    assert "left out: expert 'a' has no weights" in caplog.text


def test_a_pool_without_a_usable_expert_lists_every_problem_once(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="no usable expert") as caught:
        usable_pool(pool_of("a", "b"), {"fake": Picky("a", "b")})
    assert caught.value.message.count("has no weights") == 2
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recruiter": PartConfig(name="fixed", options={"kk": 1})}, "no option 'kk'. Did you mean 'k'"),
        ({"aggregator": PartConfig(name="weighted", options={"priors": 1})}, "Did you mean 'prior'"),
        ({"annotator": PartConfig(name="embedding", options={"neighbors": 1})}, "Did you mean 'neighbours'"),
        ({"backends": {"echo": {"speed": 1}}}, "no option 'speed'"),
        ({"backends": {"openai": {"bogus": 1}}}, "backend 'openai' has no option 'bogus'"),
        ({"backends": {"openai": {"connect_timeout_s": "soon"}}}, "'connect_timeout_s' is 'soon'; allowed: float"),
        ({"backends": {"replay": {}}}, "needs a value for 'data_dir'"),
        ({"aggregator": PartConfig(name="weighted", options={"answers": "few"})}, "'answers' is 'few'"),
    ],
)
@pytest.mark.parametrize("is_profiled", [True, False])
def test_a_wrong_option_shows_at_the_start_and_names_the_nearest(
    change: dict[str, object], words: str, is_profiled: bool
) -> None:
    config = EngineConfig(annotator=BLANK).model_copy(update=change)
    with pytest.raises(ConfigError) as refused:
        build_engine(config, pool=ECHO, artefact=artefact(ECHO) if is_profiled else None)
    assert words in refused.value.message


@pytest.mark.parametrize("change", [{"annotator": PartConfig(name="embeding")}, {"backends": {"openia": {}}}])
def test_an_unknown_part_names_the_nearest(change: dict[str, object]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        build_engine(EngineConfig().model_copy(update=change), pool=ECHO, artefact=artefact(ECHO))


async def test_profiles_decide_who_is_asked_and_k_how_often() -> None:
    config = EngineConfig(
        annotator=PartConfig(name="embedding", options={"embedder": "hashing"}),
        recruiter=PartConfig(name="symbolic"),
        k=5,
    )
    (end,) = await build_engine(config, pool=ECHO, artefact=artefact(ECHO)).run([user_query("q", "question 3")])
    assert isinstance(end, RouteResponse)
    assert [(r.expert_id, r.samples) for r in end.decision.recruits] == [("b", 5)]
    assert end.answer.text == "b"


async def test_of_k_the_nearest_holds() -> None:
    recruiter = PartConfig(name="random", options={"k": 2})
    engine = build_engine(EngineConfig(annotator=BLANK, recruiter=recruiter, k=3), pool=ECHO)
    plain = user_query("plain", "hi")
    ends = await engine.route([plain, replace(plain, id="own", controls=RouteControls(k=1))])
    assert [len(end.decision.recruits) for end in ends if isinstance(end, DecisionMade)] == [2, 1]
    engine = build_engine(EngineConfig(annotator=BLANK, recruiter=PartConfig(name="random"), k=3), pool=ECHO)
    (end,) = await engine.route([plain])
    assert isinstance(end, DecisionMade) and len(end.decision.recruits) == 3


async def test_without_profiles_the_answer_says_how_to_make_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engine = build_engine(EngineConfig(annotator=BLANK, recruiter=PartConfig(name="symbolic")), pool=ECHO)
    assert "enlist profile" in caplog.text and "until then only experts that a query names" in caplog.text
    named = replace(user_query("named", "hi"), controls=RouteControls(expert="a"))
    (end, other) = await engine.run([user_query("q", "hi"), named])
    assert isinstance(end, RouteFailure)
    assert "enlist profile" in end.message
    assert isinstance(other, RouteResponse) and other.answer.text == "a"


def test_a_recruiter_that_cannot_learn_from_the_artefact_shows_at_the_start() -> None:
    strangers = artefact(pool_of("x", "y"))
    config = EngineConfig(annotator=BLANK, recruiter=PartConfig(name="symbolic"))
    with pytest.raises(ConfigError, match="none of the 3 experts has one"):
        build_engine(config, pool=ECHO, artefact=strangers)


def test_an_engine_that_is_told_whom_to_ask_fits_nothing() -> None:
    config = asking_only(EngineConfig(recruiter=PartConfig(name="symbolic"), seed=4))
    engine = build_engine(config, pool=ECHO, artefact=artefact(pool_of("x")))
    assert (engine.defaults.recruiter, engine.defaults.aggregator, engine.defaults.seed) == ("named", "first", 4)


# --- kept recruiters -----------------------------------------------------------------------------------------------


def saved_pool(folder: Path) -> EngineConfig:
    """A pool file, an artefact on disk, and a configuration that names both."""
    lines = [f"  - {{id: {e.id}, model: echo, backend: echo, options: {{reply: {e.id}}}}}" for e in ECHO.experts]
    (folder / "pool.yaml").write_text("experts:\n" + "\n".join(lines) + "\n")
    artefact(ECHO).save(folder / "artefact")
    return EngineConfig(
        pool=str(folder / "pool.yaml"),
        artefact=folder / "artefact",
        annotator=PartConfig(name="embedding", options={"embedder": "hashing"}),
        recruiter=PartConfig(name="fixed", options={"k": 1}),
    )


def test_a_kept_recruiter_is_taken_and_not_fitted(tmp_path: Path) -> None:
    config = saved_pool(tmp_path)
    kept = keep_recruiter(config)
    assert kept.path == tmp_path / "artefact" / "recruiters" / "fixed.npz"
    assert kept.artefact == Artefact.load(tmp_path / "artefact").version
    parts = FittedRecruiters({}, Unteachable(config), folder=config.artefact, is_own_folder=True)
    assert isinstance(parts.get("fixed"), Fixed)
    with pytest.raises(AssertionError, match="fitted"):
        parts.get("best_single")


class Unteachable(Lessons):
    """Lessons that nobody may be fitted on."""

    def __init__(self, config: EngineConfig) -> None:
        annotator = ANNOTATORS.create(config.annotator.name, config.annotator.options)
        super().__init__(ECHO, Artefact.load(config.artefact or Path()), annotator)

    def for_part(self, part: object) -> FitData:
        raise AssertionError(f"{part} is being fitted")


async def test_a_new_artefact_makes_kept_recruiters_useless(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = saved_pool(tmp_path)
    keep_recruiter(config)
    others = [replace(o, correct=float(o.expert_id == "c")) for o in artefact(ECHO).outcomes]
    Artefact.fit(others, artefact(ECHO).questions, pool_name="echo").save(tmp_path / "artefact")
    with caplog.at_level(logging.INFO):
        (end,) = await build_engine(config).route([user_query("q", "hi")])
    assert "artefact was" in caplog.text
    assert isinstance(end, DecisionMade) and [r.expert_id for r in end.decision.recruits] == ["c"]


def test_a_recruiter_is_kept_beside_an_artefact_of_ones_own_only(tmp_path: Path) -> None:
    config = saved_pool(tmp_path)
    with pytest.raises(ConfigError, match="name one made by `enlist profile`"):
        keep_recruiter(config.model_copy(update={"artefact": None}))


def test_a_slow_fit_says_how_to_keep_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter([0.0, 0.4, 10.0, 13.0])
    config = saved_pool(tmp_path)
    lessons = Lessons(ECHO, artefact(ECHO), ANNOTATORS.create("blank"))
    with caplog.at_level(logging.WARNING):
        parts = FittedRecruiters({}, lessons, folder=config.artefact, is_own_folder=True, clock=lambda: next(clock))
        parts.get("fixed")
        assert not caplog.records
        parts.get("best_single")
    assert "fitting recruiter 'best_single' took 3.0 s; `enlist recruiter fit" in caplog.text


# --- parts made once -----------------------------------------------------------------------------------------------


def test_threads_that_ask_at_once_get_one_part_that_was_fitted_once() -> None:
    fitted, gate = [], threading.Barrier(5)

    def fit(part: Recruiter) -> Recruiter:
        time.sleep(0.05)
        fitted.append(part)
        return part

    parts = LazyParts(RECRUITERS, {}, fit)

    def get(_: int) -> Recruiter:
        gate.wait()
        return parts.get("random")

    with ThreadPoolExecutor(5) as pool:
        got = list(pool.map(get, range(5)))
    assert len(fitted) == 1 and all(part is fitted[0] for part in got)


def test_a_slow_fit_keeps_nobody_from_the_other_parts() -> None:
    is_fitting, may_end = threading.Event(), threading.Event()

    def fit(part: Recruiter) -> Recruiter:
        if isinstance(part, Fixed):
            is_fitting.set()
            assert may_end.wait(10)
        return part

    parts = LazyParts(RECRUITERS, {}, fit)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(parts.get, "fixed")
        assert is_fitting.wait(10)
        assert parts.get("random") is parts.get("random")
        may_end.set()
        assert isinstance(slow.result(), Fixed)


def test_the_local_pools_profiles_come_with_it_and_with_no_other(tmp_path: Path) -> None:
    shipped = artefact_folder(EngineConfig(pool="local"))
    assert shipped is not None and Artefact.load(shipped).pool_name == "local"
    artefact(ECHO).save(tmp_path / "artefact")
    assert artefact_folder(EngineConfig(pool=str(tmp_path))) is None


async def test_a_pool_that_is_passed_in_never_gets_the_shipped_profiles() -> None:
    namesake = parse_pool({"experts": [{"id": "roman", "model": "echo", "backend": "echo"}]}, "mine", Path())
    config = EngineConfig(annotator=BLANK, recruiter=PartConfig(name="symbolic"))
    assert config.pool == "local"
    (end,) = await build_engine(config, pool=namesake).run([user_query("q", "hi")])
    assert isinstance(end, RouteFailure) and "enlist profile" in end.message


def test_a_backend_that_was_not_passed_in_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown backend of expert 'a': 'fake'.* Allowed: other"):
        usable_pool(pool_of("a"), {"other": FakeBackend()})


async def test_a_measured_choice_of_aggregator_is_found_beside_the_profiles(tmp_path: Path) -> None:
    artefact(ECHO).save(tmp_path / "profiles")
    config = EngineConfig(
        artefact=tmp_path / "profiles", annotator=BLANK, recruiter=PartConfig(name="all"), aggregator=BLANK
    ).model_copy(update={"aggregator": PartConfig(name="selected")})
    (tmp_path / "profiles" / "aggregator.json").write_text("{not json")
    with pytest.raises(ConfigError, match=r"aggregator\.json"):
        build_engine(config, pool=ECHO)
    (tmp_path / "profiles" / "aggregator.json").unlink()
    (end,) = await build_engine(config, pool=ECHO).run([user_query("q", "hi")])
    assert isinstance(end, RouteResponse) and end.answer.aggregator == "majority"
