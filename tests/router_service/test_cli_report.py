"""`enlist eval report`: a page from a report's file, and what is said of a file that is none."""

from __future__ import annotations

import pytest

from router_service.cli import main
from tests.eval.report.sample import report


def run(capsys, *arguments):
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_saved_report_becomes_a_page(capsys, tmp_path):
    report().save(tmp_path / "results.json")
    code, out, err = run(capsys, "eval", "report", tmp_path / "results.json", "--out", tmp_path / "page.html")
    assert (code, err) == (0, "")
    assert "page.html: open it in a browser" in out
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_is_a_clean_error(capsys, tmp_path):
    report().save(tmp_path / "results.json")
    for out, said in ((tmp_path, "it is a folder"), (tmp_path / "results.json" / "page.html", "cannot be made")):
        code, _, err = run(capsys, "eval", "report", tmp_path / "results.json", "--out", out)
        assert code == 2
        assert said in err


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no replay report at"), ("[]", "is no replay report of version 1")]
)
def test_a_file_that_is_no_report_is_a_clean_error(capsys, tmp_path, content, said):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    code, out, err = run(capsys, "eval", "report", path)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
