"""The learned vote: it knows whose word counts, who errs with whom, and how far to trust the winner."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from aggregators._fusion_fit import _Panels
from aggregators.auto import Auto
from aggregators.fuser import Fuser
from aggregators.fusion import Fusion, cross_fitted, fold_of, fused_ids, votes_of
from aggregators.majority import Majority
from router_service.errors import ConfigError, NotFittedError
from router_service.types import AnswerKind, Expert, FitData, Outcome, Question, SkillAnnotation, Usage
from tests.aggregators.panels import FakeAsk, lessons, panel, said


def graded(rows, *, categories=("maths",)):
    """Fit data of letters: per question the right letter and what each expert said ("-" for no answer)."""
    experts = [f"e{i}" for i in range(len(rows[0][1]))]
    outcomes, questions, annotations = [], {}, {}
    for number, (right, letters) in enumerate(rows):
        question_id = f"q{number:04}"
        questions[question_id] = Question(id=question_id, text="?", answer=right, answer_kind=AnswerKind.CHOICE)
        annotations[question_id] = SkillAnnotation(query_id=question_id, category=categories[number % len(categories)])
        for expert_id, letter in zip(experts, letters, strict=True):
            outcomes.append(
                Outcome(
                    dataset="d",
                    split="fit",
                    question_id=question_id,
                    expert_id=expert_id,
                    extracted=None if letter == "-" else letter,
                    correct=float(letter == right),
                )
            )
    pool = tuple(Expert(id=expert_id, model="m", backend="echo") for expert_id in experts)
    return FitData(experts=pool, outcomes=tuple(outcomes), questions=questions, annotations=annotations)


def twins(count=120, seed=0):
    """One expert that is right four times in five, and two that are right half the time and always say the same."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        strong = "A" if random.random() < 0.8 else "B"
        weak = "A" if random.random() < 0.5 else random.choice(list("BCD"))
        rows.append(("A", [strong, weak, weak]))
    return graded(rows)


def vote(aggregator, letters, *, category="maths"):
    """What is made of e0, e1, ... saying these letters."""
    members = [said(f"e{i}", letter) for i, letter in enumerate(letters)]
    one = panel(members)
    one = replace(one, annotation=replace(one.annotation, category=category))
    return asyncio.run(aggregator.aggregate(one, ask=FakeAsk()))


def test_two_that_always_agree_count_for_less_than_one_that_knows():
    data = twins()
    assert vote(Majority(), "ABB").extracted == "B"
    answer = vote(Fuser().fit(data), "ABB")
    assert answer.extracted == "A"
    assert answer.supporters == ("e0",) and answer.agreement == pytest.approx(1 / 3)


def test_weights_differ_by_category():
    random = np.random.default_rng(1)
    rows = []
    for number in range(300):
        good, bad = ("A" if random.random() < 0.9 else "C"), ("A" if random.random() < 0.3 else "B")
        rows.append(("A", [good, bad] if number % 2 == 0 else [bad, good]))
    fuser = Fuser().fit(graded(rows, categories=("maths", "arts")))
    assert vote(fuser, "CB", category="maths").extracted == "C"
    assert vote(fuser, "CB", category="arts").extracted == "B"


def test_confidence_is_calibrated_on_questions_never_seen():
    data = twins(400)
    fuser = Fuser().fit(data)
    fusion = fuser.fusion_
    fresh = twins(400, seed=9)
    votes = votes_of(fresh, *fused_ids(fresh))
    verdicts = fusion.verdicts(votes)
    grades, confidence = votes.is_right(verdicts.winners), fusion.confidence(votes, verdicts)
    assert confidence.mean() == pytest.approx(grades.mean(), abs=0.06)
    assert ((confidence - grades) ** 2).mean() < ((grades.mean() - grades) ** 2).mean()


def test_a_long_completion_can_tell_a_guess():
    """The expert is wrong whenever it is long-winded, so a short word of it beats a long one of another."""
    random = np.random.default_rng(2)
    data = graded(
        [("A", ["A" if random.random() < 0.5 else "B", "A" if random.random() < 0.5 else "C"]) for _ in range(400)]
    )
    lengths = {o: 20 if o.correct else 200 for o in data.outcomes}
    data = replace(data, outcomes=tuple(replace(o, completion_tokens=lengths[o]) for o in data.outcomes))
    fuser = Fuser().fit(data)
    for short, expected in ((0, "D"), (1, "C")):
        members = [said("e0", "D"), said("e1", "C")]
        members = [replace(m, usage=Usage(completion_tokens=20 if i == short else 200)) for i, m in enumerate(members)]
        assert asyncio.run(fuser.aggregate(panel(members), ask=FakeAsk())).extracted == expected


def test_who_is_expected_to_be_right_here_counts_for_more():
    """Two experts are alike overall, and each question has the one that was expected to know it."""
    random = np.random.default_rng(3)
    rows, chances = [], {}
    for number in range(200):
        knows = number % 2
        letters = ["A" if random.random() < (0.9 if place == knows else 0.2) else "BC"[place] for place in (0, 1)]
        rows.append(("A", letters))
        chances[f"q{number:04}"] = [0.9 if place == knows else 0.2 for place in (0, 1)]
    fuser = Fuser().fit(replace(graded(rows), chances=chances))
    for p, expected in (({"e0": 0.9, "e1": 0.2}, "D"), ({"e0": 0.2, "e1": 0.9}, "C")):
        one = panel([said("e0", "D"), said("e1", "C")], p=p)
        assert asyncio.run(fuser.aggregate(one, ask=FakeAsk())).extracted == expected


def test_samples_of_one_expert_share_its_voice():
    fuser = Fuser().fit(twins())
    members = [said("e1", "B", sample=0), said("e1", "B", sample=1), said("e1", "B", sample=2), said("e0", "A")]
    assert asyncio.run(fuser.aggregate(panel(members), ask=FakeAsk())).extracted == "A"


def test_a_stranger_has_the_mean_weight():
    fusion = Fuser().fit(twins()).fusion_
    weights = fusion.of_members(["e0", "new"]).weights_
    assert weights.said.tolist() == pytest.approx([fusion.weights_.said[0], fusion.weights_.said.mean()])
    assert not weights.by_category[:, 1].any()


def test_the_slope_is_that_of_the_loss():
    data = lessons()
    chances = {i: np.random.default_rng(n).random(5).tolist() for n, i in enumerate(data.questions)}
    votes = votes_of(replace(data, chances=chances), *fused_ids(data))
    panels = _Panels(votes, np.random.default_rng(0).normal(size=votes.labels.shape), 2)
    point = np.random.default_rng(1).normal(size=votes.labels.shape[1] * 3 + 3)
    _, slope = panels._loss(point)
    for place in range(len(point)):
        step = np.eye(len(point))[place] * 1e-6
        numeric = (panels._loss(point + step)[0] - panels._loss(point - step)[0]) / 2e-6
        assert slope[place] == pytest.approx(numeric, abs=1e-4)


def test_learning_changes_the_weights_and_the_seed_repeats_them():
    one, other = Fuser().fit(twins()).fusion_, Fuser().fit(twins()).fusion_
    assert one.weights_.said.any() and one.weights_.said[0] > one.weights_.said[1]
    assert one.weights_.said.tolist() == other.weights_.said.tolist()


def test_folds_hold_every_question_out_once_and_judge_it_by_the_others():
    data = twins(50)
    votes = votes_of(data, *fused_ids(data))
    found = cross_fitted(votes, categories=1)
    assert np.sum([held_out for held_out, _ in found], axis=0).tolist() == [1] * 50
    assert sorted(np.bincount(fold_of(52)).tolist()) == [10, 10, 10, 11, 11]
    assert len({tuple(fusion.weights_.said.tolist()) for _, fusion in found}) > 1
    assert cross_fitted(votes, categories=1) is found


def test_votes_know_answers_missing_ones_and_a_plain_majority():
    votes = votes_of(graded([("A", ["A", "B", "b"]), ("A", ["-", "B", "A"])]), ["q0000", "q0001"], ["maths"])
    assert votes.labels.tolist() == [[0, 1, 1], [-1, 0, 1]]
    assert votes.right.tolist() == [[True, False], [False, True]]
    assert votes.grades().tolist() == [[1, 0, 0], [0, 0, 1]]
    assert votes.majority(np.array([[0.9, 0.1, 0.1], [0.9, 0.1, 0.5]])).tolist() == [0, 1]
    only = votes.within(np.array([[True, False, False]] * 2))
    assert Fusion([""] * 3, ["maths"]).fit(votes).verdicts(only).winners.tolist() == [0, -1]


def test_what_was_learned_is_saved(tmp_path):
    for part, again in ((Fuser().fit(twins()), Fuser()), (Auto().fit(twins()), Auto())):
        part.save(tmp_path / "learned.npz")
        loaded = again.load(tmp_path / "learned.npz")
        for letters in ("ABB", "ABC", "BAA", "CCC"):
            assert vote(loaded, letters) == vote(part, letters)
    with pytest.raises(ConfigError, match="seed 0, and 3"):
        Fuser().fit(twins()).save(tmp_path / "fuser.npz")
        Fuser(seed=3).load(tmp_path / "fuser.npz")
    Auto(level=0.95).fit(twins()).save(tmp_path / "auto.npz")
    with pytest.raises(ConfigError, match=r"level 0\.95, and 0\.6 is configured"):
        Auto(level=0.6).load(tmp_path / "auto.npz")


def test_it_says_what_is_missing(tmp_path):
    for part in (Fuser(), Auto()):
        with pytest.raises(NotFittedError, match="enlist profile"):
            vote(part, "AB")
        with pytest.raises(NotFittedError):
            part.save(tmp_path / "nothing.npz")
    with pytest.raises(ConfigError, match=r"graded outcomes.*enlist profile"):
        Fuser().fit(FitData(experts=()))
    with pytest.raises(ConfigError, match=r"level is 0\.3"):
        Auto(level=0.3)


def test_auto_takes_the_learned_vote_only_where_it_is_better():
    better = Auto().fit(twins())
    assert [found.size for found in better.evidence_] == [3] and better.evidence_[0].p_fuser_better > 0.9
    assert vote(better, "ABB").aggregator == "fuser"
    random = np.random.default_rng(5)
    alike = graded([("A", ["A" if random.random() < 0.6 else letter for letter in "BCD"]) for _ in range(200)])
    plain = Auto().fit(alike)
    assert vote(plain, "ABB").aggregator == "majority"
    assert plain.evidence_[0].p_fuser_better < 0.7
    assert vote(Auto().fit(FitData(experts=())), "ABB").aggregator == "majority"


def test_auto_may_choose_otherwise_for_larger_panels():
    """Two good experts and eight that all repeat one weak opinion: small panels need no learning, large ones do."""
    random = np.random.default_rng(6)
    rows = []
    for _ in range(300):
        herd = "A" if random.random() < 0.35 else random.choice(list("BCD"))
        rows.append(("A", ["A" if random.random() < 0.8 else "B" for _ in range(3)] + [herd] * 8))
    chosen = Auto().fit(graded(rows))
    assert [found.size for found in chosen.evidence_] == [3, 5, 11]
    assert chosen.evidence_[-1].p_fuser_better > 0.95
    assert vote(chosen, "AABCCCCCCCC").extracted == "A"
    assert vote(chosen, "AABCCCCCCCC").aggregator == "fuser"
