"""Kept recruiters: taken back where everything they learned from is as it was, and for no other reason."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from router_service.recruit.fixed import Fixed
from router_service.recruit.kept import KeptRecruiters, Origin, pool_digest
from router_service.recruit.symbolic import Symbolic
from router_service.types import Prices
from tests.router_service.recruit.pools import SKILLS, expert, fit_data, profile, request

EXPERTS = (expert("a"), expert("b"))
DATA = fit_data(EXPERTS, {e.id: profile(e.id, {SKILLS[0]: n}) for n, e in enumerate(EXPERTS)})
ORIGIN = Origin(artefact="1f", experts=pool_digest(EXPERTS), enlist="1")


def kept(folder: Path, recruiter=None) -> KeptRecruiters:
    keeper = KeptRecruiters(folder)
    keeper.keep("symbolic", recruiter or Symbolic().fit(DATA), origin=ORIGIN)
    return keeper


def take(keeper: KeptRecruiters, recruiter=None, *, origin: Origin = ORIGIN, experts=EXPERTS) -> bool:
    return keeper.take("symbolic", recruiter or Symbolic(), origin=origin, experts=experts)


def test_what_is_kept_decides_as_it_did(tmp_path: Path) -> None:
    again = Symbolic()
    assert take(kept(tmp_path), again)
    asked = [request([SKILLS[0]], seed=n) for n in range(20)]
    assert again.recruit(asked) == Symbolic().fit(DATA).recruit(asked)
    assert sorted(path.name for path in (tmp_path / "recruiters").iterdir()) == ["symbolic.json", "symbolic.npz"]


def test_nothing_kept_is_nothing_taken_and_nothing_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not take(KeptRecruiters(tmp_path))
    assert not caplog.records


@pytest.mark.parametrize("change", [{"artefact": "2f"}, {"experts": "x"}, {"embedder": "e"}, {"enlist": "2"}])
def test_another_origin_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, str]) -> None:
    keeper = kept(tmp_path)
    with caplog.at_level(logging.INFO):
        assert not take(keeper, origin=replace(ORIGIN, **change))
    (name,) = change
    assert f"{name} was" in caplog.text and "fitted anew" in caplog.text


def test_other_options_are_not_taken_and_another_k_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = kept(tmp_path)
    assert take(keeper, Symbolic(k=1))
    with caplog.at_level(logging.INFO):
        assert not take(keeper, Symbolic(tau=0.9))
    assert "tau" in caplog.text


def test_files_of_two_fits_are_not_mixed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = kept(tmp_path)
    Symbolic(tau=0.5).fit(fit_data(EXPERTS, {"a": profile("a", {})})).save(tmp_path / "recruiters" / "symbolic.npz")
    with caplog.at_level(logging.INFO):
        assert not take(keeper)
    assert "not of the same fit" in caplog.text


@pytest.mark.parametrize("damage", ["{", "[]", '{"origin": 1}', json.dumps({"origin": {}})])
def test_a_damaged_note_is_no_reason_to_fail(tmp_path: Path, damage: str) -> None:
    keeper = kept(tmp_path)
    (tmp_path / "recruiters" / "symbolic.json").write_text(damage)
    assert not take(keeper)


def test_a_missing_file_is_no_reason_to_fail(tmp_path: Path) -> None:
    keeper = kept(tmp_path)
    (tmp_path / "recruiters" / "symbolic.npz").unlink()
    assert not take(keeper)


def test_another_recruiters_file_is_not_taken(tmp_path: Path) -> None:
    assert not take(kept(tmp_path, Fixed().fit(DATA)))


def test_the_digest_sees_what_may_be_learned_of_an_expert_and_nothing_else() -> None:
    first, second = EXPERTS
    dear = replace(first, prices=Prices(input_usd_per_mtok=9.0, output_usd_per_mtok=9.0))
    for other in ([dear, second], [second, first], [first], [replace(first, model="other"), second]):
        assert pool_digest(other) != pool_digest(EXPERTS)
    elsewhere = replace(first, is_enabled=False, backend="replay", address="http://x", options={"x": 1})
    assert pool_digest([elsewhere, second]) == pool_digest(EXPERTS)
    seeing = [replace(first, modalities=frozenset(kinds)) for kinds in (("text", "image"), ("image", "text"))]
    assert pool_digest(seeing[:1]) == pool_digest(seeing[1:]) != pool_digest(EXPERTS[:1])
