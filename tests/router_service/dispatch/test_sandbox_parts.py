"""The sandbox's parts: what the filter refuses, what memory is counted, what a program is shown."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from router_service.config import SandboxLimits
from router_service.dispatch._sandbox_command import Layout, Tools, launcher, plan_layout, sandbox_command
from router_service.dispatch._sandbox_seccomp import MACHINES, seccomp_filter
from router_service.dispatch._sandbox_watch import memory_of_tree, tree_of
from router_service.errors import ConfigError

ALLOW, KILL, REFUSE, NOT_THERE = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS


def verdict(filter_: bytes, number: int, *arguments: int, audit: int) -> int:
    """What the kernel makes of a call: its classic BPF, as far as the filter uses it."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, *[0] * (6 - len(arguments))))
    steps = list(struct.iter_unpack("=HBBI", filter_))
    place, value = 0, 0
    while True:
        code, then, otherwise, k = steps[place]
        place += 1
        if code == 0x06:
            return k
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            value &= k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            place += then if holds else otherwise


@pytest.mark.parametrize("machine", list(MACHINES))
def test_the_filter_refuses_what_it_names_and_allows_the_rest(machine) -> None:
    filter_, numbers = seccomp_filter(machine), MACHINES[machine]
    special = {numbers.clone, numbers.mmap, numbers.socket, 435}
    named = {n for n in range(500) if verdict(filter_, n, audit=numbers.audit) == REFUSE}
    assert set(numbers.refused) < named
    assert len(named) == len(set(numbers.refused)) + 14
    allowed = set(range(500)) - named - special
    assert {verdict(filter_, n, 0xFFFF, 0xFFFF, audit=numbers.audit) for n in allowed} == {ALLOW}
    assert verdict(filter_, 435, audit=numbers.audit) == NOT_THERE


@pytest.mark.parametrize("machine", list(MACHINES))
def test_calls_are_judged_by_their_arguments(machine) -> None:
    filter_, numbers = seccomp_filter(machine), MACHINES[machine]

    def said(number: int, *arguments: int) -> int:
        return verdict(filter_, number, *arguments, audit=numbers.audit)

    assert said(numbers.clone, 0x3D0F00) == said(numbers.clone, 0x1200011) == ALLOW  # a thread, a fork
    assert {said(numbers.clone, flag | 17) for flag in (0x20000, 0x10000000, 0x20000000, 0x40000000)} == {REFUSE}
    assert said(numbers.mmap, 0, 4096, 3, 0x22) == said(numbers.mmap, 0, 4096, 3, 0x01, 5) == ALLOW
    assert said(numbers.mmap, 0, 4096, 3, 0x21) == said(numbers.mmap, 0, 4096, 3, 0x23) == REFUSE
    assert {said(numbers.socket, family, 1) for family in (1, 2, 10)} == {ALLOW}
    assert {said(numbers.socket, family, 1) for family in (0, 16, 17, 38, 40)} == {0x50000 | errno.EAFNOSUPPORT}


def test_calls_of_another_machine_end_the_program() -> None:
    filter_, numbers = seccomp_filter("x86_64"), MACHINES["x86_64"]
    assert verdict(filter_, 1, audit=0x40000003) == KILL
    assert verdict(filter_, 0x40000000 | 101, audit=numbers.audit) == KILL


def test_a_machine_whose_numbers_are_not_known_has_no_sandbox() -> None:
    with pytest.raises(ConfigError, match="x86_64, aarch64, not 'vax'"):
        seccomp_filter("vax")


def process(proc: Path, pid: int, parent: int, *, anon_kib: int = 0, swap_kib: int = 0) -> None:
    folder = proc / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (a) b) S {parent} 1 1 0")
    (folder / "status").write_text(f"Name:\ta: b\nRssAnon:\t{anon_kib} kB\nRssFile:\t999 kB\nVmSwap:\t{swap_kib} kB\n")


@pytest.mark.parametrize("lists_children", [True, False])
def test_the_memory_of_a_tree_is_that_of_all_below(tmp_path, lists_children) -> None:
    family = {10: 1, 11: 10, 12: 11, 13: 10, 99: 1}
    for pid, parent in family.items():
        process(tmp_path, pid, parent, anon_kib=pid, swap_kib=1)
        below = " ".join(str(child) for child, of in family.items() if of == pid)
        if lists_children:
            (tmp_path / str(pid) / "task" / str(pid) / "children").write_text(below)
    assert sorted(tree_of(10, proc=tmp_path)) == [10, 11, 12, 13]
    assert memory_of_tree(10, proc=tmp_path) == (10 + 11 + 12 + 13 + 4) << 10


def test_files_in_memory_count_too(tmp_path) -> None:
    process(tmp_path, 10, 1)
    (tmp_path / "10" / "root" / "tmp").mkdir(parents=True)
    files = os.statvfs(tmp_path)
    used = (files.f_blocks - files.f_bfree) * files.f_frsize
    assert memory_of_tree(10, proc=tmp_path) > used // 2 > 0


def test_who_has_gone_uses_nothing(tmp_path) -> None:
    assert memory_of_tree(4711, proc=tmp_path) == 0


def test_a_layout_shows_python_and_hides_what_was_installed() -> None:
    layout = plan_layout()
    places = [there for _, there in layout.mounts]
    assert "/python/bin/python3" in places
    assert not [
        there for there in places if there.startswith(("/home", "/root", "/etc/passwd", "/proc", "/sys", "/run"))
    ]
    assert "/usr" not in places
    assert all(folder.endswith(("site-packages", "dist-packages")) for folder in layout.hidden)


@pytest.mark.parametrize("setpriv", [None, "/usr/bin/setpriv"])
def test_the_command_line_holds_neither_program_nor_secret(setpriv) -> None:
    layout = Layout(mounts=(("/usr/lib", "/usr/lib"),), links=(), hidden=(), environment=(("HOME", "/tmp"),))
    command = sandbox_command(Tools(bwrap="bwrap", setpriv=setpriv), layout, SandboxLimits(), fds=(7, 8, 9))
    assert command[command.index("--ro-bind-data") + 1] == "7"
    assert command[command.index("--seccomp") + 1] == "8"
    for flag in ("--unshare-all", "--disable-userns", "--die-with-parent", "--new-session", "--clearenv"):
        assert flag in command
    assert command[command.index("--cap-drop") + 1] == "ALL"
    assert command[-1] == launcher(SandboxLimits())
    assert ("65534" in command) is (setpriv is not None)
