"""A question that is fitted on and judged too is found by its text, whatever its id or typography."""

from __future__ import annotations

from eval.leaks import audit_leaks, leak_remark
from router_service.types import Question


def question(name, text, options=()):
    return Question(id=name, text=text, options=options)


def audit(fitted, judged):
    return audit_leaks("d", fitted, judged, splits=("fit", "extra"), split="test")


def test_the_same_text_is_found_in_other_case_and_spacing():
    found = audit(
        [question("f2", "What is 2 + 2?"), question("f1", "what  is 2 + 2"), question("f3", "else")],
        [question("t1", "WHAT is 2 + 2 ?"), question("t2", "What is 2 - 2?")],
    )
    assert [(leak.question_id, leak.fitted_id) for leak in found.leaks] == [("t1", "f1")]
    assert "LEAK in d: 1 of 2 questions of test" in leak_remark(found)
    assert "t1 = f1" in leak_remark(found)


def test_other_options_are_said():
    found = audit(
        [question("f1", "Which?", ("a", "b")), question("f2", "Which?", ("c", "d"))],
        [question("t1", "Which?", ("D", "C")), question("t2", "Which?", ("e", "f"))],
    )
    assert [(leak.fitted_id, leak.has_same_options) for leak in found.leaks] == [("f2", True), ("f1", False)]
    assert "1 with the same options" in leak_remark(found)


def test_clean_splits_say_nothing():
    found = audit([question("f", "one")], [question("t", "two")])
    assert (found.leaks, found.n_fitted, found.n_judged, leak_remark(found)) == ((), 1, 1, None)
