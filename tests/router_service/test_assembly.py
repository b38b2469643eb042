"""An engine is what its configuration says: parts, options, artefact; what cannot work is named before it is asked."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from experts_registry.artefact import Artefact
from experts_registry.pool import Pool, parse_pool
from router_service.assembly import artefact_folder, build_engine, usable_pool
from router_service.config import EngineConfig, PartConfig
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import (
    DecisionMade,
    Expert,
    Outcome,
    Question,
    RouteControls,
    RouteFailure,
    RouteResponse,
    user_query,
)
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
async def test_a_wrong_option_names_the_nearest(change: dict[str, object], words: str) -> None:
    config = EngineConfig(annotator=BLANK).model_copy(update=change)
    try:
        engine = build_engine(config, pool=ECHO, artefact=artefact(ECHO))
        (end,) = await engine.run([user_query("q", "hi")])
    except ConfigError as refused:
        message = refused.message
    else:
        assert isinstance(end, RouteFailure)
        message = end.message
    assert words in message


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


async def test_without_profiles_the_answer_says_how_to_make_them() -> None:
    engine = build_engine(EngineConfig(annotator=BLANK, recruiter=PartConfig(name="symbolic")), pool=ECHO)
    (end,) = await engine.run([user_query("q", "hi")])
    assert isinstance(end, RouteFailure)
    assert "enlist profile" in end.message


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
    (end,) = await build_engine(config, pool=ECHO).run([user_query("q", "hi")])
    assert isinstance(end, RouteFailure) and "aggregator.json" in end.message
    (tmp_path / "profiles" / "aggregator.json").unlink()
    (end,) = await build_engine(config, pool=ECHO).run([user_query("q", "hi")])
    assert isinstance(end, RouteResponse) and end.answer.aggregator == "majority"
