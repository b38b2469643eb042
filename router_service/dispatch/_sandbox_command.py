"""What the sandbox shows a program of this machine, and the command line that makes it so (bubblewrap)."""

from __future__ import annotations

import functools
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from router_service.config import SandboxConfig, SandboxLimits
from router_service.errors import ConfigError

__all__ = ["Layout", "find_tools", "launcher", "plan_layout", "sandbox_command"]

_NOBODY = "65534"
"""Who runs the sandbox where we are root: limits on processes do not bind root (`fork` in the kernel)."""

_STAGES = ("/mnt/", "/srv/", "/opt/", "/tmp/")
"""Folders that most machines have, over which a view of one's own can be laid."""

_INSIDE_ID = "1000"
_DEVICES = ("/dev/null", "/dev/urandom")
"""No /dev/zero: mapped shared, it is memory that belongs to no process."""

_OWN_PROCESSES = 1
"""Bubblewrap's first process counts as one of the sandbox's."""

_MIN_KERNEL = (5, 14)
"""Since then, processes are counted per user namespace, so that one sandbox is not limited by what others run."""

_INSTALL = (
    "install it (Debian, Ubuntu: `apt install bubblewrap`; Fedora: `dnf install bubblewrap`; Arch: `pacman -S "
    "bubblewrap`), or name it in sandbox.bwrap"
)


Mounts = tuple[tuple[str, str], ...]
"""Read-only, each from a path here to a path in the sandbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs that make a sandbox; `setpriv` only where we are root."""

    bwrap: str
    setpriv: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a program sees: mounts, links, folders that are shown empty, and its environment."""

    mounts: Mounts
    links: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


def find_tools(config: SandboxConfig) -> Tools:
    """The tools of this machine; raises `ConfigError` saying what is missing and how to get it."""
    if not config.is_enabled:
        raise ConfigError("the sandbox is switched off (sandbox.is_enabled); switch it on to have programs run")
    if sys.platform != "linux":
        raise ConfigError(f"programs are run in a sandbox of Linux, and this is {sys.platform!r}; use a Linux machine")
    _require_kernel(platform.release())
    bwrap = shutil.which(config.bwrap)
    if bwrap is None:
        raise ConfigError(f"programs are run in bubblewrap's sandbox, and {config.bwrap!r} is not there; {_INSTALL}")
    if os.geteuid() != 0:
        return Tools(bwrap=bwrap)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ConfigError("as root, the sandbox needs `setpriv` to leave root's rights behind; install util-linux")
    return Tools(bwrap=bwrap, setpriv=setpriv)


def _require_kernel(release: str) -> None:
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is not None and (int(found[1]), int(found[2])) < _MIN_KERNEL:
        needed = ".".join(map(str, _MIN_KERNEL))
        raise ConfigError(f"the sandbox needs Linux {needed} or newer to limit processes, and this is {release}")


@functools.lru_cache(maxsize=8)
def plan_layout(packages: tuple[Path, ...] = ()) -> Layout:
    """The system's libraries and this Python with its standard library, read-only, plus the folders of `packages`;
    nothing that was installed beside them. Python goes to `/python`, whatever the place it has here."""
    tops = [Path("/", name) for name in ("lib", "lib32", "lib64", "libx32")]
    links = tuple((str(top.readlink()), str(top)) for top in tops if top.is_symlink())
    folders = [str(top) for top in tops if top.is_dir() and not top.is_symlink()]
    folders += [f"/usr/{top.name}" for top in tops if Path("/usr", top.name).is_dir()]
    mounts = [(folder, folder) for folder in folders] + _python_mounts()
    if Path("/etc/ld.so.cache").is_file():
        mounts.append(("/etc/ld.so.cache", "/etc/ld.so.cache"))
    hidden = _installed_beside(mounts)
    inside = [f"/packages/{number}" for number, _ in enumerate(packages)]
    mounts += [(str(folder.resolve()), there) for folder, there in zip(packages, inside, strict=True)]
    return Layout(mounts=tuple(mounts), links=links, hidden=hidden, environment=_environment(inside))


def _python_mounts() -> list[tuple[str, str]]:
    base = sys.base_prefix
    paths = {
        sysconfig.get_path(name, vars={"base": base, "installed_base": base, "platbase": sys.base_exec_prefix})
        for name in ("stdlib", "platstdlib")
    }
    mounts = [(path, f"/python/{os.path.relpath(path, base)}") for path in sorted(paths) if Path(path).is_dir()]
    libraries = Path(str(sysconfig.get_config_var("LIBDIR") or base)).glob("libpython3*.so*")
    mounts += [(str(library.resolve()), f"/python/lib/{library.name}") for library in sorted(libraries)]
    executable = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    return [*mounts, (executable, "/python/bin/python3")]


def _installed_beside(mounts: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Folders of installed packages inside what is mounted, as they are called there."""
    found = []
    for here, there in mounts:
        for pattern in ("site-packages", "dist-packages", "python3*/site-packages", "python3*/dist-packages"):
            found += [f"{there}/{path.relative_to(here)}" for path in Path(here).glob(pattern) if path.is_dir()]
    return tuple(sorted(found))


def _environment(packages: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """All that a program finds in its environment; texts hash alike in every run, so that it ends alike too."""
    values = {"HOME": "/tmp", "LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/python/lib", "PYTHONHASHSEED": "0"}
    values |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHOME": "/python"}
    return tuple((values | ({"PYTHONPATH": ":".join(packages)} if packages else {})).items())


def launcher(limits: SandboxLimits) -> str:
    """Python that lets go of inherited files, sets its own limits (for good: nothing inside may raise them again), says
    by a byte on standard output that it is there, waits for one on standard input, and becomes `/program.py`.

    So a program starts only when all is in place that ends it with us, and never where we have ended before.
    """
    memory, disk = limits.memory_mib << 20, limits.disk_mib << 20
    processes = limits.processes + _OWN_PROCESSES
    soft_hard = {
        "AS": (memory, memory),
        "CPU": (limits.cpu_s, limits.cpu_s + 1),
        "FSIZE": (disk, disk),
        "NOFILE": (limits.open_files, limits.open_files),
        "NPROC": (processes, processes),
        "CORE": (0, 0),
        "MEMLOCK": (0, 0),
        "MSGQUEUE": (0, 0),
    }
    settings = ";".join(f"r.setrlimit(r.RLIMIT_{name},{pair})" for name, pair in soft_hard.items())
    become = "exec(compile(open('/program.py','rb').read(),'/program.py','exec'))"
    meet = "os.write(1,b'>');os.read(0,1) or os._exit(1)"
    return f"import os,resource as r;os.closerange(3,1<<20);{settings};{meet};del os,r;{become}"


def sandbox_command(tools: Tools, layout: Layout, limits: SandboxLimits, *, fds: tuple[int, int, int]) -> list[str]:
    """The command line; `fds` are those of the program's source, the seccomp filter, and bubblewrap's own reports."""
    source, seccomp, status = map(str, fds)
    leave, mounts = ([], layout.mounts) if tools.setpriv is None else _leaving_root(tools.setpriv, layout.mounts)
    return [
        *leave,
        *(tools.bwrap, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--uid", _INSIDE_ID, "--gid", _INSIDE_ID, "--hostname", "sandbox", "--clearenv"),
        *_view(layout, mounts),
        *(part for name, value in layout.environment for part in ("--setenv", name, value)),
        *("--size", str(limits.disk_mib << 20), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *("--ro-bind-data", source, "/program.py", "--remount-ro", "/"),
        *("--seccomp", seccomp, "--json-status-fd", status),
        *("--", "/python/bin/python3", "-s", "-S", "-P", "-B", "-c", launcher(limits)),
    ]


def _leaving_root(setpriv: str, mounts: Mounts) -> tuple[list[str], Mounts]:
    """How root becomes nobody, who then makes the sandbox like any other user, and the mounts as nobody finds them.

    What nobody could not reach (a Python in root's home) is first shown elsewhere, in a view of the file system that
    the sandbox alone has. All this goes on in one process, our child, so that it ends when we do.
    """
    become = [setpriv, "--reuid", _NOBODY, "--regid", _NOBODY, "--clear-groups", "--bounding-set", "-all"]
    hidden = [here for here, _ in mounts if not _is_open_to_all(here)]
    if not hidden:
        return become, mounts
    stage = next(place for place in _STAGES if Path(place).is_dir() and not any(h.startswith(place) for h, _ in mounts))
    shown = {here: f"{stage}{number}" for number, here in enumerate(hidden)}
    steps = [f"mount -t tmpfs -o size=64k,mode=755 tmpfs {stage}"]
    for here, there in shown.items():
        make = "mkdir" if Path(here).is_dir() else "touch"
        steps += [f"{make} {there}", f"mount --bind {shlex.quote(here)} {there}"]
    script = " && ".join([*steps, 'exec "$@"'])
    view = [*("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh"), *become]
    return view, tuple((shown.get(here, here), there) for here, there in mounts)


def _is_open_to_all(path: str) -> bool:
    """Whether anybody may read it and enter the folders above it."""
    place = Path(path)
    return bool(place.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in place.parents)


def _view(layout: Layout, mounts: Iterable[tuple[str, str]]) -> list[str]:
    """The file system, but for what can be written."""
    parts = [part for here, there in mounts for part in ("--ro-bind", here, there)]
    parts += [part for target, name in layout.links for part in ("--symlink", target, name)]
    for folder in layout.hidden:
        parts += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    parts += ["--dir", "/dev"]
    return parts + [part for device in _DEVICES for part in ("--dev-bind", device, device)]
