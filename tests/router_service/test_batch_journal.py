"""The journal keeps every line that was finished, drops what was torn, and refuses what is not its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service._batch_journal import Journal, write_in_pieces
from router_service.errors import ConfigError

HEADER = {"input": "abc", "config.k": "3"}


def fill(path, numbers):
    with Journal(path, HEADER) as journal:
        for number in numbers:
            journal.append(number, {"output": {"id": number, "answer": "é" * number}})


def test_finished_lines_survive_and_come_back_in_input_order(tmp_path):
    path = tmp_path / "out.journal"
    fill(path, [3, 1, 2])
    with Journal(path, HEADER) as journal:
        assert len(journal) == 3
        assert journal.has(3)
        assert not journal.has(4)
        assert [entry["output"]["id"] for entry in journal.entries()] == [1, 2, 3]


@given(cut=st.integers(min_value=0))
def test_a_file_cut_anywhere_loses_only_its_torn_end(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "out.journal"
    fill(path, range(1, 6))
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    with Journal(path, HEADER) as journal:
        assert len(journal) == max(0, kept.count(b"\n") - 1)
        journal.append(9, {"output": {"id": 9}})
        entries = list(journal.entries())
    assert [entry["line"] for entry in entries] == [*range(1, len(entries)), 9]
    with Journal(path, HEADER) as journal:
        assert list(journal.entries()) == entries


def test_garbage_at_the_end_is_a_torn_write(tmp_path):
    path = tmp_path / "out.journal"
    fill(path, [1, 2])
    path.write_bytes(path.read_bytes() + b"\x00\x00\x00\n\x00")
    with Journal(path, HEADER) as journal:
        assert len(journal) == 2


def test_a_line_appended_again_counts_as_it_was_said_last(tmp_path):
    path = tmp_path / "out.journal"
    fill(path, [1, 2])
    with Journal(path, HEADER) as journal:
        journal.forget(1)
        assert not journal.has(1)
    with Journal(path, HEADER) as journal:
        assert journal.has(1)
        journal.forget(1)
        journal.extend([(1, {"output": "again"}), (3, {"output": "new"})])
    with Journal(path, HEADER) as journal:
        assert [entry["output"] for entry in journal.entries()] == ["again", {"id": 2, "answer": "éé"}, "new"]


def test_damage_before_whole_lines_is_an_error(tmp_path):
    path = tmp_path / "out.journal"
    fill(path, [1, 2, 3])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"{broken\n", lines[3]]))
    with pytest.raises(ConfigError, match=r"damaged at line 3.*--restart"):
        Journal(path, HEADER)


def test_another_batch_is_refused_by_what_differs(tmp_path):
    path = tmp_path / "out.journal"
    fill(path, [1])
    with pytest.raises(ConfigError, match=r"differs in: config\.k.*--restart.*another output"):
        Journal(path, {**HEADER, "config.k": "5"})
    with Journal(path, {**HEADER, "config.k": "5"}, restarts=True) as journal:
        assert len(journal) == 0


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "out.journal"
    path.write_text('{"my": "notes"}\n')
    with pytest.raises(ConfigError, match="not a batch journal"):
        Journal(path, HEADER)
    assert path.read_text() == '{"my": "notes"}\n'


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    path = tmp_path / "out.journal"
    holds = "import sys; from pathlib import Path; from router_service._batch_journal import Journal\n"
    holds += f"j = Journal(Path({str(path)!r}), {HEADER!r}); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="in use"):
            Journal(path, HEADER)
        holder.kill()
        holder.wait()
    with Journal(path, HEADER) as journal:
        assert len(journal) == 0


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="choose an output in a folder that exists"):
        Journal(tmp_path / "nowhere" / "out.journal", HEADER)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def pieces():
        yield b"new"
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_in_pieces(path, pieces())
    assert path.read_text() == "old"
    write_in_pieces(path, iter([b"new", b"er"]))
    assert path.read_text() == "newer"
