"""Puts a process into a box: its own files, processes and network. Runs alone, without arf, on any machine.

    PYTHON -I -S enter.py BOX COMMAND...       # BOX is a file that `arf.sandbox.box` has written

With `namespaces` the command sees a file system of its own, made of mounts: what it may read, what it may
write, and nothing else is there at all. With `landlock` it sees the usual one, and the kernel refuses what
is not listed. Neither needs privileges. Linux; `namespaces` from 5.12 on, `landlock` from 5.13 on.
Python 3.10 or newer, and only modules in C, which load in 3 ms.

The processes: whoever calls `enter` waits; its child is process 1 of the box, which waits for the command's
process, ends what that leaves behind, and hands its exit code on.
"""

import _signal  # type: ignore[import-not-found]
import _socket  # loaded here: later its file may be out of sight
import ctypes
import errno
import fcntl
import os
import resource
import sys
import time
from typing import Any

Box = dict[str, Any]
"""What is in a box; see `arf.sandbox.box.Box.to_plain`."""

NEW_ROOT, OLD_ROOT = "/new", "/old"
LINGER_S = 0.5
"""What a command leaves behind may end by itself for so long."""
TERM_S = 5.0
"""And for so long after it was asked to."""
CANNOT = 125
"""Exit code where the box cannot be made."""

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
AT_RECURSIVE, AT_FDCWD = 0x8000, -100
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
SYS_MOUNT_SETATTR, SYS_LANDLOCK = 442, 444
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 24, 38, 22
OUTLIVED = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGTERM,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
)

_libc = ctypes.CDLL(None, use_errno=True)


class CannotEnter(Exception):
    """The box cannot be made; the message says why."""


def _syscall(what: str, number: int, *arguments: Any) -> int:
    return _checked(what, _libc.syscall(number, *arguments))


def _checked(what: str, result: int) -> int:
    if result < 0:
        raise CannotEnter(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _number(table: "dict[str, int]") -> int:
    machine = os.uname().machine
    if machine not in table:
        raise CannotEnter(f"not known for {machine}")
    return table[machine]


# ---- Namespaces -----------------------------------------------------------------------------


def enter(box: Box) -> "int | None":
    """Fork a process in a box: None in that process; in the caller, its exit code (minus a signal's number).

    The caller must have one thread, and is of no other use afterwards: it is in some of the namespaces
    too. Raises CannotEnter in the caller; what goes wrong later is printed, and the exit code is CANNOT.
    """
    user, group = os.geteuid(), os.getegid()
    kinds = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC
    if not box["network"]:
        kinds |= CLONE_NEWNET
    _checked("unshare", _libc.unshare(kinds))
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    first = os.fork()
    if first:
        return _exit_code(os.waitpid(first, 0)[1])
    try:
        _be_first(box)
    except (CannotEnter, OSError) as error:
        os.write(2, f"arf: the sandbox cannot be made: {error}\n".encode())
        os._exit(CANNOT)
    return None


def _be_first(box: Box) -> None:
    """Be process 1 of the box. Returns only in the process that is to run the command."""
    _libc.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
    _make_root(box)
    if not box["network"]:
        _loopback_up()
    _write("/proc/sys/user/max_user_namespaces", "0")
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"):
        if os.path.exists(path):
            _mount(path, path, MS_BIND | MS_REC)
            _set_attributes(path, ATTR_RDONLY)
    _drop_privileges()
    main = os.fork()
    if main == 0:
        _libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
        limit(box)
        os.chdir(box["cwd"])
        return
    code = _exit_code(_wait_for(main))
    _end_the_rest()
    if code < 0:
        if -code not in (_signal.SIGINT, _signal.SIGPIPE):
            os.write(2, f"{_signal.strsignal(-code)}\n".encode())  # as a shell says it
        code = 128 - code
    os._exit(code)


def _wait_for(main: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == main:
            return status


def _end_the_rest() -> None:
    """Let what is left end by itself, then by SIGTERM; the kernel ends what is there when process 1 ends."""
    for number, patience_s in ((0, LINGER_S), (_signal.SIGTERM, TERM_S)):
        limit_s = time.monotonic() + patience_s
        try:
            if number:
                os.kill(-1, number)
            while time.monotonic() < limit_s:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.005)
        except (ChildProcessError, ProcessLookupError):
            return


def _make_root(box: Box) -> None:
    """Make the file system of the box and move into it."""
    _mount("none", "/", MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "tmpfs", "mode=755")
    os.mkdir("/tmp" + NEW_ROOT)
    os.mkdir("/tmp" + OLD_ROOT)
    _pivot("/tmp", "/tmp" + OLD_ROOT)
    _mount("tmpfs", NEW_ROOT, MS_NOSUID | MS_NODEV, "tmpfs", "mode=755")
    # What is deeper comes later, and lies on top; of one place, what can be written does.
    kinds = ("hide", "scratch", "read", "write")
    todo = [(_resolved(path), kinds.index(kind), path) for kind in kinds for path in box[kind]]
    for real, kind, path in sorted(todo):
        if kinds[kind] == "hide" and not os.path.isdir(OLD_ROOT + real):
            if os.path.exists(NEW_ROOT + real):
                _mount(OLD_ROOT + "/dev/null", NEW_ROOT + real, MS_BIND)
        elif kinds[kind] in ("hide", "scratch"):
            _make_folder(NEW_ROOT + real)
            mode = "mode=1777" if kinds[kind] == "scratch" else "mode=755"
            _mount("tmpfs", NEW_ROOT + real, MS_NOSUID | MS_NODEV, "tmpfs", mode)
        else:
            _bind(path, real, writable=kinds[kind] == "write")
    _protect(box)
    for real, kind, _ in todo:
        if kinds[kind] == "hide" and os.path.isdir(NEW_ROOT + real):
            _set_attributes(NEW_ROOT + real, ATTR_RDONLY, recursive=False)
    _make_dev(box["devices"])
    _make_folder(NEW_ROOT + "/proc")
    _mount("proc", NEW_ROOT + "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "proc")
    _set_attributes(NEW_ROOT, ATTR_RDONLY, recursive=False)
    os.chdir(NEW_ROOT)
    _checked("umount", _libc.umount2(OLD_ROOT.encode(), MNT_DETACH))
    _pivot(".", ".")
    _checked("umount", _libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def _bind(path: str, real: str, *, writable: bool) -> None:
    """Have a path of the machine, whose real path is `real`, in the box. What is not there is left out."""
    source, target = OLD_ROOT + real, NEW_ROOT + real
    if not os.path.lexists(source):
        return
    if real != path and not os.path.lexists(NEW_ROOT + path):
        _make_folder(os.path.dirname(NEW_ROOT + path))
        os.symlink(real, NEW_ROOT + path)
    if os.path.isdir(source):
        _make_folder(target)
    elif not os.path.lexists(target):
        _make_folder(os.path.dirname(target))
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o644))
    _mount(source, target, MS_BIND | MS_REC)
    _set_attributes(target, ATTR_NOSUID | ATTR_NODEV | (0 if writable else ATTR_RDONLY))


def _resolved(path: str) -> str:
    """The real path below OLD_ROOT of a path of the machine, links of the machine followed."""
    todo, done = [part for part in reversed(path.split("/")) if part], ""
    for _ in range(1000):
        if not todo:
            return done or "/"
        part = todo.pop()
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        if part == ".":
            continue
        here = f"{done}/{part}"
        try:
            target = os.readlink(OLD_ROOT + here)
        except OSError:
            done = here
            continue
        if target.startswith("/"):
            done = ""
        todo += [piece for piece in reversed(target.split("/")) if piece]
    raise CannotEnter(f"{path}: too many links")


def _protect(box: Box) -> None:
    """Make files and folders of the tree read-only; those that hold some of them cannot be moved away."""
    top = NEW_ROOT + box["tree"]
    for name in sorted(box["hold"]):
        path = os.path.join(top, name)
        if _is_plain_below(top, name):
            _mount(path, path, MS_BIND | MS_REC)
    for name in box["protect"]:
        path = os.path.join(top, name)
        if _is_plain_below(top, name):
            _mount(path, path, MS_BIND | MS_REC)
            _set_attributes(path, ATTR_RDONLY)
    for name in box["empty"]:
        path = os.path.join(top, name)
        os.makedirs(path, exist_ok=True)
        _mount("tmpfs", path, MS_NOSUID | MS_NODEV, "tmpfs", "mode=555,size=4k")
        _set_attributes(path, ATTR_RDONLY)


def _is_plain_below(top: str, name: str) -> bool:
    path = top
    for part in name.split("/"):
        path += "/" + part
        if os.path.islink(path):
            return False
    return os.path.exists(path)


def _make_dev(devices: "list[str]") -> None:
    dev = NEW_ROOT + "/dev"
    _make_folder(dev + "/shm")
    os.mkdir(dev + "/pts")
    for path in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", *devices]:
        if os.path.isdir(OLD_ROOT + path):
            _make_folder(NEW_ROOT + path)
        elif os.path.exists(OLD_ROOT + path):
            _make_folder(os.path.dirname(NEW_ROOT + path))
            os.close(os.open(NEW_ROOT + path, os.O_WRONLY | os.O_CREAT, 0o644))
        else:
            continue
        _mount(OLD_ROOT + path, NEW_ROOT + path, MS_BIND | MS_REC)
    _mount("tmpfs", dev + "/shm", MS_NOSUID | MS_NODEV, "tmpfs", "mode=1777")
    _mount("devpts", dev + "/pts", MS_NOSUID | MS_NOEXEC, "devpts", "newinstance,ptmxmode=0666,mode=620")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
    links |= {"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
    for name, target in links.items():
        os.symlink(target, f"{dev}/{name}")


def _make_folder(path: str) -> None:
    os.makedirs(path, mode=0o755, exist_ok=True)


def _mount(source: str, target: str, flags: int, kind: str = "", data: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _checked(f"mount {target.removeprefix(NEW_ROOT)}", result)


def _set_attributes(path: str, attributes: int, *, recursive: bool = True) -> None:
    settings = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    _syscall(
        "mount_setattr", SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, settings, ctypes.c_size_t(32)
    )


def _pivot(new: str, old: str) -> None:
    _syscall("pivot_root", _number(SYS_PIVOT_ROOT), new.encode(), old.encode())


def _loopback_up() -> None:

    link = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(link.fileno(), 0x8914, b"lo".ljust(16, b"\0") + (0x41).to_bytes(2, sys.byteorder) + bytes(22))
    link.close()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _drop_privileges() -> None:
    """Lose all capabilities, those that user 0 would have again after an exec too."""
    for capability in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _syscall("capset", _number(SYS_CAPSET), header, (ctypes.c_uint32 * 6)())


def _exit_code(status: int) -> int:
    return os.waitstatus_to_exitcode(status)


# ---- What holds in every kind of box --------------------------------------------------------


def limit(box: Box) -> None:
    """Set the limits of the process: no core files, no endless file, no endless number of processes."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: box["file_bytes"],
        resource.RLIMIT_NPROC: box["processes"],
    }
    for kind, value in wanted.items():
        if value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


# ---- As a program ---------------------------------------------------------------------------

LISTS = ("read", "write", "scratch", "hide", "devices", "protect", "hold", "empty")
NUMBERS = ("network", "processes", "file_bytes")


def encode(box: Box) -> bytes:
    """A box for a file: lines without the need of a parser that takes longer to load than to run."""
    fields = []
    for key, value in box.items():
        for item in value if key in LISTS else [value]:
            if item is not None:
                fields.append(f"{key}={int(item) if key in NUMBERS else item}")
    return b"\0".join(os.fsencode(field) for field in fields)


def decode(data: bytes) -> Box:
    box: Box = {key: [] for key in LISTS} | dict.fromkeys(NUMBERS)
    for part in data.split(b"\0"):
        key, _, text = os.fsdecode(part).partition("=")
        if key in LISTS:
            box[key].append(text)
        else:
            box[key] = int(text) if key in NUMBERS else text
    return box


def main() -> int:
    with open(sys.argv[1], "rb") as file:
        box = decode(file.read())
    os.unlink(sys.argv[1])
    for number in OUTLIVED:
        _signal.signal(number, _signal.SIG_IGN)
    try:
        code = enter(box)
    except (CannotEnter, OSError) as error:
        os.write(2, f"arf: the sandbox cannot be made: {error}\n".encode())
        return CANNOT
    if code is not None:
        return 128 - code if code < 0 else code
    for number in OUTLIVED:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        os.write(2, f"{sys.argv[2]}: {error.strerror}\n".encode())
        return 127 if error.errno == errno.ENOENT else 126


if __name__ == "__main__":
    os._exit(main())
