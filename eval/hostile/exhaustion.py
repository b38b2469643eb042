"""Programs that try to wear out the machine, or to use its network."""

from __future__ import annotations

from eval.hostile.base import attempts, program

__all__ = ["NETWORK", "WEARING_OUT"]

WEARING_OUT = (
    program(
        "fork_bomb",
        "to double its processes for ever",
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        ends_by="time",
    ),
    program(
        "thread_bomb",
        "to start threads for ever",
        """
        import threading, time
        while True:
            try:
                threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
            except RuntimeError:
                time.sleep(0.01)
        """,
        ends_by="time",
    ),
    program("memory_bomb", "to fill the memory by itself", "kept = [bytearray(b'x' * (1 << 24)) for _ in range(999)]"),
    program(
        "memory_in_children",
        "to fill the memory with many processes, each within its own limit",
        """
        import os, time
        for _ in range(12):
            if os.fork() == 0:
                kept = bytearray(b'x' * (60 << 20))
                time.sleep(99)
        time.sleep(99)
        """,
        ends_by="memory",
    ),
    attempts(
        "memory_of_nobody",
        "to fill memory that no process holds: memory files, shared memory, System V segments and queues",
        """
        os.memfd_create('x')
        mmap.mmap(-1, 1 << 20)
        c('shmget', 0, 1 << 20, 0o1600)
        c('msgget', 0, 0o1600)
        write('/dev/shm/x')
        """,
    ),
    program(
        "disk_filler",
        "to fill the disk",
        """
        for number in range(200):
            with open(f'/tmp/{number}', 'wb') as file:
                file.write(b'x' * (1 << 20))
        print('ESCAPED')
        """,
    ),
    attempts(
        "sparse_file",
        "to make a file of a terabyte that takes no room",
        "open('/tmp/sparse', 'wb').truncate(1 << 40)",
    ),
    program(
        "file_bomb",
        "to make empty files for ever, which no limit on the disk counts",
        """
        number = 0
        while True:
            open(f'/tmp/{number}', 'w').close()
            number += 1
        """,
    ),
    attempts(
        "descriptor_hog",
        "to hold more open files than it may",
        "kept = [open('/dev/null') for _ in range(5000)]",
    ),
    program(
        "infinite_output",
        "to print for ever",
        """
        while True:
            print('x' * 1000)
        """,
        ends_by="output",
    ),
    program(
        "infinite_loop",
        "to compute for ever",
        """
        while True:
            pass
        """,
        ends_by="time",
    ),
    program(
        "deaf",
        "to outlive its time by ignoring every signal that can be ignored",
        """
        import signal
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
        """,
        ends_by="time",
    ),
    program(
        "daemon",
        "to leave a process behind that belongs to no session and no parent",
        """
        import os, signal, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                os.closerange(0, 64)
                time.sleep(99)
            os._exit(0)
        print('left it behind')
        """,
    ),
    attempts(
        "higher_limits",
        "to raise its own limits",
        """
        raise_limit(resource.RLIMIT_AS)
        raise_limit(resource.RLIMIT_CPU)
        raise_limit(resource.RLIMIT_FSIZE)
        raise_limit(resource.RLIMIT_NOFILE)
        raise_limit(resource.RLIMIT_NPROC)
        raise_limit(resource.RLIMIT_CORE)
        os.nice(-5)
        """,
    ),
)

NETWORK = (
    attempts(
        "connects",
        "to reach a server of this machine, and the network",
        """
        socket.create_connection(('127.0.0.1', $port))
        socket.create_connection(('::1', $port))
        socket.create_connection(('192.0.2.1', 80))
        """,
    ),
    attempts(
        "names",
        "to ask for a name, and to send a datagram",
        """
        socket.getaddrinfo('example.com', 80)
        socket.gethostbyaddr('192.0.2.1')
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.53', 53))
        socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', $port)); raise OSError('to nobody')
        """,
    ),
    attempts(
        "listens",
        "to be reached from outside",
        "socket.create_server(('', $listens)).accept()",
    ),
    attempts(
        "odd_sockets",
        "to talk to the kernel, a virtual machine's host or the wire: netlink, packet, crypto, vsock, raw, CAN",
        """
        socket.socket(16, 3)
        socket.socket(17, 3)
        socket.socket(38, 5)
        socket.socket(40, 1)
        socket.socket(2, 3)
        socket.socket(29, 3)
        """,
    ),
    attempts(
        "unix_sockets",
        "to reach services of this machine by their sockets: one open to all, one without a path, Docker, D-Bus",
        """
        connect('$folder/socket')
        connect(chr(0) + '$abstract')
        connect('/var/run/docker.sock')
        connect('/run/dbus/system_bus_socket')
        """,
    ),
)
