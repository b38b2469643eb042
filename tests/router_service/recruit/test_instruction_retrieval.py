"""Glider's global router: what an expert's text says, that it is embedded once, and that names do not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router_service.errors import ConfigError
from router_service.recruit.base import FitData
from router_service.recruit.instruction_retrieval import NO_TEXT, InstructionRetrieval, instruction_text
from router_service.recruit.scoring import NO_EMBEDDING
from router_service.types import Profile, Tally
from tests.router_service.recruit.pools import expert, profile, request, vector


class Embedder:
    """Embeds by `vector`, turned by `turn` places, and remembers what it was asked."""

    def __init__(self, turn=0):
        self.turn = turn
        self.seen = []

    def __call__(self, texts):
        self.seen += texts
        return np.roll(np.array([vector(text) for text in texts], dtype=np.float32), self.turn, axis=1)


def pool(embed, *texts, **fields):
    experts = tuple(expert(f"e{i}", description=text) for i, text in enumerate(texts))
    return FitData(experts=experts, embed=embed, **fields)


def decide(fitted, embedding, **controls):
    (decision,) = fitted.recruit([request(embedding=embedding, **controls)])
    return decision


def test_the_score_is_the_cosine():
    fitted = InstructionRetrieval(k=3).fit(pool(Embedder(), "algebra", "biology", "chess"))
    decision = decide(fitted, vector("biology"))
    expected = {f"e{i}": np.dot(vector(t), vector("biology")) for i, t in enumerate(("algebra", "biology", "chess"))}
    assert decision.scores == pytest.approx(expected, abs=1e-6)
    assert decision.recruits[0].expert_id == "e1" and decision.recruits[0].score == pytest.approx(1, abs=1e-6)


def test_a_text_is_made_of_what_the_profile_is_best_at():
    known = Profile(
        expert_id="a",
        overall=Tally(wins=50, trials=100),
        categories={"maths": Tally(wins=40, trials=50), "law": Tally(wins=10, trials=50)},
        skills={"algebra": Tally(wins=9, trials=9), "proofs": Tally(wins=30, trials=40), "torts": Tally(trials=9)},
    )
    assert instruction_text(expert("a"), known) == "Questions of maths. Skills: proofs, algebra."
    assert instruction_text(expert("a", description=" Good at chess. "), known) == "Good at chess."
    assert instruction_text(expert("a", description=" "), replace(known, categories={})) == "Skills: proofs, algebra."
    assert instruction_text(expert("a"), None) is None
    assert instruction_text(expert("a"), Profile(expert_id="a")) is None
    flat = Profile(expert_id="a", overall=Tally(wins=1, trials=2), categories={"maths": Tally(wins=1, trials=2)})
    assert instruction_text(expert("a"), flat) == "Questions of maths."


def test_names_are_not_in_the_text():
    known = profile("secret-name", {"algebra": 3})
    text = instruction_text(expert("secret-name"), known)
    assert text == instruction_text(expert("other-name"), replace(known, expert_id="other-name"))
    assert "name" not in text


def test_equal_texts_are_embedded_once():
    embed = Embedder()
    InstructionRetrieval().fit(pool(embed, "algebra", "biology", "algebra"))
    assert sorted(embed.seen) == ["algebra", "biology"]


def test_a_refit_embeds_only_what_is_new(tmp_path):
    first = InstructionRetrieval().fit(pool(Embedder(), "algebra", "biology", "chess"))
    first.save(tmp_path / "kept.npz")
    again = InstructionRetrieval().load(tmp_path / "kept.npz", experts=first.roster_.experts)
    for fitted in (first, again):
        embed = Embedder()
        fitted.fit(pool(embed, "chess", "drama", "biology", "algebra"))
        assert sorted(embed.seen) == ["algebra", "drama"]  # one is embedded to see that the embedder is the same
        fresh = InstructionRetrieval().fit(pool(Embedder(), "chess", "drama", "biology", "algebra"))
        assert decide(fitted, vector("chess")) == decide(fresh, vector("chess"))


def test_another_embedder_has_nothing_kept_for_it():
    fitted = InstructionRetrieval().fit(pool(Embedder(), "algebra", "biology"))
    turned = Embedder(turn=1)
    fitted.fit(pool(turned, "algebra", "biology"))
    assert sorted(set(turned.seen)) == ["algebra", "biology"]
    assert decide(fitted, np.roll(vector("biology"), 1)).scores["e1"] == pytest.approx(1, abs=1e-6)


def test_experts_without_a_text_come_last():
    profiles = {f"e{i}": Profile(expert_id=f"e{i}", overall=Tally(wins=i, trials=9)) for i in range(3)}
    fitted = InstructionRetrieval(k=3).fit(pool(Embedder(), "algebra", None, None, profiles=profiles))
    decision = decide(fitted, tuple(-value for value in vector("algebra")), k=2)
    assert {recruit.expert_id for recruit in decision.recruits} == {"e0", "e2"} and not decision.is_fallback
    assert decide(fitted, vector("algebra"), experts_denied=("e0",)).fallback_reason == NO_TEXT
    assert decide(fitted, None).fallback_reason == NO_EMBEDDING


def test_where_no_expert_has_a_text_the_best_are_asked():
    profiles = {f"e{i}": Profile(expert_id=f"e{i}", overall=Tally(wins=i, trials=9)) for i in range(3)}
    decision = decide(InstructionRetrieval().fit(pool(Embedder(), None, None, None, profiles=profiles)), vector("x"))
    assert (decision.fallback_reason, decision.recruits[0].expert_id) == (NO_TEXT, "e2")


def test_it_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"no embedder is at hand; use an annotator that embeds"):
        InstructionRetrieval().fit(pool(None, "algebra"))
    with pytest.raises(ConfigError, match=r"`description` in the pool file, or make profiles with `enlist profile`"):
        InstructionRetrieval().fit(pool(Embedder(), None, None))
