"""The system calls that no program in the sandbox needs: a seccomp filter that refuses them, as bubblewrap takes it.

Three groups: reading or steering another process (so that a program that judges another one in the same sandbox cannot
be tampered with), memory that belongs to no process (so that what is used can be counted), and doors into the kernel
that have been its weak spots (namespaces, mounts, modules, BPF, io_uring, key rings, exotic socket families). Numbers:
the kernel's `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h` (ARM).
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

from router_service.errors import ConfigError

__all__ = ["MACHINES", "seccomp_filter"]

_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
"""Places in `struct seccomp_data`; every argument takes 8 bytes, the low half first."""

_X32_BIT = 0x40000000
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID and _NEWNET."""
_SHARED_AND_ANONYMOUS = 0x21
_SOCKET_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: namespaces hold them; others (vsock, netlink, packet, alg) are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """One machine's numbers: its own in the audit interface, and those of the calls."""

    audit: int
    refused: tuple[int, ...]
    clone: int
    mmap: int
    socket: int
    has_x32: bool = False


_SAME_EVERYWHERE = (438, 440, 425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 443, 447)
"""pidfd_getfd process_madvise · io_uring_* · open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr ·
quotactl_fd · memfd_secret."""

_CLONE3 = 435

MACHINES = {
    "x86_64": _Machine(
        audit=0xC000003E,
        refused=(
            *(101, 310, 311, 312),  # ptrace process_vm_readv process_vm_writev kcmp
            *(319, 29, 64, 68, 240),  # memfd_create shmget semget msgget mq_open
            *(165, 166, 155, 161, 272, 308),  # mount umount2 pivot_root chroot unshare setns
            *(175, 313, 176, 246, 320, 169),  # init_module finit_module delete_module kexec_load kexec_file_load reboot
            *(167, 168, 163, 103, 179),  # swapon swapoff acct syslog quotactl
            *(321, 298, 323, 248, 249, 250),  # bpf perf_event_open userfaultfd add_key request_key keyctl
            *(303, 304, 135, 154, 172, 173),  # name_to_handle_at open_by_handle_at personality modify_ldt iopl ioperm
        ),
        clone=56,
        mmap=9,
        socket=41,
        has_x32=True,
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        refused=(
            *(117, 270, 271, 272),
            *(279, 194, 190, 186, 180),
            *(40, 39, 41, 51, 97, 268),
            *(105, 273, 106, 104, 294, 142),
            *(224, 225, 89, 116, 60),
            *(280, 241, 282, 217, 218, 219),
            *(264, 265, 92),
        ),
        clone=220,
        mmap=222,
        socket=198,
    ),
}
"""By the machine's name, as `platform.machine()` has it; the groups of both stand in the same order."""


def seccomp_filter(machine: str | None = None) -> bytes:
    """The filter as an array of `struct sock_filter`; `machine` None is this one.

    A refused call fails with EPERM; `clone3`, whose flags a filter cannot read, with ENOSYS, upon which libraries use
    `clone`. Raises `ConfigError` for a machine whose numbers are not known.
    """
    name = machine or platform.machine()
    if name not in MACHINES:
        raise ConfigError(f"the sandbox knows machines {', '.join(MACHINES)}, not {name!r}; run it on one of those")
    return b"".join(_instructions(MACHINES[name]))


def _instructions(machine: _Machine) -> list[bytes]:
    refuse = _step(_RETURN, _ERRNO | errno.EPERM)
    steps = [_step(_LOAD, _MACHINE_AT), _step(_EQUAL, machine.audit, then=1), _step(_RETURN, _KILL)]
    steps.append(_step(_LOAD, _NUMBER_AT))
    if machine.has_x32:
        steps += [_step(_AT_LEAST, _X32_BIT, otherwise=1), _step(_RETURN, _KILL)]
    steps += [_step(_EQUAL, _CLONE3, otherwise=1), _step(_RETURN, _ERRNO | errno.ENOSYS)]
    for number in (*machine.refused, *_SAME_EVERYWHERE):
        steps += [_step(_EQUAL, number, otherwise=1), refuse]
    steps += _for_call(machine.clone, [_argument(0), _step(_ANY_BIT, _NEW_NAMESPACES, otherwise=1), refuse])
    shared = _step(_EQUAL, _SHARED_AND_ANONYMOUS, otherwise=1)
    steps += _for_call(machine.mmap, [_argument(3), _step(_AND, _SHARED_AND_ANONYMOUS), shared, refuse])
    families = [
        _step(_EQUAL, family, then=len(_SOCKET_FAMILIES) - place) for place, family in enumerate(_SOCKET_FAMILIES)
    ]
    unknown = _step(_RETURN, _ERRNO | errno.EAFNOSUPPORT)
    steps += _for_call(machine.socket, [_argument(0), *families, unknown])
    return [*steps, _step(_RETURN, _ALLOW)]


def _for_call(number: int, steps: list[bytes]) -> list[bytes]:
    """`steps` for one call, which is allowed where they do not return; for any other call they are jumped over."""
    body = [*steps, _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, number, otherwise=len(body)), *body]


def _argument(place: int) -> bytes:
    return _step(_LOAD, _ARGUMENTS_AT + 8 * place)


def _step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)
