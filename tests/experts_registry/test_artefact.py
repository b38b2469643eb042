"""The artefact's folder: exact round trips, whole replacement, and noticing what is damaged."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace

import pytest

from experts_registry.artefact import Artefact
from router_service.errors import ConfigError
from router_service.types import Outcome, Question

QUESTIONS = tuple(Question(id=f"q{i}", text=f"text {i}", skills=("s",), category="c") for i in range(3))


FILES = ("meta.json", "outcomes.jsonl", "profiles.json", "questions.jsonl")


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
    for damage in (b"{", b"\xff\xfe"):
        (folder / "meta.json").write_bytes(damage)
        with pytest.raises(ConfigError, match="damaged"):
            Artefact.load(folder)


def test_a_wrong_path_says_what_it_is(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"artefact in .*file: cannot read .*enlist profile"):
        Artefact.load(tmp_path / "file")
    (tmp_path / "folder" / "meta.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"artefact in .*folder: cannot read"):
        Artefact.load(tmp_path / "folder")


def test_a_skill_with_half_a_surrogate_pair_can_be_saved(tmp_path):
    odd = tuple(replace(question, skills=("half \ud800",)) for question in QUESTIONS)
    saved = Artefact.fit(outcomes("a", 1.0), odd, pool_name="p")
    saved.save(tmp_path / "artefact")
    assert Artefact.load(tmp_path / "artefact") == saved


def save_and_die(new, folder, renames):
    """Save in a process of its own that is killed at the rename after so many; returns whether it came that far."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = iter(range(renames))
    real = os.replace, os.rename

    def counted(call):
        return lambda *paths: call(*paths) if next(left, None) is not None else os._exit(9)

    os.replace, os.rename = (counted(call) for call in real)
    try:
        new.save(folder)
    finally:
        os._exit(0)


def test_a_kill_at_any_rename_leaves_the_old_one_or_the_new_one(tmp_path):
    old, new = artefact("a"), artefact("b", 0.0)
    fates = []
    for renames in range(20):
        folder = tmp_path / str(renames) / "artefact"
        old.save(folder)
        (folder / "profiling.jsonl").write_text("what was asked since")
        if not save_and_die(new, folder, renames):
            break
        left = Artefact.load(folder)
        fates.append(left == new)
        assert left in (old, new)
        assert (folder / "profiling.jsonl").read_text() == "what was asked since"
        new.save(folder)
        assert Artefact.load(folder) == new
        assert {path.name for path in folder.iterdir()} == {*FILES, "profiling.jsonl"}
        assert [path.name for path in folder.parent.iterdir()] == ["artefact"]
    assert fates == sorted(fates) and set(fates) == {False, True}


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
