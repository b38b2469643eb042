"""The SQLite store: what goes wrong with files is named with the next step, and what was finished survives."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys

import pytest

from router_service.errors import ConfigError, StoreUnavailable
from router_service.store.base import JobLine
from router_service.store.sqlite import Sqlite
from tests.meta.source import ROOT
from tests.router_service.store.kits import completion, entry, job, lines


async def fill(store, n_lines=200):
    await store.create(job(), lines(*range(1, n_lines + 1)))
    await store.claim("j", worker="w", limit=n_lines, lease_s=60)


async def finished(path):
    store = Sqlite(str(path))
    numbers = [kept.number async for kept in store.entries("j")]
    await store.aclose()
    return numbers


async def test_a_full_file_is_named_and_what_was_finished_is_kept(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = Sqlite(str(path), max_bytes=256 * 1024)
    await fill(store)
    done = []
    with pytest.raises(StoreUnavailable, match=r"jobs\.sqlite.*is full; free some space.*is kept"):
        for number in range(1, 201):
            await store.finish("j", entry(number, route={"why": "x" * 4000}), worker="w")
            done.append(number)
    assert 10 < len(done) < 200
    with pytest.raises(StoreUnavailable):
        await store.create(job("big"), [JobLine(number=1, payload=b"x" * 300_000)])
    await store.aclose()
    assert await finished(path) == done
    roomier = Sqlite(str(path))
    assert await roomier.finish("j", entry(done[-1] + 1), worker="w")
    await roomier.aclose()


LIMITED = """
import asyncio, resource, sys
from router_service.errors import StoreUnavailable
from router_service.store.sqlite import Sqlite
from tests.router_service.store.kits import entry
from tests.router_service.store.test_sqlite import fill

async def main():
    store = Sqlite(sys.argv[1])
    await fill(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    for number in range(1, 201):
        try:
            await store.finish("j", entry(number, route={"why": "x" * 4000}), worker="w")
        except StoreUnavailable as error:
            print(error.message)
            return
        print(number)

asyncio.run(main())
"""


def test_a_disk_that_takes_no_more_is_named_and_what_was_finished_is_kept(tmp_path):
    path = tmp_path / "jobs.sqlite"
    run = subprocess.run([sys.executable, "-c", LIMITED, path], cwd=ROOT, capture_output=True, text=True, check=True)
    *done, message = run.stdout.splitlines()
    assert "cannot" in message and str(path) in message and "what was finished is kept" in message
    assert 10 < len(done) < 200
    assert asyncio.run(finished(path)) == [int(number) for number in done]


async def test_a_folder_that_is_not_there_and_one_that_is_no_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match="choose a folder that exists"):
        await Sqlite(str(tmp_path / "nowhere" / "jobs.sqlite")).jobs()
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        await Sqlite(str(tmp_path)).jobs()


def test_a_folder_that_this_user_may_not_write_is_named(tmp_path):
    """As another user where this one may do everything."""
    code = (
        "import asyncio, os, sys\n"
        "from router_service.store.sqlite import Sqlite\n"
        "from router_service.errors import ConfigError\n"
        "import router_service.store._sqlite_file\n"
        "os.chdir(sys.argv[1])\n"
        "os.setuid(65534) if os.geteuid() == 0 else None\n"
        "try: asyncio.run(Sqlite('jobs.sqlite').jobs())\n"
        "except ConfigError as error: print(error.message)\n"
    )
    tmp_path.chmod(0o555)
    run = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot write jobs.sqlite" in run.stdout
    assert "choose another place" in run.stdout


async def test_a_damaged_file_is_an_error_and_left_as_it_is(tmp_path):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError, match=r"is damaged, or not a job store.*move it away"):
        await Sqlite(str(path)).jobs()
    assert path.read_bytes() == b"not a database at all" * 100


async def test_a_file_that_is_damaged_in_its_middle_is_an_error(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = Sqlite(str(path))
    await fill(store, 2000)
    await store.aclose()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    broken = Sqlite(str(path))
    with pytest.raises(ConfigError, match="is damaged"):
        [line async for line in broken.lines("j")]
    await broken.aclose()


async def test_a_file_of_another_program_or_version_is_left_alone(tmp_path):
    foreign, newer = tmp_path / "foreign.sqlite", tmp_path / "newer.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE birds (name)")
    db.close()
    before = foreign.read_bytes()
    with pytest.raises(ConfigError, match="another program's database"):
        await Sqlite(str(foreign)).jobs()
    assert foreign.read_bytes() == before
    store = Sqlite(str(newer))
    await store.jobs()
    await store.aclose()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version=2")
    db.close()
    with pytest.raises(ConfigError, match="of format 2, and this version of enlist reads 1; upgrade"):
        await Sqlite(str(newer)).jobs()


async def test_many_results_share_a_commit(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = Sqlite(str(path))
    await fill(store, 500)
    await store.aclose()
    frames_before = wal_commits(path)
    store = Sqlite(str(path))
    await asyncio.gather(*(store.finish("j", entry(n), worker="w") for n in range(1, 501)))
    commits = wal_commits(path) - frames_before
    await store.aclose()
    assert commits <= 10


async def test_what_cannot_be_kept_leaves_its_neighbours_in_the_commit_alone(tmp_path):
    store = Sqlite(str(tmp_path / "jobs.sqlite"))
    await fill(store, 3)
    refused, *kept = await asyncio.gather(
        store.create(job("twice"), lines(1, 2, 2)),
        *(store.finish("j", entry(n), worker="w") for n in range(1, 4)),
        return_exceptions=True,
    )
    assert isinstance(refused, ConfigError)
    assert "a number of its own" in refused.message
    assert kept == [True] * 3
    assert [found.id for found in await store.jobs()] == ["j"]
    await store.aclose()


def wal_commits(path):
    """Commits in the write-ahead log: frames that say how many pages the file has after them."""
    log = path.with_name(path.name + "-wal")
    content = log.read_bytes() if log.exists() else b""
    frame = 24 + 4096
    return sum(content[at + 4 : at + 8] != b"\0\0\0\0" for at in range(32, len(content) - frame + 1, frame))


KILLED = """
import asyncio, sys
from router_service.store.sqlite import Sqlite
from tests.router_service.store.kits import completion, entry
from tests.router_service.store.test_sqlite import fill

async def main():
    store = Sqlite(sys.argv[1])
    await fill(store)
    async def finish(number):
        await store.memo("j").keep(str(number), completion(number))
        print("kept", number, flush=True)
        await store.finish("j", entry(number), worker="w")
        print("finished", number, flush=True)
    for number in range(1, 201, 5):
        await asyncio.gather(*(finish(n) for n in range(number, number + 5)))

asyncio.run(main())
"""


def test_what_returned_survives_kill_9(tmp_path):
    path = tmp_path / "jobs.sqlite"
    with subprocess.Popen([sys.executable, "-c", KILLED, path], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        said = [run.stdout.readline().split() for _ in range(60)]
        run.send_signal(signal.SIGKILL)
        said += [line.split() for line in run.stdout.read().splitlines()]
    told = {kind: {int(number) for k, number in said if k == kind} for kind in ("kept", "finished")}
    assert told["finished"] <= set(asyncio.run(finished(path)))
    assert {str(number) for number in told["kept"]} <= asyncio.run(kept_keys(path))


async def kept_keys(path):
    store = Sqlite(str(path))
    kept = await store.memo("j").recall([str(number) for number in range(1, 201)])
    await store.aclose()
    return kept.keys()


def test_two_processes_open_one_new_file_at_once(tmp_path):
    path = tmp_path / "jobs.sqlite"
    code = (
        "import asyncio, sys; from router_service.store.sqlite import Sqlite; asyncio.run(Sqlite(sys.argv[1]).jobs())"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT) for _ in range(4)]
    assert [run.wait(timeout=60) for run in runs] == [0] * 4


async def test_a_file_is_only_discarded_by_the_last_who_has_it_open_and_without_jobs(tmp_path):
    path = tmp_path / "jobs.sqlite"
    one, other = Sqlite(str(path)), Sqlite(str(path))
    await one.create(job(), lines(1))
    assert not await one.discard()
    await one.remove("j")
    await other.jobs()
    assert not await one.discard()
    assert path.exists()
    await other.aclose()
    assert await one.discard()
    assert list(tmp_path.iterdir()) == []
    assert await one.create(job(), lines(1)), "it is made anew when it is used again"
    await one.aclose()


async def test_a_locked_file_is_named(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = Sqlite(str(path), busy_s=0.1)
    await store.create(job(), lines(1))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"locked by another process for 0\.1 s"):
        await store.memo("j").keep("k", completion())
    holder.close()
    await store.memo("j").keep("k", completion())
    await store.aclose()
