"""Our own recruiters: `calibrated` asks who is likeliest to be right here, `adaptive` asks on only where that pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aggregators.equivalence import group_answers
from aggregators.fuser import Fuser
from router_service.errors import ConfigError
from router_service.recruit.adaptive import Adaptive
from router_service.recruit.calibrated import Calibrated, ordered, shared_errors
from router_service.recruit.gains import Gains, first_wave, most_asked
from router_service.recruit.rehearsal import Rehearsal
from router_service.types import AnswerKind, Budget
from tests.router_service.recruit.worlds import World, completion

SPECIALISTS = World(accuracy=((0.9, 0.4, 0.5, 0.5), (0.4, 0.9, 0.5, 0.5)))
CROWD = World(accuracy=((0.65,) * 7,))
TWINS = World(accuracy=((0.72, 0.70, 0.70, 0.60, 0.60),), twins=(0, 1, 2))


def names(decision):
    return [recruit.expert_id for recruit in decision.recruits]


def test_the_likeliest_are_asked_first():
    fitted = Calibrated(k=1).fit(SPECIALISTS.data(300))
    decisions = fitted.recruit([SPECIALISTS.request(0), SPECIALISTS.request(1)])
    assert [names(decision) for decision in decisions] == [["e0"], ["e1"]]
    assert decisions[0].recruits[0].p_correct == pytest.approx(0.9, abs=0.1)
    assert decisions[0].aggregator == "fuser"


def test_a_specialist_world_needs_one_expert_and_a_crowd_needs_many():
    """Without k the size is what paid on the fit questions."""
    alone = Calibrated(worth=0.01).fit(World(accuracy=((0.95, 0.3, 0.3, 0.3),)).data(200))
    assert len(names(alone.recruit([SPECIALISTS.request()])[0])) == 1
    many = Calibrated(worth=0.001).fit(CROWD.data(300))
    assert many.size_ >= 5 and len(names(many.recruit([CROWD.request()])[0])) == many.size_
    assert many.curve_[many.size_ - 1] > many.curve_[0] + 0.1


def test_shared_errors_are_counted_and_priced():
    data = TWINS.data(300)
    _, rehearsal = Rehearsal.with_chances(data, name="test")
    overlap = shared_errors(rehearsal)
    assert overlap[1, 2] > 0.9 and overlap[0, 3] < 0.4 and not overlap.diagonal().any()
    assert (overlap == overlap.T).all()
    chances = np.array([[0.72, 0.70, 0.70, 0.60, 0.60]])
    assert ordered(chances, overlap, 0.0).tolist() == [[0, 1, 2, 3, 4]]
    assert ordered(chances, overlap, 0.5)[0, :3].tolist() == [0, 3, 4]
    assert Calibrated(redundancy=0.5, k=3).fit(data).penalty_ == 0.5


def test_a_clear_first_wave_ends_the_asking_and_a_split_one_does_not():
    fitted = Adaptive(k=3).fit(CROWD.data(400))
    request = CROWD.request()
    first = [recruit.expert_id for recruit in fitted.recruit([request])[0].recruits]
    assert len(first) == 2
    places = [int(name[1:]) for name in first]
    agreed = replace(request, completions=tuple(completion(place, "B") for place in places))
    split = replace(request, completions=(completion(places[0], "A"), completion(places[1], "B")))
    assert fitted.extend([agreed, split])[0] == ()
    (third,) = fitted.extend([split])[0]
    assert third.expert_id not in first and third.p_correct is not None


def test_it_takes_k_completions_on_average_and_beats_as_many_asked_at_once():
    data, fresh = CROWD.data(400), CROWD.said(400, seed=99)
    fitted, fuser = Adaptive(k=3).fit(data), Fuser().fit(data)
    calls, right, fixed = [], [], []
    for number, (category, letters) in enumerate(fresh):
        request = CROWD.request(category, number=20_000 + number)
        said = tuple(
            completion(int(r.expert_id[1:]), letters[int(r.expert_id[1:])])
            for r in fitted.recruit([request])[0].recruits
        )
        while more := fitted.extend([replace(request, completions=said)])[0]:
            said += tuple(completion(int(r.expert_id[1:]), letters[int(r.expert_id[1:])]) for r in more)
        calls.append(len(said))
        right.append(winner(fuser, said) == "A")
        fixed.append(winner(fuser, tuple(completion(place, letters[place]) for place in range(3))) == "A")
    assert np.mean(calls) == pytest.approx(3, abs=0.4)
    assert max(calls) <= 7
    assert np.mean(right) >= np.mean(fixed)


def heard(recruits, letters):
    """What these experts say where everybody's letters are known."""
    places = [int(recruit.expert_id[1:]) for recruit in recruits]
    return tuple(completion(place, letters[place]) for place in places)


def winner(fuser, said):
    groups = group_answers(said, AnswerKind.CHOICE)
    fusion = fuser.fusion_.of_members([member.expert_id for member in said])
    votes = fuser.fusion_.votes_of_panel(groups, said, category="c0", chances=[None] * len(said))
    return groups[int(fusion.verdicts(votes).winners[0])].first.extracted


def test_what_was_not_said_changes_nothing_and_nobody_is_asked_twice():
    fitted = Adaptive(k=5).fit(CROWD.data(200))
    request = CROWD.request(k=5)
    said = ()
    while (
        more := fitted.extend([replace(request, completions=said)])[0]
        if said
        else fitted.recruit([request])[0].recruits
    ):
        said += tuple(completion(int(recruit.expert_id[1:]), "ABCD"[len(said) % 4]) for recruit in more)
    assert len({member.expert_id for member in said}) == len(said) <= 7


def test_a_budget_ends_the_asking():
    fitted = Adaptive(k=5).fit(CROWD.data(200))
    request = CROWD.request(k=5)
    spent = replace(request.query, budget=Budget(max_completions=0))
    said = (completion(0, "A"), completion(1, "B"))
    assert fitted.extend([replace(request, query=spent, completions=said)]) == [()]


def test_failed_members_are_asked_no_more_and_hold_no_answer():
    fitted = Adaptive(k=3).fit(CROWD.data(200))
    request = replace(CROWD.request(), completions=(completion(0, None), completion(1, None)))
    (more,) = fitted.extend([request])[0]
    assert more.expert_id not in ("e0", "e1")


def test_predicted_gains_are_larger_where_asking_on_helped():
    data = CROWD.data(300)
    known, rehearsal = Rehearsal.with_chances(data, name="test")
    chances = known.left_out()
    gains = Gains.fit(rehearsal, chances)
    steps = rehearsal.steps(np.argsort(-chances, axis=1, kind="stable"), chances, most=7)
    clear = gains.rehearsed[1] > np.median(gains.rehearsed[1])
    helped = steps[6].grades - steps[1].grades
    assert helped[clear].mean() > helped[~clear].mean() + 0.1
    for wanted in (2, 3, 5):
        assert gains.rehearsed_calls(wanted=wanted, worth=0).mean() == pytest.approx(wanted, abs=0.35)


def test_waves_and_limits():
    assert [first_wave(k) for k in (1, 2, 3, 8, None)] == [1, 1, 2, 2, 2]
    assert [most_asked(k) for k in (1, 2, 3, None)] == [1, 5, 7, 9]
    assert [most_asked(k) for k in (5, 8)] == [11, 11], "no more than was rehearsed"
    assert [(first_wave(k), most_asked(k)) for k in (9, 20)] == [(9, 9), (20, 20)], "no thresholds for so many"


def test_the_most_holds_from_the_first_wave_on():
    (decision,) = Adaptive(k=5, most=1).fit(CROWD.data(60)).recruit([CROWD.request()])
    assert len(names(decision)) == 1


@pytest.mark.parametrize("wanted", [8, 10])
def test_a_large_k_is_the_average_too(wanted):
    crowd = World(accuracy=((0.6,) * 20,))
    fitted = Adaptive(k=wanted).fit(crowd.data(200))
    calls = []
    for number, (_, letters) in enumerate(crowd.said(60, seed=99)):
        request = crowd.request(0, number=20_000 + number)
        said = heard(fitted.recruit([request])[0].recruits, letters)
        while more := fitted.extend([replace(request, completions=said)])[0]:
            said += heard(more, letters)
        calls.append(len(said))
    assert np.mean(calls) == pytest.approx(wanted, abs=0.8)


def test_answers_that_were_not_written_down_contest_each_other():
    """Else a panel would look right wherever one member is, as no wrong answer would be there to beat."""
    data = CROWD.data(100)
    data = replace(data, outcomes=tuple(replace(o, extracted=None) for o in data.outcomes))
    known, rehearsal = Rehearsal.with_chances(data, name="test")
    assert (rehearsal.votes.labels >= 0).all()
    chances = rehearsal.of_asked(known.left_out())
    everyone = np.ones_like(rehearsal.votes.asked)
    assert rehearsal.majority(everyone, chances).mean() < 0.8


def test_an_expert_that_was_not_asked_is_not_rehearsed():
    """One that was profiled on a few questions has no answers to the others: that is no failure."""
    data = SPECIALISTS.data(100)
    few = {f"q{number:04}" for number in range(0, 100, 5)}
    data = replace(data, outcomes=tuple(o for o in data.outcomes if o.expert_id != "e0" or o.question_id in few))
    known, rehearsal = Rehearsal.with_chances(data, name="test")
    chances = rehearsal.of_asked(known.left_out())
    unasked = ~rehearsal.votes.asked
    assert unasked[:, 0].sum() == 80 and (chances[unasked] < 0).all()
    steps = rehearsal.steps(ordered(chances, np.zeros((4, 4)), 0.0), chances, most=4)
    first = rehearsal.votes.labels[np.arange(100), np.argmax(chances, axis=1)]
    assert (steps[0].grades == rehearsal.votes.is_right(first)).all() and (first >= 0).all()
    assert (steps[3].grades == steps[2].grades)[unasked[:, 0]].all()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Adaptive(most=0), "most is 0; .* 1 to 64"),
        (lambda: Adaptive(worth=-1), "worth is -1"),
        (lambda: Calibrated(most=65), "most is 65"),
        (lambda: Calibrated(worth=-0.1), "worth is -0.1"),
        (lambda: Calibrated(redundancy=-1), "redundancy is -1"),
    ],
)
def test_wrong_options_are_refused(make, text):
    with pytest.raises(ConfigError, match=text):
        make()
