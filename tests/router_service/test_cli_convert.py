"""`enlist eval convert`: what it prints, what it warns of, and that its dataset is one for `eval replay`."""

from __future__ import annotations

import pytest

from tests.eval.convert import published
from tests.router_service.commands import run_command


@pytest.fixture
def enlist(capsys, monkeypatch):
    """Runs a command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    return lambda *arguments: run_command(capsys, *arguments)


def test_a_converted_recording_is_listed_and_replayed(enlist, tmp_path):
    source = published.write_routerbench(tmp_path / "source")
    code, out, err = enlist("eval", "convert", "routerbench", source, tmp_path / "rb", "--fit-share", "0.4")
    assert (code, err) == (0, "")
    assert "12 questions" in out
    assert "claude-v1" in out
    replayed = ("--data", tmp_path / "rb", "--pool", "all2", "--recruiter", "best_single", "--k", 1)
    code, out, _ = enlist("eval", "replay", *replayed)
    assert code == 0
    assert "best_single" in out


def test_missing_answers_and_skipped_records_are_told(enlist, tmp_path):
    folder = published.write_mmlu_pro(tmp_path / "source")
    late = [published.mmlu_pro_record(n, "B" if n else "maybe") for n in range(published.N)]
    published.write_json(folder / "late" / "all_result.json", late)
    refused, out, err = enlist("eval", "convert", "mmlu_pro", folder, tmp_path / "out")
    assert (refused, out) == (2, "")
    assert "late/all_result.json, row 1: pred is 'maybe'" in err
    code, out, err = enlist("eval", "convert", "mmlu_pro", folder, tmp_path / "out", "--skip-bad")
    assert code == 0
    assert "a missing answer counts as wrong" in err
    assert "left out: late/all_result.json, row 1" in err


def test_an_unknown_layout_is_a_clean_error(enlist, tmp_path):
    code, out, err = enlist("eval", "convert", "mmlu", tmp_path, tmp_path / "out")
    assert (code, out) == (2, "")
    assert "Did you mean 'mmlu_pro'" in err
    assert "Traceback" not in err
