"""Programs that try to reach files, secrets, processes and rights outside."""

from __future__ import annotations

from eval.hostile.base import attempts

__all__ = ["FILES", "RIGHTS"]

FILES = (
    attempts(
        "reads_files",
        "to read secrets, passwords and homes",
        """
        read('$folder/secret')
        read('/etc/shadow')
        read('/etc/passwd')
        read('/etc/hostname')
        print(os.listdir('/home'))
        print(os.listdir('/root'))
        """,
    ),
    attempts(
        "dotdot",
        "to leave its folder by `..`, and after moving the folder it is in",
        """
        read('../' * 40 + '$folder/secret'.lstrip('/'))
        os.chroot('/tmp')
        os.makedirs('a/b'); os.chdir('a/b'); os.rename('/tmp/a/b', '/tmp/b'); read('../' * 9 + '$folder/secret'[1:])
        """,
    ),
    attempts(
        "links",
        "to reach a file by links to it",
        """
        os.symlink('$folder/secret', '/tmp/link'); read('/tmp/link')
        os.link('$folder/secret', '/tmp/hard')
        write('/tmp/link')
        """,
    ),
    attempts(
        "writes_files",
        "to write outside its folder, and into what is shown read-only",
        """
        write('$folder/new')
        write('$folder/secret')
        write('/new')
        write('/usr/lib/new')
        write('/python/bin/new')
        write('/program.py')
        write('/dev/new')
        os.chmod('/python/bin/python3', 0o777)
        os.utime('/program.py')
        os.remove('/program.py')
        """,
    ),
    attempts(
        "other_processes",
        "to read the environment and files of other processes in /proc, and the machine in /sys",
        """
        read('/proc/1/environ')
        read('/proc/$pid/environ')
        read('/proc/$pid/root$folder/secret')
        print(os.listdir('/proc'))
        print(os.listdir('/sys'))
        """,
    ),
    attempts(
        "environment",
        "to find secrets in its environment and among inherited files",
        """
        print(os.environ['$variable'])
        assert set(os.environ) & {'PATH', 'USER', 'PWD_', 'SSH_AUTH_SOCK'}
        inherited()
        """,
    ),
)

RIGHTS = (
    attempts(
        "signals",
        "to stop and kill processes outside, its parents first",
        """
        os.kill($pid, signal.SIGKILL)
        os.killpg($pid, signal.SIGSTOP)
        [os.kill(pid, signal.SIGKILL) for pid in range(100, 65536)]
        os.kill(1, signal.SIGKILL); time.sleep(0.1); raise OSError('its parent lives on')
        os.kill(-1, signal.SIGKILL); raise OSError('nobody outside was killed')
        """,
    ),
    attempts(
        "traces",
        "to attach to a process, to read another one's memory and to take its files",
        """
        c('ptrace', 16, $pid, 0, 0)
        c('ptrace', 16, 1, 0, 0)
        c('ptrace', 0, 0, 0, 0)
        c('syscall', 310, 1, 0, 0, 0, 0, 0)
        c('syscall', 438, os.pidfd_open(1), 0, 0)
        """,
    ),
    attempts(
        "mounts",
        "to mount, to unmount and to change its root",
        """
        c('mount', b'/', b'/tmp', None, 4096, None)
        c('mount', b'proc', b'/tmp', b'proc', 0, None)
        c('mount', None, b'/', None, 32 | 4096, None)
        c('umount2', b'/usr/lib', 2)
        c('chroot', b'/tmp')
        c('syscall', 155, b'/tmp', b'/tmp')
        c('syscall', 430, b'tmpfs', 0)
        """,
    ),
    attempts(
        "namespaces",
        "to make namespaces in which it would have rights again, and to enter others",
        """
        c('unshare', 0x10000000)
        c('unshare', 0x00020000)
        c('setns', os.pidfd_open(1), 0x10000000)
        c('syscall', 56, 0x10000011, 0, 0, 0, 0)
        c('syscall', 435, b'x' * 88, 88)
        """,
    ),
    attempts(
        "users",
        "to become root, or anybody else",
        """
        os.setuid(0)
        os.setgid(0)
        os.setresuid(0, 0, 0)
        os.setgroups([0])
        assert 0 in (os.getuid(), os.geteuid())
        """,
    ),
    attempts(
        "kernel",
        "to load code into the kernel, to trace it, to restart the machine: modules, kexec, BPF, io_uring, key rings",
        """
        c('syscall', 175, b'', 0, b'')
        c('syscall', 313, 0, b'', 0)
        c('syscall', 246, 0, 0, 0, 0)
        c('syscall', 321, 0, b'x' * 72, 72)
        c('syscall', 298, b'', 0, -1, -1, 0)
        c('syscall', 425, 1, bytes(120))
        c('syscall', 323, 1)
        c('syscall', 250, 0, -3, 0)
        c('syscall', 169, 0xFEE1DEAD, 672274793, 0x4321FEDC, 0)
        c('syscall', 304, 0, b'', 0)
        """,
    ),
    attempts(
        "devices",
        "to open memory and disks as devices, and to make such devices",
        """
        read('/dev/mem')
        read('/dev/kmsg')
        read('/dev/sda')
        read('/dev/vda')
        read('/dev/nvme0n1')
        read('/dev/kvm')
        read('/dev/fuse')
        read('/dev/tty')
        os.mknod('/tmp/disk', 0o60666, os.makedev(8, 0)); read('/tmp/disk')
        """,
    ),
    attempts(
        "programs",
        "to start other programs: a shell, su, mount, another sandbox",
        """
        subprocess.run(['/bin/sh', '-c', 'id'])
        subprocess.run(['/usr/bin/su'])
        subprocess.run(['/bin/mount'])
        subprocess.run(['/usr/bin/bwrap'])
        """,
    ),
    attempts(
        "clock_and_name",
        "to change the machine's name and clock",
        """
        c('sethostname', b'x', 1)
        c('setdomainname', b'x', 1)
        c('settimeofday', bytes(16), None)
        """,
    ),
)
