"""What a batch file may hold, and what is said of a line that it may not."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service._batch_lines import fingerprint_file, read_lines
from router_service.errors import ConfigError, UnknownNameError
from router_service.types import AnswerKind, TaskFormat, user_query


def as_query(question):
    task_format = TaskFormat(kind=question.answer_kind, options=question.options)
    query = user_query(question.id, question.text, task_format=task_format)
    return replace(query, metadata={"skills": ",".join(question.skills)})


def as_chat(query_id, body):
    if body["model"] != "auto":
        raise UnknownNameError("model", body["model"], ["auto"])
    return user_query(query_id, body["messages"][-1]["content"])


def read(tmp_path, *lines):
    path = tmp_path / "in.jsonl"
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw))
    return list(read_lines(path, as_query=as_query, as_chat=as_chat))


def chat(custom_id="a", **changes):
    body = {"model": "auto", "messages": [{"role": "user", "content": "2+2?"}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **changes}


def test_plain_lines_become_queries_of_their_kind(tmp_path):
    plain, choice, number = read(
        tmp_path,
        {"id": "a", "question": "Why?"},
        {"id": 7, "question": "Which?", "options": ["x", "y"], "skills": ["s"], "answer": "B"},
        {"id": "c", "question": "2+2?", "answer_kind": "number", "my_own_key": 1, "position": 3},
    )
    assert plain.query.text == "Why?"
    assert (choice.id, choice.query.id) == (7, "7")
    assert choice.query.task_format == TaskFormat(kind=AnswerKind.CHOICE, options=("x", "y"))
    assert "B" not in choice.query.text
    assert (plain.query.metadata, choice.query.metadata) == ({"skills": ""}, {"skills": "s"})
    assert number.query.task_format.kind is AnswerKind.NUMBER


def test_openai_lines_keep_their_model(tmp_path):
    [line] = read(tmp_path, chat("req-1"))
    assert (line.form, line.id, line.model, line.query.text) == ("openai", "req-1", "auto", "2+2?")


def test_blank_lines_are_skipped_but_counted_and_a_byte_order_mark_is_no_harm(tmp_path):
    first = b"\xef\xbb\xbf" + json.dumps({"id": 1, "question": "a"}).encode()
    lines = read(tmp_path, first, b"", b"  ", {"id": 2, "question": "b"})
    assert [(line.number, line.problem) for line in lines] == [(1, None), (4, None)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{oops", r"not valid JSON.*'\{oops'.*one JSON object per line"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'["a"]', r"got list \['a'\]"),
        ({"question": "a"}, "id is missing"),
        ({"idd": 3, "question": "a"}, "did you mean 'idd' to be 'id'"),
        ({"id": True, "question": "a"}, "id is True"),
        ({"id": "", "question": "a"}, "id is ''"),
        ({"id": 1, "question": "  "}, "question is '  '"),
        ({"id": 1, "qestion": "a"}, "did you mean 'qestion' to be 'question'"),
        ({"id": 1, "question": "a", "option": ["x"]}, "unknown key 'option'; did you mean 'options'"),
        ({"id": 1, "question": "a", "options": "xy"}, "options is 'xy'; it must be a list of texts"),
        ({"id": 1, "question": "a", "answer_kind": "roman"}, "answer_kind is 'roman'; allowed: free, choice"),
        ({"id": 1, "question": "a", "answer_kind": ["x"]}, "answer_kind is"),
        (
            {"id": 1, "question": "a", "answer_kind": "number", "options": ["x"]},
            "options belong to answer_kind 'choice'",
        ),
        (chat(method="GET"), "method is 'GET'; only 'POST'"),
        ({"id": 1, "question": "a", "skills": "algebra"}, "skills is 'algebra'; it must be a list of texts"),
        ({"id": 1, "question": "a", "optoins": [], "skils": []}, "'optoins'; did you mean 'options'"),
        ({"id": 1, "question": "a", "skils": [], "optoins": []}, "'skils'; did you mean 'skills'"),
        (chat(url="/v1/embeddings"), "url is '/v1/embeddings'; only '/v1/chat/completions'"),
        (chat(body="x"), "body is 'x'"),
        (chat(body={"stream": True}), "leave stream out"),
        (chat(body={"model": "autoo"}), "unknown model 'autoo'. Did you mean 'auto'"),
        (chat(custom_id=None), "custom_id is missing"),
    ],
)
def test_a_malformed_line_is_named_and_the_next_is_read(tmp_path, line, said):
    bad, good = read(tmp_path, line, {"id": "next", "question": "fine"})
    assert bad.query is None
    assert bad.problem.startswith("line 1: ")
    assert re.search(said, bad.problem)
    assert good.query is not None


def test_an_id_is_given_once_whatever_its_type(tmp_path):
    first, second = read(tmp_path, {"id": 1, "question": "a"}, {"id": "1", "question": "b"})
    assert first.query is not None
    assert second.problem == "line 2: id '1' is already that of line 1; give each line an id of its own"


@given(raw=st.binary(max_size=200))
def test_no_content_stops_the_reader(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("lines") / "in.jsonl"
    path.write_bytes(raw + b'\n{"id": "last", "question": "fine"}')
    lines = list(read_lines(path, as_query=as_query, as_chat=as_chat))
    assert lines[-1].id == "last"
    assert all((line.query is None) != (line.problem is None) for line in lines)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.jsonl"):
        fingerprint_file(tmp_path / "gone.jsonl")
