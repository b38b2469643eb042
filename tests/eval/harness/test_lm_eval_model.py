"""The harness's requests as chats: generation, multiple choice by letters, and the tasks that cannot be asked so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.harness.choices import CHOSEN, NOT_CHOSEN, ChoiceQuestion, choice_chat, likelihoods, messages_of
from eval.harness.endpoint import Endpoint, Reply
from eval.harness.lm_eval_model import Examinee
from router_service.errors import ConfigError


@dataclass
class Instance:
    """A request as the harness makes it, as far as it is looked at."""

    args: tuple[Any, ...]
    task_name: str | None = "task"
    doc_id: int | None = 0


class Exam:
    """A service that answers by the last message and keeps every body."""

    def __init__(self, answers: dict[str, str | None]) -> None:
        self.answers = answers
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        asked = body["messages"][-1]["content"].split("\n")[0]
        said = self.answers[asked]
        if said is None:
            return httpx.Response(502, json={"error": {"code": "aggregation_error", "message": "nobody"}})
        return httpx.Response(200, json={"choices": [{"message": {"content": said}}], "enlist": {"extracted": said}})

    def examinee(self, **enlist: object) -> Examinee:
        return Examinee(Endpoint("http://s", concurrency=2, transport=httpx.MockTransport(self)), enlist)


def test_generation_sends_what_a_chat_has_a_word_for():
    exam = Exam({"2 + 2?": "4"})
    arguments = {"until": ["Q:", "\n\n", "a", "b", "c"], "max_gen_toks": 64, "do_sample": False, "temperature": 0.0}
    assert exam.examinee(answer_kind="number", k=3).generate([Instance(("2 + 2?", arguments))]) == ["4"]
    assert exam.bodies == [
        {
            "model": "auto",
            "messages": [{"role": "user", "content": "2 + 2?"}],
            "stop": ["Q:", "\n\n", "a", "b"],
            "max_tokens": 64,
            "temperature": 0.0,
            "enlist": {"answer_kind": "number", "k": 3},
        }
    ]


def test_a_conversation_arrives_as_one():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    exam = Exam({"2 + 2?": "4"})
    exam.examinee().generate([Instance((json.dumps(chat), {}))])
    assert exam.bodies[0]["messages"] == chat


def test_a_query_without_an_answer_is_an_empty_text():
    exam = Exam({"a?": None, "b?": "4"})
    assert exam.examinee().generate([Instance(("a?", {})), Instance(("b?", {}), doc_id=1)]) == ["", "4"]


def choices(context: str, options: list[str], doc_id: int = 0) -> list[Instance]:
    return [Instance((context, f" {option}"), doc_id=doc_id) for option in options]


def test_the_options_of_a_question_are_asked_as_one_choice():
    exam = Exam({"Which metal?": "B", "Which gas?": "A"})
    requests = [*choices("Which metal?", ["tin", "lead", "zinc"]), *choices("Which gas?", ["neon", "argon"], doc_id=1)]
    found = exam.examinee(k=5).choose(requests)
    assert found == [NOT_CHOSEN, CHOSEN, NOT_CHOSEN, CHOSEN, NOT_CHOSEN]
    first = next(body for body in exam.bodies if "metal" in body["messages"][0]["content"])
    assert first["messages"][0]["content"] == (
        "Which metal?\n\nA) tin\nB) lead\nC) zinc\n\nAnswer with the letter of the right option."
    )
    assert first["enlist"] == {"k": 5, "answer_kind": "choice", "options": ["tin", "lead", "zinc"]}


def test_options_that_are_letters_are_not_listed_again():
    question = ChoiceQuestion(name="q", context="Which?\nA. tin\nB. lead\nAnswer:", options=(" A", " B"))
    content = choice_chat(question, {}).messages[-1]["content"]
    assert content == "Which?\nA. tin\nB. lead\nAnswer:\n\nAnswer with the letter of the right option."


def test_the_order_of_the_requests_does_not_matter():
    exam = Exam({"Which metal?": "B", "Which gas?": "A"})
    metal, gas = choices("Which metal?", ["tin", "lead"]), choices("Which gas?", ["neon", "argon"], doc_id=1)
    mixed = [metal[0], gas[0], metal[1], gas[1]]
    assert exam.examinee().choose(mixed) == [NOT_CHOSEN, CHOSEN, CHOSEN, NOT_CHOSEN]


@pytest.mark.parametrize(
    "requests", [choices("Which?", ["alone"]), choices("", ["a", "b"]), choices("Which?", [str(n) for n in range(27)])]
)
def test_what_is_no_multiple_choice_is_refused(requests):
    with pytest.raises(ConfigError, match="task 0 cannot be asked as a multiple choice"):
        Exam({}).examinee().choose(requests)


@given(st.integers(2, 26), st.text(), st.none() | st.text(max_size=2))
def test_exactly_one_option_is_chosen_always_the_same(count, name, extracted):
    question = ChoiceQuestion(name=name, context="?", options=tuple(map(str, range(count))))
    found = likelihoods(question, Reply(extracted=extracted))
    assert found.count(CHOSEN) == 1
    assert found == likelihoods(question, Reply(extracted=extracted))


def test_without_an_answer_no_option_is_favoured():
    drawn = [
        likelihoods(ChoiceQuestion(name=f"q{number}", context="?", options=("a", "b", "c", "d")), Reply())
        for number in range(400)
    ]
    assert all(60 < sum(found[position] == CHOSEN for found in drawn) < 140 for position in range(4))


def test_a_misspelt_model_argument_is_refused():
    with pytest.raises(ConfigError, match="no model argument 'anser_kind'; allowed: recruiter"):
        Exam({}).examinee(anser_kind="number")


def test_a_text_that_only_looks_like_a_chat_is_a_text():
    assert messages_of("[1, 2]") == ({"role": "user", "content": "[1, 2]"},)
