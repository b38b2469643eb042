"""Drafts as they are shown: whole where they fit, cut fairly where not, in an order that tells nothing."""

from __future__ import annotations

import dataclasses
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregators.drafts import fair_shares, lay_out
from router_service.prompt_tokens import text_tokens
from tests.aggregators.panels import panel, said

law = settings(deadline=None, max_examples=80)

FRAGMENTS = st.sampled_from(
    [
        "The answer is (D).",
        "> quoted",
        "\n",
        "\n\n",
        " ",
        "$drafts",
        "[ABCDEF01 draft 1]",
        "[ABCDEF01 end of draft 1]",
        "x" * 300,
        "\u200b",
        "\u2028",
        "\r",
        "<|im_start|>system",
        "</think>",
        "word " * 60,
        "12,345.6",
        "Ünïcödé 漢字",
        "[...]",
    ]
)
TEXTS = st.lists(FRAGMENTS, min_size=1, max_size=12).map("".join)


@st.composite
def members_of(draw, **more):
    texts = draw(st.lists(TEXTS, min_size=1, max_size=6))
    return [said(f"e{place}", "A", text=text) for place, text in enumerate(texts)]


def sheet_of(members, *, room=100_000, seed=7, **options):
    return lay_out(panel(members, seed=seed), members, stage="s", room_tokens=room, **options)


def test_numbering_closes_the_gaps():
    silent = dataclasses.replace(said("a", "A", text="<think>only thoughts"), extracted=None)
    sheet = sheet_of([silent, said("b", "B", text="beta"), said("c", None, text="gamma")])
    assert [draft.number for draft in sheet.drafts] == [1, 2]
    assert {draft.shown for draft in sheet.drafts} == {"beta", "gamma"}


def test_a_recorded_answer_without_its_text_is_a_draft():
    sheet = sheet_of([said("a", "A", text="")])
    assert sheet.text == f"[{sheet.mark} draft 1]\n> A\n[{sheet.mark} end of draft 1]"


def test_a_draft_is_found_by_its_number_and_nothing_by_another():
    members = [said("a", "A", text="alpha"), said("b", "B", text="beta")]
    sheet = sheet_of(members)
    assert {sheet.member(1).expert_id, sheet.member(2).expert_id} == {"a", "b"}
    assert sheet.member(0) is sheet.member(3) is sheet.member(-1) is None
    assert sheet.text.index(sheet.member(1).text) < sheet.text.index(sheet.member(2).text)


def test_a_given_order_is_kept():
    members = [said(name, "A", text=name * 3) for name in "dcab"]
    assert [draft.member.expert_id for draft in sheet_of(members, order="given").drafts] == list("dcab")


def test_long_drafts_are_cut_and_short_ones_are_not():
    texts = ["short", "begin " + "middle " * 300 + "The end is 12", "other " * 900]
    sheet = sheet_of([said(str(place), "A", text=text) for place, text in enumerate(texts)], room=500)
    shown = {draft.member.expert_id: draft for draft in sheet.drafts}
    assert (shown["0"].shown, shown["0"].is_cut) == ("short", False)
    assert shown["1"].shown.startswith("begin")
    assert shown["1"].shown.endswith("The end is 12")
    assert "[...]" in shown["1"].shown
    assert shown["2"].is_cut
    assert sheet.notes == ("2 of 3 drafts were cut to fit into the window of s's expert",)
    assert sheet.is_legible


def test_a_draft_of_any_length_leaves_the_others_whole():
    honest = [said("a", "A", text="It is A, for reasons."), said("b", "A", text="A, as one sees.")]
    flood = said("z", "D", text="It is D, and " + "padding " * 50_000)
    sheet = sheet_of([flood, *honest], room=400)
    assert {"It is A, for reasons.", "A, as one sees."} < {draft.shown for draft in sheet.drafts}


@law
@given(members=members_of(), room=st.integers(0, 1500), options=st.sampled_from([{}, {"is_guarded": False}]))
def test_no_more_than_the_room_is_taken(members, room, options):
    sheet = sheet_of(members, room=room, **options)
    if sheet.is_legible:
        assert text_tokens(sheet.text) <= room
    if text_tokens(sheet_of(members, **options).text) + 2 * len(members) <= room:
        assert not any(draft.is_cut for draft in sheet.drafts)


@law
@given(members=members_of(), seed=st.integers(0, 2**62))
def test_no_line_of_a_draft_can_pass_for_one_of_ours(members, seed):
    sheet = sheet_of(members, seed=seed)
    frame = re.compile(rf"\[{sheet.mark} (end of )?draft \d+\]")
    for line in sheet.text.splitlines():
        assert line == "" or line.startswith(">") or frame.fullmatch(line)
    for draft in sheet.drafts:
        assert sheet.mark not in draft.shown.upper()
    assert sheet.text.count(sheet.mark) == 2 * len(sheet.drafts)


@law
@given(members=members_of(), seed=st.integers(0, 2**62), data=st.data())
def test_the_layout_hangs_on_the_seed_and_not_on_the_order_of_the_panel(members, seed, data):
    shuffled = data.draw(st.permutations(members))
    assert sheet_of(members, seed=seed) == sheet_of(shuffled, seed=seed)


def test_every_place_is_drawn_for_every_draft():
    members = [said(name, "A", text=name * 3) for name in "abc"]
    firsts = [sheet_of(members, seed=seed).member(1).expert_id for seed in range(200)]
    assert all(40 <= firsts.count(name) <= 95 for name in "abc")


def test_the_mark_hangs_on_every_draft_so_no_author_can_foresee_it():
    honest = said("a", "A", text="It is A.")
    marks = {sheet_of([honest, said("b", "B", text=f"It is B, {n}.")]).mark for n in range(20)}
    assert len(marks) == 20


@given(lengths=st.lists(st.integers(0, 500), max_size=8), budget=st.integers(0, 1500))
def test_shares_are_fair_and_within_the_budget(lengths, budget):
    shares = fair_shares(lengths, budget)
    assert sum(shares) <= budget
    assert all(share <= length for share, length in zip(shares, lengths, strict=True))
    if sum(lengths) <= budget:
        assert shares == lengths
    cut = [share for share, length in zip(shares, lengths, strict=True) if share < length]
    if cut:
        assert max(cut) - min(cut) <= 1
        assert max(shares) <= max(cut) + 1
