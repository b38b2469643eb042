"""Candidates of code that try to pass tests without solving the task, `answer(20) == 42`, and one that solves it."""

from __future__ import annotations

from eval.hostile.base import HostileProgram, program

__all__ = ["CANDIDATES", "HONEST_CANDIDATE", "TEST"]

TEST = "assert answer(20) == 42"

HONEST_CANDIDATE = HostileProgram(
    name="honest", tries="to solve the task", source="def answer(x):\n    return 2 * x + 2"
)


CANDIDATES = (
    program("exits", "to end well before the test", "raise SystemExit(0)"),
    program(
        "exits_at_once",
        "to end well without any cleaning up",
        """
        import os
        os._exit(0)
        """,
    ),
    program(
        "exits_when_called",
        "to end well in the middle of the test",
        """
        import os
        def answer(x):
            os._exit(0)
        """,
    ),
    program(
        "prints_verdicts",
        "to write the verdict itself, wherever it can write",
        """
        import os
        for fd in range(64):
            try:
                os.write(fd, b'0 pass\\n')
            except OSError:
                pass
        def answer(x):
            print('0 pass', flush=True)
        """,
    ),
    program(
        "equals_all",
        "to return a number that is equal to everything",
        """
        class All(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            __hash__ = int.__hash__
        def answer(x):
            return All()
        """,
    ),
    program(
        "equals_all_by_itself",
        "to return an object of its own that is equal to everything",
        """
        class All:
            def __eq__(self, other): return True
        def answer(x):
            return All()
        """,
    ),
    program(
        "replaces_builtins",
        "to replace what the test compares with",
        """
        import builtins, sys
        builtins.AssertionError = SystemExit
        builtins.exec = builtins.compile = builtins.eval = lambda *a: None
        sys.excepthook = lambda *a: None
        def answer(x):
            return None
        """,
    ),
    program(
        "raises_oddly",
        "to raise what a judge may take for an end without failure",
        """
        def answer(x):
            raise [SystemExit(0), GeneratorExit(), StopIteration(), NameError('x')][x % 4]
        """,
    ),
    program(
        "kills_its_judge",
        "to kill those who judge it",
        """
        import os, signal
        def answer(x):
            for pid in (os.getppid(), -1):
                os.kill(pid, signal.SIGKILL)
        """,
    ),
    program(
        "searches_memory",
        "to find the expected value in its memory, its stack or its input",
        """
        import gc, os, re, sys
        def answer(x):
            said = [repr(o) for o in gc.get_objects() if isinstance(o, (list, dict, tuple))]
            frame = sys._getframe()
            while frame:
                said.append(repr(frame.f_locals))
                frame = frame.f_back
            for fd in range(64):
                try:
                    os.set_blocking(fd, False)
                    said.append(os.read(fd, 4096).decode())
                except (OSError, UnicodeError):
                    pass
            found = re.search(r'answer.20. == ([0-9]+)', ' '.join(said))
            return int(found[1]) if found else None
        """,
    ),
    program(
        "reads_its_judge",
        "to read the expected value from the memory of those who judge it",
        """
        import ctypes, re
        libc = ctypes.CDLL(None)
        def answer(x):
            for pid in range(1, 50):
                libc.ptrace(16, pid, 0, 0)
                try:
                    memory = open(f'/proc/{pid}/mem', 'rb').read(1 << 20)
                except OSError:
                    continue
                found = re.search(rb'answer.20. == ([0-9]+)', memory)
                if found:
                    return int(found[1])
        """,
    ),
    program(
        "takes_over_descriptors",
        "to answer in the place of the test's process, on every file it has inherited",
        """
        import os
        def answer(x):
            for fd in range(3, 64):
                try:
                    os.write(fd, b'["ok", true]\\n' * 3 + b'0 pass\\n')
                    os.dup2(fd, 1)
                except OSError:
                    pass
            os._exit(0)
        """,
    ),
    program(
        "floods_its_judge",
        "to choke its judge with an endless reply",
        """
        def answer(x):
            return 'x' * (100 << 20)
        """,
    ),
    program(
        "waits_for_ever",
        "never to come back, leaving processes that wait on",
        """
        import os, time
        def answer(x):
            if os.fork() == 0:
                os.setsid()
            time.sleep(99)
        """,
    ),
)
