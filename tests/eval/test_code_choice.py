"""The bench of code choice: its right programs are right, its wrong ones wrong, and it counts as it says."""

from __future__ import annotations

import pytest

from eval.code_choice import RULES, SETTINGS, Setting, draw, measure, run_pools
from eval.code_pools import CandidatePool
from eval.code_problems import mutants, problem
from router_service.dispatch.sandbox import Sandbox
from tests.sandboxes import needs_sandbox


def solved(source: str, xs: list[int]) -> object:
    space: dict[str, object] = {}
    exec(source, space)
    return space["solve"](list(xs))  # type: ignore[operator]


@pytest.mark.parametrize("number", range(12))
def test_all_spellings_of_a_problem_agree(number) -> None:
    made = problem(number)
    assert made == problem(number)
    assert len(made.right) >= 2
    for xs in ([], [3], [5, -2, 8, 8, 1, 0, 12, -7]):
        assert len({repr(solved(source, xs)) for source in made.right}) == 1


def test_problems_differ() -> None:
    assert len({problem(number).words for number in range(30)}) > 25


def test_mutants_are_programs_that_differ_in_one_place() -> None:
    source = problem(3).right[0]
    changed = list(mutants(source))
    assert len(set(changed)) > 5
    assert source not in changed
    for text in changed:
        compile(text, "mutant", "exec")


@needs_sandbox
@pytest.mark.slow
async def test_a_pool_holds_what_really_happened() -> None:
    [pool] = await run_pools(1, Sandbox())
    assert sum(pool.right_candidates) >= 2
    assert sum(not right for right in pool.right_candidates) == 12
    for source, is_right, row in zip(pool.candidates, pool.right_candidates, pool.passes, strict=True):
        space: dict[str, object] = {}
        exec(source, space)
        for test, is_right_test, passes in zip(pool.tests, pool.right_tests, row, strict=True):
            try:
                exec(test, space)
                assert passes
            except Exception:
                assert not passes
            if is_right:
                assert passes is is_right_test
    wrong = [row for row, right in zip(pool.passes, pool.right_candidates, strict=True) if not right]
    assert any(passes and not right for row in wrong for passes, right in zip(row, pool.right_tests, strict=True))


POOL = CandidatePool(
    number=7,
    candidates=tuple("abcdef"),
    right_candidates=(True, True, False, False, False, False),
    tests=tuple("123456"),
    right_tests=(True, True, True, False, False, False),
    passes=(
        (True, True, True, False, False, False),
        (True, True, True, False, False, False),
        (True, False, True, False, False, False),
        (False, True, False, True, False, False),
        (False, False, False, True, True, True),
        (False, False, False, False, True, False),
    ),
)


def test_a_draw_holds_what_its_setting_says() -> None:
    setting = Setting(candidates=5, right=2, tests=4, right_tests=3, alike=2)
    matrix, is_right = draw(POOL, setting, 0)
    assert (matrix, is_right) == draw(POOL, setting, 0)
    assert len(matrix) == 5
    assert sum(is_right) == 2
    assert {len(row) for row in matrix} == {4}
    assert matrix[0] == matrix[1] == [True, True, True, False]
    assert matrix[2] == matrix[4]


def test_scores_are_shares_of_right_picks() -> None:
    settings = [
        Setting(candidates=4, right=2, tests=3, right_tests=3),
        Setting(candidates=4, right=1, tests=3, right_tests=0),
    ]
    scores = {(score.setting, score.rule): score for score in measure([POOL], seeds=10, settings=settings)}
    assert scores[settings[0].name, "random"].accuracy == 0.5
    assert scores[settings[0].name, "maxpass"].accuracy == 1.0
    assert scores[settings[0].name, "b4"].accuracy == 1.0
    assert scores[settings[1].name, "maxpass"].accuracy == 0.0
    assert all(score.low <= score.accuracy <= score.high for score in scores.values())
    assert scores[settings[0].name, "b4"].b4_ahead == 0.0
    assert scores[settings[0].name, "random"].b4_ahead == pytest.approx(0.5)


def test_the_settings_are_many_and_named_apart() -> None:
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS) == 15
    assert {"random", "b4", "codet", "maxpass", "mbr_exec"} <= set(RULES)
