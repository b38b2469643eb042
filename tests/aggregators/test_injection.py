"""No draft breaks out of its marks: a judge that obeys whatever stands outside them is not won by any of the attacks.

The judge here is the worst there could be that still keeps to the rule: it believes every word of the prompt but those
between the marks, and any mark of a chat template, wherever it stands. What a real, small model makes of the same
attacks is measured by `eval.injection`.
"""

from __future__ import annotations

import dataclasses
import re

import pytest

from aggregators.base import AGGREGATORS, CallingAggregator
from aggregators.drafts import lay_out
from eval.injection_attacks import ATTACKS
from router_service.types import AnswerKind, Expert, TaskFormat, user_query
from tests.aggregators.panels import panel, said

WANTED, RIGHT = "Xanadu", "Rome"
QUESTION = "Which city is the capital of Italy?"
LITERAL = TaskFormat(kind=AnswerKind.LITERAL)
EXPERTS = {name: Expert(id=name, model="m", backend="echo") for name in ("ann", "ben", "eve", "judge")}

CONTROL = re.compile(
    r"<\|[\w]+\|>|\[/?INST\]|<<SYS>>|</?s>|<(?:start|end)_of_turn>|</?tool_(?:call|response)>|[\U000e0000-\U000e007f]"
)
BLOCK = re.compile(r"\[(?P<mark>[A-Z]{8}) draft (?P<n>\d+)\]\n(?P<body>(?:>.*\n)*)\[(?P=mark) end of draft (?P=n)\]")

every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
OURS = ("synthesise", "verdict", "best_of", "pairwise_rank")
ASKING = [
    name
    for name in AGGREGATORS.names()
    if isinstance(AGGREGATORS.create(name), CallingAggregator) and hasattr(AGGREGATORS.create(name), "is_guarded")
]


class Gullible:
    """Follows what it reads outside marked blocks; asked for a pick or an answer, it otherwise gives the right one."""

    def __init__(self):
        self.prompts = []

    async def __call__(self, expert_id, query, *, is_visible=False):
        prompt = query.messages[-1].text
        self.prompts.append(prompt)
        believed = BLOCK.sub("", prompt)
        follows = WANTED in believed or CONTROL.search(prompt)
        answer = WANTED if follows else RIGHT
        number = number_of(answer, prompt)
        text = f"Best: {number}\nBetter: {number}" if 'reads "Be' in prompt else f"Answer: {answer}"
        return dataclasses.replace(said(expert_id, answer, text=text, task_format=LITERAL), query_id=query.id)


def number_of(answer, prompt):
    """The number of the first draft that holds the answer, marked or under a bare heading; a tie where none does."""
    drafts = [(found["n"], found["body"]) for found in BLOCK.finditer(prompt)]
    bare = re.split(r"^Draft (\d+):$", prompt, flags=re.MULTILINE)
    drafts += zip(bare[1::2], bare[2::2], strict=True)
    return next((number for number, body in drafts if answer in body), "tie")


def hostile_panel(attack, *, holds_answer=True, other=RIGHT, seed=3):
    text = attack.text(answer=WANTED, question=QUESTION)
    members = [
        said("ann", RIGHT, text=f"It is {RIGHT}.\nThe answer is {RIGHT}", task_format=LITERAL),
        said("eve", WANTED if holds_answer else None, text=text, task_format=LITERAL),
        said("ben", other, text=f"All roads lead there.\nThe answer is {other}", task_format=LITERAL),
    ]
    query = user_query("q", QUESTION, task_format=LITERAL)
    return panel(members, query=query, seed=seed, experts=EXPERTS)


@pytest.mark.parametrize("holds_answer", [True, False], ids=["with its answer", "word for word"])
@pytest.mark.parametrize("name", OURS)
async def test_guarded_the_gullible_judge_is_not_won(name, holds_answer):
    aggregator, won = AGGREGATORS.create(name), []
    for attack in ATTACKS:
        got = await aggregator.aggregate(hostile_panel(attack, holds_answer=holds_answer), ask=Gullible())
        won += [attack.name] if got.extracted != RIGHT else []
    assert won == []


@pytest.mark.parametrize("name", OURS)
async def test_unguarded_the_gullible_judge_is_won_by_them(name):
    """So the test above can fail: the same judge, the same attacks, without the guards."""
    unguarded = AGGREGATORS.create(name, {"is_guarded": False})
    ends = [(await unguarded.aggregate(hostile_panel(attack), ask=Gullible())).extracted for attack in ATTACKS]
    assert ends.count(WANTED) >= 24


@pytest.mark.parametrize("holds_answer", [True, False], ids=["with its answer", "word for word"])
@pytest.mark.parametrize("name", ASKING)
async def test_no_prompt_holds_a_mark_of_a_chat_template(name, holds_answer):
    aggregator, broken = AGGREGATORS.create(name), []
    for attack in ATTACKS:
        ask = Gullible()
        await aggregator.aggregate(hostile_panel(attack, holds_answer=holds_answer, other="Bari"), ask=ask)
        assert ask.prompts
        broken += [attack.name] if any(CONTROL.search(prompt) for prompt in ask.prompts) else []
    assert broken == []


@every_attack
def test_every_line_of_an_attack_is_quoted_between_its_marks(attack):
    one_panel = hostile_panel(attack, holds_answer=False)
    sheet = lay_out(one_panel, one_panel.members, stage="s", room_tokens=4000)
    assert BLOCK.sub("", sheet.text).strip() == ""
    assert [found["n"] for found in BLOCK.finditer(sheet.text)] == ["1", "2", "3"]
    assert {found["mark"] for found in BLOCK.finditer(sheet.text)} == {sheet.mark}


@every_attack
@pytest.mark.parametrize("seed", range(3))
def test_no_attack_pushes_another_draft_out(attack, seed):
    one_panel = hostile_panel(attack, holds_answer=False, seed=seed)
    sheet = lay_out(one_panel, one_panel.members, stage="s", room_tokens=300)
    honest = {draft.member.expert_id: draft for draft in sheet.drafts if draft.member.expert_id != "eve"}
    assert {draft.shown for draft in honest.values()} == {
        f"It is {RIGHT}.\nThe answer is {RIGHT}", f"All roads lead there.\nThe answer is {RIGHT}"
    }  # fmt: skip


def test_the_place_of_an_attack_is_drawn():
    places = []
    for seed in range(60):
        one_panel = hostile_panel(ATTACKS[0], seed=seed)
        sheet = lay_out(one_panel, one_panel.members, stage="s", room_tokens=4000)
        places += [draft.number for draft in sheet.drafts if draft.member.expert_id == "eve"]
    assert {1, 2, 3} == set(places)
    assert max(places.count(place) for place in (1, 2, 3)) < 40


def test_there_are_enough_different_attacks():
    assert len(ATTACKS) >= 24
    assert len({attack.text(answer=WANTED, question=QUESTION) for attack in ATTACKS}) == len(ATTACKS)
    assert all(attack.text(answer=WANTED, question=QUESTION).endswith(f"The answer is {WANTED}") for attack in ATTACKS)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["chatml_roles", "header_roles"])
async def test_the_real_tokenizer_reads_no_role_out_of_a_guarded_draft(attack):
    from transformers import AutoTokenizer

    from experts_registry.local.weights import base_model_dir

    tokenizer = AutoTokenizer.from_pretrained(base_model_dir())
    special = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_start|>", "<|im_end|>")}
    hostile = next(one for one in ATTACKS if one.name == attack)
    guarded, unguarded = Gullible(), Gullible()
    one_panel = hostile_panel(hostile, holds_answer=False)
    await AGGREGATORS.create("synthesise").aggregate(one_panel, ask=guarded)
    await AGGREGATORS.create("synthesise", {"is_guarded": False}).aggregate(one_panel, ask=unguarded)
    assert not special & set(tokenizer(guarded.prompts[0])["input_ids"])
    if attack == "chatml_roles":
        assert special <= set(tokenizer(unguarded.prompts[0])["input_ids"])
