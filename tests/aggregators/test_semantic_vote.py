"""Which free-form answers mean the same, which never do, and which one speaks for its group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.differences import conflict, ordinary_words, signature
from aggregators.semantic_vote import SemanticVote
from aggregators.semantics import DEFAULT_THRESHOLD, cluster, same_meanings, similarities
from router_service.errors import ConfigError
from router_service.types import AnswerKind, FitData, TaskFormat, ToolCall, user_query
from skills.base import EMBEDDERS
from tests.aggregators import meanings
from tests.aggregators.panels import FakeAsk, panel, said

FREE = TaskFormat()


def on_a_line(places):
    """An embedder that puts each text at an angle (in degrees), all that is not listed at 0."""

    def embed(texts):
        angles = np.radians([places.get(text, 0.0) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    return embed


def answers(*texts):
    return [said(f"e{place}", text, task_format=FREE) for place, text in enumerate(texts)]


async def vote(members, *, embed=None, query=None, **options):
    fitted = SemanticVote(**options).fit(FitData(experts=(), embed=embed))
    return await fitted.aggregate(panel(members, task_format=FREE, query=query), ask=FakeAsk())


async def test_without_an_embedder_words_units_and_formulas_count():
    got = await vote(answers("Rome", "3 km", "It is 3 km.", "3000 m"))
    assert (got.extracted, got.supporters) == ("3 km", ("e1", "e3"))
    pytest.importorskip("math_verify")
    got = await vote(answers("7", "x^2 + 1", "1 + x^2"))
    assert (got.extracted, got.supporters) == ("x^2 + 1", ("e1", "e2"))


async def test_near_answers_join_and_the_most_typical_one_speaks():
    places = {"the cat sat": 0, "well, the cat sat down": 20, "the cat sat down": 10, "it rained": 90, "rain": 91}
    got = await vote(answers("it rained", "rain", *list(places)[:3]), embed=on_a_line(places))
    assert (got.extracted, set(got.supporters)) == ("the cat sat down", {"e2", "e3", "e4"})
    assert got.agreement == got.confidence == pytest.approx(3 / 5)
    level = await vote(answers("rain", "it rained"), embed=on_a_line(places))
    assert level.extracted == "rain"


async def test_every_pair_of_a_group_must_be_near():
    """A chain of neighbours is not one meaning: 0, 30 and 60 degrees, of which only neighbours are near."""
    places = {"alpha beta": 0, "beta gamma": 30, "gamma delta": 60}
    got = await vote(answers(*places), embed=on_a_line(places))
    assert got.agreement == pytest.approx(2 / 3)


async def test_however_near_contraries_never_join():
    texts = ("It is open", "It is not open", "It is closed", "It is 3 km", "It is 4 km")
    got = await vote(answers(*texts), embed=on_a_line(dict.fromkeys(texts, 0)))
    assert got.agreement == pytest.approx(1 / 5)


async def test_other_kinds_are_voted_on_and_tool_calls_stay_apart():
    choice = TaskFormat(kind=AnswerKind.CHOICE)
    fitted = SemanticVote().fit(FitData(experts=(), embed=on_a_line({"A": 0, "B": 0})))
    one = panel([said("ann", "A"), said("ben", "B"), said("cyd", "B")], task_format=choice)
    assert (await fitted.aggregate(one, ask=FakeAsk())).extracted == "B"
    call = ToolCall(id="1", name="weather", arguments="{}")
    called = [said("cyd", None, calls=[call], text=""), said("dan", None, calls=[call], text="")]
    got = await vote([*answers("rain"), *called], embed=on_a_line({}))
    assert (got.tool_calls, got.supporters) == ((call,), ("cyd", "dan"))


async def test_a_word_of_the_question_in_small_letters_is_no_name():
    texts = ("Plants turn light into sugar", "Light is turned into sugar by plants")
    assert conflict(*(signature(text) for text in texts)) == "numbers or names"
    query = user_query("q", "What do plants do with light?", task_format=FREE)
    got = await vote(answers(*texts), embed=on_a_line(dict.fromkeys(texts, 0)), query=query)
    assert got.agreement == 1.0


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        ("Mozart wrote it", "Salieri wrote it", "numbers or names"),
        ("It takes 3 hours", "It takes 4 hours", "numbers or names"),
        ("It takes three hours", "It takes 2 hours", "numbers or names"),
        ("The answer is A", "The answer is B", "numbers or names"),
        ("It works", "It doesn't work", "a negation"),
        ("It is possible", "That is impossible", "a negation"),
        ("Prices rose", "Then prices fell", "opposites"),
        ("It is a mammal", "It is a reptile", "a word in the same place"),
        ("Brazil beat Chile", "Chile beat Brazil", "order"),
    ],
)
def test_what_decides_is_named(a, b, what):
    ordinary = ordinary_words([a, b, "prices"])
    one, other = signature(a, ordinary=ordinary), signature(b, ordinary=ordinary)
    assert conflict(one, other) == conflict(other, one) == what


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("It takes 3 hours", "In all it takes 180 minutes"),
        ("Paris is the capital of France", "The capital of France is Paris"),
        ("I think it was Rome", "It was Rome, I believe"),
        ("It is a dog", "A dog"),
    ],
)
def test_what_does_not_decide_is_let_pass(a, b):
    ordinary = ordinary_words([a, b])
    assert conflict(signature(a, ordinary=ordinary), signature(b, ordinary=ordinary)) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["x + 1", "1 + x", "It is so", "It is not so", "yes", "7"]), unique=True), st.randoms())
def test_groups_do_not_depend_on_the_order(texts, random):
    embed = on_a_line({"It is so": 0, "It is not so": 1, "yes": 2})
    found = []
    for order in (texts, random.sample(texts, len(texts))):
        near = similarities(embed(order)) if order else np.zeros((0, 0))
        same = same_meanings(order, near, embed=embed, threshold=0.8, ordinary=frozenset())
        found.append({frozenset(order[place] for place in places) for places in cluster(order, same, near)})
    assert found[0] == found[1]


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ConfigError, match="threshold is"):
        SemanticVote(threshold=threshold)


JOINED = {  # shares of pairs joined: alike in meaning, then not; by nearness alone, then under the veto
    ("minilm_onnx", "paraphrases", "flips"): ((0.79, 0.58), (0.71, 0.0)),
    ("minilm_onnx", "other_paraphrases", "other_flips"): ((0.94, 0.79), (0.62, 0.0)),
    ("minilm_onnx", "unseen_paraphrases", "unseen_flips"): ((0.92, 0.20), (0.75, 0.05)),
    ("wordllama", "paraphrases", "flips"): ((0.71, 0.58), (0.67, 0.0)),
    ("wordllama", "other_paraphrases", "other_flips"): ((0.62, 0.33), (0.38, 0.0)),
    ("wordllama", "unseen_paraphrases", "unseen_flips"): ((0.75, 0.05), (0.67, 0.0)),
}


@pytest.fixture(scope="module")
def embedders():
    for package in ("onnxruntime", "tokenizers", "wordllama"):
        pytest.importorskip(package)
    return {name: EMBEDDERS.create(name) for name in ("minilm_onnx", "wordllama")}


SLOW = {case for case in JOINED if case[0] == "minilm_onnx" and not case[1].startswith("unseen")}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in JOINED], ids="-".join
)
def test_real_embeddings_join_what_means_the_same_and_hardly_anything_else(embedders, case):
    """The figures that `semantics` states, measured anew; nearness alone joins most contraries with each other."""
    name, *kinds = case
    embed = embedders[name].embed
    found = []
    for kind in kinds:
        pairs = getattr(meanings, kind)()
        texts = [text for pair in pairs for text in (pair.a, pair.b)]
        near = similarities(embed(texts))
        alone = [near[2 * i, 2 * i + 1] >= DEFAULT_THRESHOLD for i in range(len(pairs))]
        joined = []
        for pair in pairs:
            own = [pair.a, pair.b]
            same = same_meanings(
                own, similarities(embed(own)), embed=embed, threshold=DEFAULT_THRESHOLD, ordinary=ordinary_words(own)
            )
            joined.append(bool(same))
        found.append((float(np.mean(alone)), float(np.mean(joined))))
    (alike_near, alike_joined), (apart_near, apart_joined) = found
    stated_near, stated_joined = JOINED[case]
    assert (alike_near, apart_near) == pytest.approx(stated_near, abs=0.03)
    assert (alike_joined, apart_joined) == pytest.approx(stated_joined, abs=0.03)


def test_the_pairs_are_many_and_none_is_in_both_sets():
    alike = {
        (p.a, p.b)
        for kind in ("paraphrases", "other_paraphrases", "unseen_paraphrases")
        for p in getattr(meanings, kind)()
    }
    apart = {(p.a, p.b) for kind in ("flips", "other_flips", "unseen_flips") for p in getattr(meanings, kind)()}
    assert len(alike) >= 70 and len(apart) >= 95
    assert not alike & apart
    assert all(a != b for a, b in alike | apart)
