"""What was kept is found again under its own key, whole, and a line cut off by a kill costs that line alone."""

from __future__ import annotations

import shutil

from eval.datasets import load_dataset
from eval.replay_journal import ReplayJournal, code_fingerprint, dataset_fingerprint
from tests.eval.recorded_dataset import write_dataset


def test_a_value_is_found_under_its_key_alone(tmp_path):
    ReplayJournal(tmp_path).put({"k": 3, "pool": "trio"}, {"accuracy": 0.1})
    journal = ReplayJournal(tmp_path)
    assert journal.get({"pool": "trio", "k": 3}) == {"accuracy": 0.1}
    assert journal.get({"pool": "trio", "k": 4}) is None


def test_a_line_cut_off_is_passed_over_and_the_next_one_stands_by_itself(tmp_path):
    journal = ReplayJournal(tmp_path)
    journal.put({"n": 1}, "one")
    journal.put({"n": 2}, "two")
    file = tmp_path / "strategies.jsonl"
    file.write_text(file.read_text()[:-9])
    journal = ReplayJournal(tmp_path)
    assert (journal.get({"n": 1}), journal.get({"n": 2})) == ("one", None)
    journal.put({"n": 3}, "three")
    assert [ReplayJournal(tmp_path).get({"n": n}) for n in (1, 2, 3)] == ["one", None, "three"]


def test_without_a_folder_nothing_is_kept(tmp_path):
    journal = ReplayJournal(None)
    journal.put({"n": 1}, "one")
    assert not journal.is_kept
    assert journal.get({"n": 1}) is None


def test_a_dataset_is_known_by_what_it_holds(tmp_path):
    folder = write_dataset(tmp_path / "tiny")
    first = dataset_fingerprint(load_dataset(folder))
    shutil.copytree(folder, tmp_path / "copy")
    assert dataset_fingerprint(load_dataset(tmp_path / "copy")) == first
    other = write_dataset(tmp_path / "other", has_skills=False)
    assert dataset_fingerprint(load_dataset(other)) != first


def test_the_code_has_one_fingerprint():
    assert code_fingerprint() == code_fingerprint()
    assert len(code_fingerprint()) == 24
