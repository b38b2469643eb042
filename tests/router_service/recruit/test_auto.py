"""The guard: simple strategies stay unless the evidence is against them, and it can say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router_service.errors import ConfigError
from router_service.recruit.auto import Auto
from router_service.recruit.contest import Contender, Verdict, judge, verdicts_by_category
from router_service.recruit.strategies import strategy_named
from tests.router_service.recruit.worlds import World

ONE_MASTER = World(accuracy=((0.95, 0.2, 0.2, 0.2),))
CROWD = World(accuracy=((0.6,) * 7,))
HALF = World(accuracy=((0.97, 0.1, 0.1, 0.1, 0.1, 0.1), (0.55,) * 6))


def contender(name, *grades, calls=1):
    return Contender(name=name, grades=np.array(grades, dtype=float), calls=np.full(len(grades), float(calls)))


def test_a_later_contender_needs_evidence():
    plain, better = contender("plain", 0, 1, 0, 1, 0, 1), contender("better", 1, 1, 0, 1, 1, 1, calls=3)
    assert judge([plain, better], level=0.9).chosen == "better"
    assert judge([plain, better], level=0.99).chosen == "plain"
    assert judge([plain, plain], level=0.6).chosen == "plain"
    assert judge([plain, replace(better, calls=plain.calls)], level=0.99).chosen == "better", "at no more calls"
    verdict = judge([plain, better], level=0.9)
    assert Verdict.from_json(verdict.as_json()) == verdict
    assert verdict.lines()[1].endswith("probability 0.94 (chosen)")
    assert verdict.n == 6


def test_a_category_needs_questions_and_evidence_of_its_own():
    random = np.random.default_rng(0)
    a = Contender(name="a", grades=(random.random(120) < 0.5).astype(float), calls=np.ones(120))
    wins = np.where(np.arange(120) < 60, 1.0, a.grades)
    b = Contender(name="b", grades=wins, calls=np.ones(120))
    numbers = np.array([0] * 60 + [1] * 59 + [2])
    found = verdicts_by_category([a, b], numbers, overall="a", level=0.95)
    assert {number: verdict.chosen for number, verdict in found.items()} == {0: "b"}
    assert not verdicts_by_category([a, b], np.full(120, -1), overall="a", level=0.95)


def test_one_master_is_asked_alone_and_a_crowd_together():
    alone = Auto(k=3).fit(ONE_MASTER.data(200))
    (decision,) = alone.recruit([ONE_MASTER.request()])
    assert [r.expert_id for r in decision.recruits] == ["e0"] and decision.aggregator == "first"
    assert alone.is_final(decision) and not alone.is_final(replace(decision, aggregator="fuser"))
    crowd = Auto(k=5).fit(CROWD.data(300))
    (decision,) = crowd.recruit([CROWD.request()])
    assert sum(r.samples for r in decision.recruits) > 1 and decision.aggregator in ("majority", "fuser")
    assert decision.recruiter == "auto"


def test_an_expert_profiled_on_few_questions_does_not_look_worse_than_it_is():
    data = ONE_MASTER.data(200)
    few = {f"q{number:04}" for number in range(0, 200, 5)}
    data = replace(data, outcomes=tuple(o for o in data.outcomes if o.expert_id != "e0" or o.question_id in few))
    fitted = Auto(k=3).fit(data)
    best, *_ = fitted.verdicts_[3].evidence
    assert best[0] == "best_single" and best[1] > 0.3, "the others answer where the master was not asked"


def test_a_category_may_be_decided_otherwise_and_strange_queries_go_overall():
    fitted = Auto(k=5, category_level=0.9).fit(HALF.data(400))
    master, crowd = HALF.request(0), HALF.request(1)
    overall = fitted.verdicts_[5].chosen
    own = {name: verdict.chosen for name, verdict in fitted.by_category_[5].items()}
    assert own, "the two categories call for different strategies"
    counts = [sum(r.samples for r in d.recruits) for d in fitted.recruit([master, crowd])]
    assert counts[0] < counts[1]
    category = next(iter(own))
    odd = HALF.request(int(category[1:]))
    strange = replace(odd, annotation=replace(odd.annotation, novelty=0.99))
    assert "like nothing seen" in fitted.explain(strange)[0]
    assert f"in category '{category}'" in fitted.explain(odd)[0]
    assert fitted._strategy(strange)[0].kind == overall.split()[0].split("-")[0]


def test_it_explains_itself_with_numbers():
    fitted = Auto(k=3).fit(CROWD.data(200))
    first, *lines = fitted.explain(CROWD.request())
    assert "judged on 200 fit questions" in first
    assert lines[0].startswith("best_single: accuracy 0.")
    assert sum("(chosen)" in line for line in lines) == 1


def test_the_evidence_survives_saving(tmp_path):
    data = HALF.data(400)
    fitted = Auto(k=5, category_level=0.9).fit(data)
    fitted.save(tmp_path / "auto.npz")
    loaded = Auto(k=5, category_level=0.9).load(tmp_path / "auto.npz", experts=data.experts)
    for category in (0, 1):
        assert loaded.explain(HALF.request(category)) == fitted.explain(HALF.request(category))
        assert loaded.recruit([HALF.request(category)]) == fitted.recruit([HALF.request(category)])


def test_repeated_samples_are_a_contender_where_they_were_recorded():
    data = ONE_MASTER.data(60)
    again = tuple(replace(o, sample=n) for o in data.outcomes for n in range(3))
    names = [row[0] for row in Auto(k=3).fit(replace(data, outcomes=again)).verdicts_[3].evidence]
    assert "self_consistency majority" in names
    assert "self_consistency majority" not in [row[0] for row in Auto(k=3).fit(data).verdicts_[3].evidence]


def test_a_strategy_is_read_from_its_name():
    strategy = strategy_named("fixed-5 fuser", None)
    assert (strategy.kind, strategy.k, strategy.aggregator) == ("fixed", 5, "fuser")
    assert strategy.label == "fixed with fuser, k = 5"
    assert strategy_named("best_single", 3).aggregator == "first"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"level": 0.2}, "level is 0.2"),
        ({"category_level": 1.0}, "category_level is 1"),
        ({"floor": 2.0}, "floor is 2"),
    ],
)
def test_wrong_options_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        Auto(**options)
