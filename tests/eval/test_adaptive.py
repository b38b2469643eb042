"""Adaptive profiling: settled strata are settled rightly, gaps save questions, error bars cover, and choosing pays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.adaptive import AdaptiveProfiler, ErrorScales, error_scales
from eval.adaptive_bank import KnownGrades, QuestionBank, known_grades
from eval.adaptive_bounds import StratumBounds
from router_service.errors import ConfigError
from router_service.types import Outcome, Question
from tests.eval.simulated_experts import bank_of, graded, item_response, profiled


def nobody(questions) -> KnownGrades:
    return KnownGrades(expert_ids=(), grades=np.empty((0, len(questions))))


def incumbent(rate: float, size: int) -> np.ndarray:
    """One known expert that is right on this share of every category's `size` questions."""
    return np.array([float(n < round(rate * size)) for n in range(size)])


# --- settling strata -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_bounds_that_are_looked_at_after_every_answer_seldom_lose_the_truth(p: float) -> None:
    """200 experts, 3 strata, 120 looks each: at δ = 0.2 at most 40 may ever be wrong, and chance on top of that."""
    questions = bank_of(3, 1)
    bank = QuestionBank(questions, nobody(questions))
    random = np.random.default_rng(5)
    lost = 0
    for _ in range(200):
        bounds = StratumBounds(bank, delta=0.2)
        is_lost = False
        for _ in range(120):
            for stratum in range(3):
                bounds.record(stratum, float(random.random() < p))
                low, high = bounds.interval(stratum)
                is_lost |= not low <= p <= high
        lost += is_lost
    assert lost / 200 <= 0.2 + 2 * math.sqrt(0.2 * 0.8 / 200)


def test_verdicts_on_simulated_experts_are_wrong_at_most_with_probability_delta() -> None:
    """Experts a little above, a little below and far off the best known one; questions are chosen by the profiler."""
    questions, random = bank_of(3, 60), np.random.default_rng(11)
    known = [np.tile(incumbent(0.5, 60), 3)]
    n_wrong = n_settled = 0
    for _ in range(60):
        truth = random.choice([0.25, 0.4, 0.6, 0.75], size=3)
        grades = graded(random, chances=np.repeat(truth, 60), n_questions=180)
        result = profiled(questions, known, grades, budget=180, confidence=0.8, wave=6).result("new")
        verdicts = [stratum.verdict for stratum in result.strata.values()]
        wrong = [v for v, p in zip(verdicts, truth, strict=True) if v is not None and (v == "above") != (p > 0.5)]
        n_settled += sum(verdict is not None for verdict in verdicts)
        n_wrong += bool(wrong)
    assert n_settled >= 60
    assert n_wrong / 60 <= 0.2


def test_the_larger_the_gap_the_more_questions_are_saved() -> None:
    questions = bank_of(4, 100)
    known = [np.tile(incumbent(0.5, 100), 4)]
    saved = []
    for gap in (0.0, 0.2, 0.3, 0.4):
        random = np.random.default_rng(3)
        runs = [
            profiled(questions, known, graded(random, chances=0.5 - gap, n_questions=400), budget=400, wave=10)
            for _ in range(4)
        ]
        saved.append(400 - np.mean([run.n_asked for run in runs]))
    assert saved == sorted(saved)
    assert saved[0] < 40
    assert saved[1] + 40 < saved[2] < saved[3] - 20
    assert saved[3] > 250


def test_a_specialist_is_not_settled_by_what_it_does_elsewhere() -> None:
    questions = bank_of(6, 60)
    known = [np.tile(incumbent(0.5, 60), 6)]
    grades = np.concatenate([np.ones(60), np.zeros(300)])
    result = profiled(questions, known, grades, budget=360, wave=6).result("new")
    assert [stratum.verdict for stratum in result.strata.values()] == ["above"] + ["below"] * 5
    assert result.n_asked < 120


# --- estimates -------------------------------------------------------------------------------------------------------


def test_error_bars_cover_what_asking_everything_shows() -> None:
    """Experts and questions drawn from the model that is fitted: coverage of 80 % bars, overall and per category."""
    questions, covered, covered_strata = bank_of(5, 40), [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        easiness = random.normal(0, 1.2, size=200)
        grades = item_response(random, random.normal(-0.3, 0.7, size=13), easiness)
        result = profiled(questions, grades[1:], grades[0], budget=50, confidence=0.8, wave=5).result("new")
        covered.append(result.overall.low <= grades[0].mean() <= result.overall.high)
        for number, stratum in enumerate(result.strata.values()):
            truth = grades[0][40 * number : 40 * (number + 1)].mean()
            covered_strata.append(stratum.estimate.low <= truth <= stratum.estimate.high)
    assert np.mean(covered) >= 0.8 - 2 * math.sqrt(0.8 * 0.2 / 40)
    assert 0.8 - 2 * math.sqrt(0.8 * 0.2 / 200) <= np.mean(covered_strata)


def test_chosen_questions_tell_more_than_random_ones() -> None:
    """Against what the mean of as many random grades (without replacement) is off on average."""
    questions, chosen, by_chance = bank_of(5, 60), [], []
    for seed in range(40):
        random = np.random.default_rng(100 + seed)
        grades = item_response(random, random.normal(-0.3, 0.7, size=13), random.normal(0, 1.5, size=300))
        result = profiled(questions, grades[1:], grades[0], budget=40, wave=5).result("new")
        truth = grades[0].mean()
        chosen.append((result.overall.accuracy - truth) ** 2)
        by_chance.append(truth * (1 - truth) / 40 * 260 / 299)
    assert math.sqrt(np.mean(chosen)) < 0.8 * math.sqrt(np.mean(by_chance))


def test_where_experts_differ_by_luck_alone_no_question_counts_as_hard() -> None:
    random = np.random.default_rng(2)
    questions = bank_of(2, 100)
    known = (random.random((8, 200)) < 0.4).astype(float)
    flat = QuestionBank(questions, KnownGrades(expert_ids=tuple("abcdefgh"), grades=known))
    real = QuestionBank(
        questions,
        KnownGrades(
            expert_ids=tuple("abcdefgh"), grades=item_response(random, [0.0] * 8, random.normal(0, 2, size=200))
        ),
    )
    assert flat.easiness.std() < 0.35
    assert real.easiness.std() > 1.2


def test_an_expert_like_the_others_is_estimated_before_it_is_asked_much() -> None:
    questions = bank_of(2, 50)
    known = np.tile((np.arange(100) % 2).astype(float), (9, 1))
    result = profiled(questions, known, known[0], budget=10).result("new")
    assert result.overall.accuracy == pytest.approx(0.5, abs=0.03)


def test_nobody_known_still_gives_an_estimate_and_no_verdict() -> None:
    questions = bank_of(2, 30)
    random = np.random.default_rng(9)
    grades = graded(random, chances=0.7, n_questions=60)
    profiler = AdaptiveProfiler(QuestionBank(questions, nobody(questions)), budget=30)
    while not profiler.is_finished:
        [position] = profiler.next_questions()
        profiler.record(position, float(grades[position]))
    result = profiler.result("new")
    assert result.overall.low <= grades.mean() <= result.overall.high
    assert {(s.verdict, s.incumbent, s.incumbent_accuracy) for s in result.strata.values()} == {(None, "", None)}
    assert all(13 <= stratum.n_asked <= 17 for stratum in result.strata.values())


def test_everything_asked_is_exactly_known() -> None:
    questions = bank_of(2, 12)
    grades = graded(np.random.default_rng(1), chances=0.5, n_questions=24)
    result = profiled(questions, np.empty((0, 24)), grades, budget=24).result("new")
    assert (result.overall.low, result.overall.high) == pytest.approx((grades.mean(), grades.mean()))
    assert result.profile.categories["category 0"].wins == pytest.approx(grades[:12].sum())
    assert result.profile.categories["category 0"].trials == 12


# --- the profile -----------------------------------------------------------------------------------------------------


def test_a_profiles_rates_are_the_estimates_and_its_trials_never_more_than_asked() -> None:
    questions, random = bank_of(3, 40), np.random.default_rng(4)
    grades = item_response(random, [0.2, -0.5, 0.1, 0.6, -0.1], random.normal(0, 1, size=120))
    result = profiled(questions, grades[1:], grades[0], budget=25).result("new")
    profile = result.profile
    assert profile.overall.trials == result.n_asked == 25
    assert profile.overall.rate() == pytest.approx(result.overall.accuracy)
    for name, tally in profile.categories.items():
        assert 1 <= tally.trials <= 25
        assert tally.wins / tally.trials == pytest.approx(result.strata[name].estimate.accuracy)
    assert set(profile.skills) == {skill for question in questions for skill in question.skills}
    assert all(0 <= tally.wins <= tally.trials <= 4 for tally in profile.skills.values())


def test_the_same_answers_lead_to_the_same_questions() -> None:
    questions, random = bank_of(3, 30), np.random.default_rng(8)
    grades = item_response(random, [0.2, -0.5, 0.1, 0.6], random.normal(0, 1, size=90))
    runs = [profiled(questions, grades[1:], grades[0], budget=20, wave=4) for _ in range(2)]
    assert runs[0].result("new") == runs[1].result("new")


def test_an_open_question_is_asked_once_and_one_left_out_never() -> None:
    questions = bank_of(2, 5)
    profiler = AdaptiveProfiler(QuestionBank(questions, nobody(questions)), budget=99)
    profiler.leave_out(3)
    asked = []
    while not profiler.is_finished:
        wave = profiler.next_questions(4)
        asked += wave
        for position in wave:
            profiler.record(position, 1.0)
    assert sorted(asked) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert profiler.next_questions(4) == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"budget": 0}, "the budget is 0"), ({"budget": 9, "confidence": 1.0}, r"the confidence is 1\.0")],
)
def test_what_cannot_be_asked_for_is_said(options, said) -> None:
    questions = bank_of(1, 3)
    with pytest.raises(ConfigError, match=said):
        AdaptiveProfiler(QuestionBank(questions, nobody(questions)), **options)


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(ConfigError, match="no questions to choose from"):
        QuestionBank((), nobody(()))


# --- known experts ---------------------------------------------------------------------------------------------------


def test_known_is_who_answered_nearly_everything() -> None:
    questions = [Question(id=str(n), text="?") for n in range(10)]

    def outcome(expert_id, number, correct, sample=0):
        return Outcome(
            dataset="d", split="fit", question_id=str(number), expert_id=expert_id, sample=sample, correct=correct
        )

    outcomes = [outcome("full", n, 1.0) for n in range(9)]
    outcomes += [outcome("full", 0, 0.0, sample=1)]
    outcomes += [outcome("partly", n, 1.0) for n in range(8)]
    outcomes += [outcome("new", n, 1.0) for n in range(10)]
    outcomes += [outcome("full", 77, 1.0)]
    known = known_grades(questions, outcomes, leaving_out="new")
    assert known.expert_ids == ("full",)
    assert known.grades[0, :9].tolist() == [0.5] + [1.0] * 8
    assert math.isnan(known.grades[0, 9])


def test_error_bars_are_widened_by_how_far_known_experts_would_have_been_off() -> None:
    questions, random = bank_of(4, 30), np.random.default_rng(6)
    like = item_response(random, random.normal(0, 0.6, size=10), random.normal(0, 1, size=120))
    fitting = KnownGrades(expert_ids=tuple(map(str, range(10))), grades=like)
    odd = like.copy()
    odd[:, :30] = np.arange(10)[:, None] % 2  # all or nothing in one category, which no model of the others foresees
    strange = KnownGrades(expert_ids=fitting.expert_ids, grades=odd)
    scales = [error_scales(questions, known, budget=16, confidence=0.9, wave=4) for known in (fitting, strange)]
    assert 1.0 < scales[0].stratum < scales[1].stratum
    assert error_scales(questions, nobody(questions), budget=16, confidence=0.9) == ErrorScales()
    profiler = profiled(questions, like[1:], like[0], budget=16)
    plain, wide = profiler.result("new"), profiler.result("new", ErrorScales(overall=2.0, stratum=1.0))
    assert wide.overall.high - wide.overall.low == pytest.approx(2 * (plain.overall.high - plain.overall.low))
    assert wide.strata == plain.strata
