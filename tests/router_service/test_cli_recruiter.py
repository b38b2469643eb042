"""The command `recruiter fit`: what it keeps is found by the next engine; what it cannot keep it says."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from router_service.assembly import build_engine
from router_service.cli import main
from router_service.config import load_config
from tests.router_service.test_assembly import ECHO, artefact

CONFIG = """
pool: pool.yaml
artefact: artefact
annotator: {name: embedding, options: {embedder: hashing}}
recruiter: symbolic
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [f"  - {{id: {e.id}, model: echo, backend: echo}}" for e in ECHO.experts]
    (tmp_path / "pool.yaml").write_text("experts:\n" + "\n".join(lines) + "\n")
    (tmp_path / "enlist.yaml").write_text(CONFIG)
    artefact(ECHO).save(tmp_path / "artefact")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0


def test_the_next_engine_finds_what_was_fitted(
    work: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run("recruiter", "fit", "--config", "enlist.yaml", "--json")
    kept = json.loads(capsys.readouterr().out)
    assert kept["recruiter"] == "symbolic" and kept["fit_s"] < 10 and len(kept["artefact"]) == 16
    assert (work / "artefact" / "recruiters" / "symbolic.npz").is_file()
    with caplog.at_level(logging.INFO):
        build_engine(load_config(work / "enlist.yaml"))
    assert not caplog.records
    note = work / "artefact" / "recruiters" / "symbolic.json"
    note.write_text(note.read_text().replace(kept["artefact"], "0" * 16))
    with caplog.at_level(logging.INFO):
        build_engine(load_config(work / "enlist.yaml"))
    assert "fitted anew" in caplog.text


def test_another_recruiter_than_the_configured_one(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("recruiter", "fit", "--config", "enlist.yaml", "--recruiter", "best_single")
    assert "recruiter best_single, fitted in" in capsys.readouterr().out
    assert [path.name for path in sorted((work / "artefact" / "recruiters").iterdir())] == [
        "best_single.json",
        "best_single.npz",
    ]


def test_without_an_artefact_there_is_nothing_to_keep_it_beside(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["recruiter", "fit", "--pool", "pool.yaml"])
    assert end.value.code == 2
    assert "name one made by `enlist profile`" in capsys.readouterr().err
