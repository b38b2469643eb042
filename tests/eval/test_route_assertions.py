"""Route tests: each expectation can hold and fail, the file is read strictly, and CI gets its XML."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

import pytest
import yaml

from eval.junit import JunitCase, junit_xml
from eval.route_assertions import check_routes
from eval.route_checks import RouteTests, load_route_tests
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import Recruit, RouteDecision, Usage
from tests.router_service.parts import Everyone, FakeBackend, engine_of


@dataclass
class Deciding(Everyone):
    """Recruits a twice and b once, at a known cost, and says why."""

    cost_usd: float | None = 0.02
    fallback_reason: str | None = None

    def _decision(self, request) -> RouteDecision:
        if "impossible" in request.query.text:
            raise ZeroDivisionError("no way")
        return RouteDecision(
            query_id=request.query.id,
            recruits=(
                Recruit(expert_id="a", samples=2, score=1.5, p_correct=0.7),
                Recruit(expert_id="b", score=0.5, p_correct=None),
            ),
            recruiter="deciding",
            is_fallback=self.fallback_reason is not None,
            fallback_reason=self.fallback_reason,
            estimate=Usage(completions=3, cost_usd=self.cost_usd),
            seed=request.seed,
        )

    def explain(self, request):
        return [f"k {request.query.controls.k}, {request.query.budget.max_completions} at most"]


async def outcome(expect, *, question="algebra, please", engine=None, **check):
    tests = RouteTests.model_validate({"checks": [{"question": question, "expect": expect, **check}]})
    engine = engine or engine_of(FakeBackend(), recruiter=Deciding(("a", "b", "c")))
    [result] = await check_routes(engine, tests)
    return result


@pytest.mark.parametrize(
    "expect",
    [
        {"experts": {"any": ["c", "a"]}},
        {"experts": {"all": ["a", "b"], "none": ["c"]}},
        {"skills": {"any": ["algebra,"]}},
        {"skills": {"none": ["botany"]}},
        {"min_p_correct": 0.7, "min_score": 1.5},
        {"max_cost_usd": 0.02, "max_completions": 3},
        {"is_fallback": False},
        {"aggregator": "majority"},
    ],
)
async def test_what_holds_passes(expect) -> None:
    result = await outcome(expect)
    assert (result.passed, result.problems, result.reasons) == (True, (), ())


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"experts": {"any": ["c"]}}, "experts: none of c is there; found: a, b"),
        ({"experts": {"all": ["a", "c"]}}, "experts: c missing; found: a, b"),
        ({"experts": {"none": ["b"]}}, "experts: b must not be there; found: a, b"),
        ({"skills": {"all": ["botany"]}}, "skills: botany missing; found: algebra,"),
        ({"category": "math"}, "category: expected math, found none"),
        ({"min_p_correct": 0.71}, "min_p_correct: expected 0.710 or more, the best recruit has 0.700"),
        ({"min_score": 2}, "min_score: expected 2.000 or more, the best recruit has 1.500"),
        ({"max_cost_usd": 0.01}, "max_cost_usd: may cost 0.02, at most 0.01 expected"),
        ({"max_completions": 2}, "max_completions: 3 are asked for, at most 2 expected"),
        ({"is_fallback": True}, "is_fallback: expected true, is false"),
        ({"aggregator": "first"}, "aggregator: expected first, found majority"),
    ],
)
async def test_what_does_not_hold_is_said_with_why(expect, said) -> None:
    result = await outcome(expect, k=5, budget={"max_completions": 9})
    assert result.problems == (said,)
    assert result.reasons == ("k 5, 9 at most",)
    assert result.decided.startswith("a ×2 (0.70), b by everyone + majority (skills: algebra,)")
    assert result.as_json()["passed"] is False


async def test_an_unknown_cost_keeps_no_limit() -> None:
    engine = engine_of(FakeBackend(), recruiter=Deciding(("a", "b"), cost_usd=None))
    assert (await outcome({"max_cost_usd": 9}, engine=engine)).problems == (
        "max_cost_usd: the cost is unknown, at most 9.0 expected",
    )


async def test_a_fallback_says_its_reason() -> None:
    engine = engine_of(FakeBackend(), recruiter=Deciding(("a", "b"), fallback_reason="nothing like it"))
    result = await outcome({"is_fallback": False}, engine=engine)
    assert result.problems == ("is_fallback: expected false, is true (nothing like it)",)
    assert "fallback: nothing like it" in result.decided


async def test_a_question_that_cannot_be_decided_fails_alone() -> None:
    checks = [
        {"question": "impossible", "expect": {"is_fallback": False}},
        {"question": "algebra", "expect": {"is_fallback": False}},
    ]
    engine = engine_of(FakeBackend(), recruiter=Deciding(("a", "b")))
    first, second = await check_routes(engine, RouteTests.model_validate({"checks": checks}))
    assert "nothing could be decided" in first.problems[0] and "(routing_error)" in first.problems[0]
    assert first.decided == "no decision (routing_error)"
    assert second.passed


async def test_no_expert_is_asked() -> None:
    backend = FakeBackend()
    await outcome({"is_fallback": False}, engine=engine_of(backend, recruiter=Deciding(("a", "b"))))
    assert backend.asked == []


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"experts": {"none": ["d"]}}, "unknown expert 'd'"),
        ({"aggregator": "majorty"}, "Did you mean 'majority'"),
    ],
)
async def test_a_name_that_does_not_exist_can_neither_pass_nor_fail(expect, said) -> None:
    with pytest.raises(UnknownNameError, match=said):
        await outcome(expect)


# --- the file --------------------------------------------------------------------------------------------------------


def written(tmp_path, content):
    path = tmp_path / "routes.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_file_names_its_configuration_from_where_it_lies(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FLOOR", "0.4")
    (tmp_path / "enlist.yaml").write_text("{}")
    check = {"question": "?", "name": "first", "expect": {"min_p_correct": "${FLOOR}"}}
    tests = load_route_tests(
        written(tmp_path, {"config": "enlist.yaml", "pool": "local", "artefact": "gone", "checks": [check]})
    )
    assert (tests.config, tests.pool, tests.artefact) == (str(tmp_path / "enlist.yaml"), "local", "gone")
    assert (tests.checks[0].title, tests.checks[0].expect.min_p_correct) == ("first", 0.4)


def test_what_is_asked_stays_as_it_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("x", "a secret")
    monkeypatch.setenv("SEED", "7")
    check = {"question": "Solve ${x}^2 = ${y}$.", "answer_kind": "choice", "options": ["${x}", "2"], "seed": "${SEED}"}
    [read] = load_route_tests(written(tmp_path, {"checks": [{**check, "expect": {"min_score": 0}}]})).checks
    assert (read.question, read.options, read.seed) == (check["question"], ("${x}", "2"), 7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"checks": []}, "checks: Tuple should have at least 1 item"),
        ({"check": []}, "check: unknown key. Did you mean 'checks'"),
        ({"checks": [{"question": "?", "expect": {"expert": {"any": ["a"]}}}]}, "Did you mean 'experts'"),
        ({"checks": [{"question": "?", "expect": {"experts": {"anyy": ["a"]}}}]}, "Did you mean 'any'"),
        ({"checks": [{"question": "?", "expect": {"experts": {}}}]}, "name something under `any`, `all` or `none`"),
        ({"checks": [{"question": "?", "expect": {}}]}, "expect something of the decision"),
        ({"checks": [{"question": "?"}]}, "checks.0.expect: Field required"),
        ({"checks": [{"question": "?", "expect": {"min_p_correct": 7}}]}, "less than or equal to 1"),
        ({"checks": [{"question": "?", "expect": {"is_fallback": True}}] * 2}, "two checks are called '?'"),
        ({"checks": [{"question": "?", "name": "${GONE_VARIABLE}", "expect": {}}]}, "'GONE_VARIABLE' is not set"),
        ({"checks": [{"question": "?", "expect": {"max_completions": None}}]}, "expect something of the decision"),
        ({"checks": [{"question": "?", "options": ["a", "b"], "expect": {"min_score": 0}}]}, "answer_kind is `free`"),
        ("checks: [", "is not valid YAML"),
    ],
)
def test_a_file_is_read_strictly(tmp_path, content, said) -> None:
    with pytest.raises(ConfigError) as refused:
        load_route_tests(written(tmp_path, content))
    assert said in refused.value.message


# --- JUnit -----------------------------------------------------------------------------------------------------------


def test_junit_holds_every_test_and_any_text() -> None:
    cases = [
        JunitCase(name="good", details="decided: a"),
        JunitCase(name="bad <&> \x00", problems=("one", "two"), details="why"),
        JunitCase(name="plain"),
    ]
    root = ElementTree.fromstring(junit_xml("routes.yaml", cases, duration_s=1.5).split("\n", 1)[1])
    suite = root[0]
    assert suite.attrib == {"name": "routes.yaml", "tests": "3", "failures": "1", "errors": "0", "time": "1.500"}
    good, bad, plain = suite
    assert (good.attrib["name"], good[0].tag, good[0].text) == ("good", "system-out", "decided: a")
    assert (bad.attrib["name"], bad[0].attrib["message"], bad[0].text) == ("bad <&> ?", "one; two", "one\ntwo\nwhy")
    assert list(plain) == []
