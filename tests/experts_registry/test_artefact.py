"""The artefact's folder: exact round trips, whole replacement, and noticing what is damaged."""

from __future__ import annotations

import json
import threading
import time

import pytest

from experts_registry.artefact import Artefact
from router_service.errors import ConfigError
from router_service.types import Outcome, Question

QUESTIONS = tuple(Question(id=f"q{i}", text=f"text {i}", skills=("s",), category="c") for i in range(3))


def outcomes(expert_id, grade):
    return tuple(
        Outcome(dataset="d", split="fit", question_id=q.id, expert_id=expert_id, correct=grade) for q in QUESTIONS
    )


def artefact(expert_id="a", grade=1.0):
    return Artefact.fit(outcomes(expert_id, grade), QUESTIONS, pool_name="p")


def test_it_comes_back_as_it_was(tmp_path):
    saved = artefact()
    saved.save(tmp_path / "deep" / "artefact")
    loaded = Artefact.load(tmp_path / "deep" / "artefact")
    assert loaded == saved and loaded.version == saved.version and loaded.created_at
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["artefact"]


def test_the_version_is_the_contents():
    assert artefact().version == artefact().version != artefact(grade=0.0).version


def test_saving_again_keeps_other_files_and_leaves_no_litter(tmp_path):
    folder = tmp_path / "artefact"
    artefact().save(folder)
    (folder / "aggregator.json").write_text("{}")
    artefact("b").save(folder)
    assert set(Artefact.load(folder).profiles) == {"b"}
    assert (folder / "aggregator.json").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_merging_adds_an_expert_and_changes_no_other():
    first = artefact("a")
    both = first.merged(artefact("b", 0.0))
    assert both.profiles["a"] == first.profiles["a"] and both.profiles["b"].overall.wins == 0
    assert both.questions == QUESTIONS and len(both.outcomes) == 6
    assert both == Artefact.fit(both.outcomes, QUESTIONS, pool_name="p")
    again = both.merged(artefact("b", 1.0))
    assert again.profiles["b"].overall.wins == 3 and len(again.outcomes) == 6


def test_merging_other_questions_under_the_same_ids_is_refused():
    other = Artefact.fit((), (Question(id="q0", text="another"),), pool_name="p")
    with pytest.raises(ConfigError, match="'q0'"):
        artefact().merged(other)


def test_a_missing_damaged_or_foreign_folder_is_refused(tmp_path):
    folder = tmp_path / "artefact"
    with pytest.raises(ConfigError, match=r"meta\.json is missing.*enlist profile"):
        Artefact.load(folder)
    artefact().save(folder)
    (folder / "outcomes.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"outcomes\.jsonl changed"):
        Artefact.load(folder)
    artefact().save(folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format_version": 2}))
    with pytest.raises(ConfigError, match=r"format 2.*reads 1"):
        Artefact.load(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        Artefact.load(folder)


def test_a_reader_never_sees_half_of_one(tmp_path):
    folder = tmp_path / "artefact"
    versions = [artefact("a"), artefact("b", 0.0)]
    versions[0].save(folder)
    stop = threading.Event()
    broken: list[str] = []
    seen: set[str] = set()

    def read():
        while not stop.is_set():
            try:
                seen.add(Artefact.load(folder).version)
            except ConfigError as problem:
                broken.append(problem.message)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(20):
        versions[turn % 2].save(folder)
        time.sleep(0.01)
    stop.set()
    reader.join()
    assert not broken
    assert seen <= {version.version for version in versions} and seen
