"""Starts Python scripts from a process that has imported what they import. Runs alone: `warm.py` starts it.

    PYTHON [-u] forkserver.py ROOM SCRIPT     # file 3 is the socket to arf; ROOM is filler (see Places)

It runs the imports at the top of SCRIPT once, and then forks a copy of itself for each job, which becomes
what `PYTHON script.py arguments` is at its first line, but for the modules that it finds loaded. Session,
files, environment, arguments, `__main__` and random state are made afresh. What cannot be made as a fresh
process would have it is declined, and arf starts one instead. Python 3.10 or newer, Linux.
"""

import ast
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import importlib.machinery
import io
import json
import os
import signal
import socket
import sys
import time
import types
from collections.abc import Iterable
from typing import Any

# What `__main__` holds before its first line, in this version of Python.
FRESH_MAIN = {name: value for name, value in globals().items() if name.startswith("__")}
HERE = os.path.abspath(__file__)
SOCKET = 3
MARK = "ARF_JOB"
OUTLIVED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


Job = dict[str, Any]
"""A request as arf sends it: see `warm.py`."""


class Declined(Exception):
    """This job needs a fresh process; the message says why."""


class Unfit(Exception):
    """This server cannot serve anything (any more); the message says why."""


# ---- What a script imports ------------------------------------------------------------------


class Plan:
    """The statements at the top of a script that import, or set the environment for what is imported."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.modules: set[str] = set()

    def read(self, path: str) -> None:
        """Take what is at the top of a script and of modules beside it, up to the first other statement."""
        with open(path, "rb") as file:
            source = file.read()
        for node in _parsed(source):
            if not self._take(node, os.path.dirname(path)):
                return

    def _take(self, node: ast.stmt, folder: str) -> bool:
        """Take one statement; False if nothing after it may run earlier than it would."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return self._take_import(node, folder)
        if isinstance(node, ast.Try):
            imports = [child for child in node.body if isinstance(child, (ast.Import, ast.ImportFrom))]
            harmless = all(_has_no_effect(child) for handler in node.handlers for child in handler.body)
            if len(imports) != len(node.body) or not harmless or node.orelse or node.finalbody:
                return False
            if any(_local(name, folder) for child in imports for name in _names(child)):
                return False
            self._add(node, imports)
            return True
        if _sets_environment(node):
            self._add(node, [])
            return True
        return _has_no_effect(node)

    def _take_import(self, node: ast.Import | ast.ImportFrom, folder: str) -> bool:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            return True
        if isinstance(node, ast.ImportFrom) and node.level:
            return False
        local = [path for name in _names(node) if (path := _local(name, folder))]
        if not local:
            self._add(node, [node])
            return True
        if len(_names(node)) == 1 and local[0].endswith(".py"):
            self.read(local[0])
        return False  # the module's own code runs here, and may do anything

    def _add(self, node: ast.stmt, imports: "Iterable[ast.Import | ast.ImportFrom]") -> None:
        self.statements.append(ast.unparse(node))
        for child in imports:
            self.modules.update(_names(child))
            if isinstance(child, ast.ImportFrom):
                self.modules.update(f"{child.module}.{alias.name}" for alias in child.names)

    @property
    def settings(self) -> list[str]:
        """The statements that set the environment, in order."""
        return [text for text in self.statements if text.startswith("os.")]


@functools.lru_cache(maxsize=8)
def _parsed(source: bytes) -> list[ast.stmt]:
    return ast.parse(source).body  # 20 ms for a thousand lines, most of which no experiment edits


def _names(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


def _local(name: str, folder: str) -> str:
    """The file or folder beside the script that a module would come from; empty if from elsewhere."""
    top = os.path.join(folder, name.partition(".")[0])
    for path in (os.path.join(top, "__init__.py"), top + ".py"):
        if os.path.isfile(path):
            return path
    if os.path.isdir(top) and importlib.machinery.PathFinder.find_spec(os.path.basename(top)) is None:
        return top
    return ""


def _sets_environment(node: ast.stmt) -> bool:
    """`os.environ["A"] = "b"` or `os.environ.setdefault("A", "b")`, with nothing to compute."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Subscript):
        values = [node.targets[0].slice, node.value]
        target = node.targets[0].value
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not node.value.keywords:
        values = node.value.args
        function = node.value.func
        if not isinstance(function, ast.Attribute) or function.attr != "setdefault":
            return False
        target = function.value
    else:
        return False
    return ast.unparse(target) == "os.environ" and all(isinstance(value, ast.Constant) for value in values)


def _has_no_effect(node: ast.stmt) -> bool:
    """Whether a statement only gives names to constants and functions, and so can run later or not at all."""
    if isinstance(node, ast.Pass):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return isinstance(node.value, ast.Constant) and all(isinstance(t, ast.Name) for t in targets)
    if isinstance(node, ast.FunctionDef):
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        return not node.decorator_list and all(isinstance(value, ast.Constant) for value in defaults)
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") and not node.orelse
    return False


# ---- The server -----------------------------------------------------------------------------


class Server:
    def __init__(self, script: str) -> None:
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("ARF_")}
        self.plan = Plan()
        self.plan.read(script)
        self._import()
        self._check_threads()
        self.places = Places()
        self.preamble = self._printed()
        self.files = self._changed_at()
        self.socket = socket.socket(fileno=SOCKET)

    def _import(self) -> None:
        namespace = {"__name__": "__warm__"}
        for statement in self.plan.statements:
            try:
                exec(compile(statement, "<imports>", "exec", dont_inherit=True), namespace)
            except BaseException as error:
                raise Unfit(f"`{statement}` fails: {type(error).__name__}: {error}") from error

    def _check_threads(self) -> None:
        """A fork copies one thread. Libraries that know end theirs before it: look after one."""
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise Unfit(f"what it imports runs {threads - 1} threads of its own")

    def _printed(self) -> bytes:
        """What the imports have printed, which a fresh process would print into each log."""
        sys.stdout.flush()
        sys.stderr.flush()
        with open("/proc/self/fd/1", "rb") as file:
            return file.read()

    def _changed_at(self) -> "dict[str, int | None]":
        """When the folders of installed packages, and loaded modules from elsewhere, were last changed."""
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        roots = tuple({sys.prefix, sys.base_prefix})
        outside = [file for file in files if file and file != HERE and not file.startswith(roots)]
        return {path: _mtime(path) for path in [*sys.path, *outside] if os.path.exists(path)}

    def serve(self) -> Job:
        """Answer requests. Returns a job, in the process that is to be it; ends with arf."""
        while True:
            data = self.socket.recv(1 << 20)
            if not data:
                os._exit(0)
            request: Job = json.loads(data)
            try:
                if self._fork(request):
                    return request
            except (Declined, OSError, SyntaxError, ValueError) as error:
                self.send({"id": request["id"], "declined": str(error)})

    def send(self, message: "dict[str, Any]", files: "Iterable[int]" = ()) -> None:
        socket.send_fds(self.socket, [json.dumps(message).encode()], files)

    def _fork(self, job: Job) -> bool:
        """Fork a wrapper for a job, and tell arf; True in the job itself, which the wrapper forks."""
        self._check(job)
        enter = _module(job["enter"]) if job["box"] else None
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            if self._arf_has_ended():
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                try:
                    self.socket.close()
                    _wrap(job, log, self.places, self.preamble, enter)
                except BaseException:
                    os._exit(1)  # no space for its record: nobody will know how it ends
                return True
        finally:
            os.close(log)
        try:
            watch = os.pidfd_open(pid)
        except ProcessLookupError:
            self.send({"id": job["id"], "pid": pid})  # it has ended already
        else:
            self.send({"id": job["id"], "pid": pid}, [watch])
            os.close(watch)
        return False

    def _arf_has_ended(self) -> bool:
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def _check(self, job: Job) -> None:
        """Raise Declined if a fresh process would not have the modules that are loaded here."""
        if any(_mtime(path) != time for path, time in self.files.items()):
            raise Declined("installed packages have changed")
        path = os.path.join(job["cwd"], job["script"])
        folder = os.path.dirname(os.path.realpath(path))
        loaded = {name.partition(".")[0] for name in sys.modules}
        for entry in os.scandir(folder):
            name, _, ending = entry.name.partition(".")
            if name in loaded and (
                ending in ("py", "pyc")
                or ending.endswith("so")
                or os.path.isfile(entry.path + "/__init__.py")
            ):
                raise Declined(f"{entry.name} beside the script stands in for an installed module")
        plan = Plan()
        plan.read(os.path.realpath(path))
        if not self.plan.modules <= plan.modules or self.plan.settings != plan.settings:
            raise Declined("it imports other modules")


def _mtime(path: str) -> "int | None":
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


class Places:
    """Where the kernel finds this process's command line and mark, so that `ps` and arf see the job's."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        self.arguments, self.arguments_end, start, end = (int(fields[i]) for i in (45, 46, 47, 48))
        at = b"\0" + ctypes.string_at(start, end - start)
        offset = at.find(f"\0{MARK}=".encode())
        if not self.arguments or offset < 0:
            raise Unfit("the kernel does not show where its environment is")
        self.mark = start + offset + len(MARK) + 1
        self.room = len(at[offset + 1 :].partition(b"\0")[0]) - len(MARK) - 1

    def write_mark(self, mark: str) -> None:
        ctypes.memmove(self.mark, mark.encode().ljust(self.room, b"\0"), self.room)

    def write_arguments(self, words: "Iterable[str]") -> None:
        room = self.arguments_end - self.arguments
        data = b"\0".join(os.fsencode(word) for word in words)[: room - 1]
        ctypes.memmove(self.arguments, data.ljust(room, b"\0"), room)


# ---- A job ----------------------------------------------------------------------------------


def _wrap(job: Job, log: int, places: Places, preamble: bytes, enter: Any) -> None:
    """Be the wrapper around a job, as job.sh is for a fresh process. Returns only in the job itself."""
    os.setsid()
    before = {number: signal.signal(number, lambda *_: None) for number in OUTLIVED}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.write(1, preamble)
    places.write_mark(job["mark"])
    places.write_arguments([sys.orig_argv[0], "-", f"arf:{job['mark']}"])
    record = os.open(job["record"], os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.write(record, f"pid {os.getpid()}\n".encode())
    if job["score"] is not None:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(job["score"]))
    code = _fork_job(job, enter)
    if code is not None:
        if code < 0 and -code not in (signal.SIGINT, signal.SIGPIPE):
            os.write(2, f"{signal.strsignal(-code)}\n".encode())  # as a shell says it
        os.write(record, f"exit {code}\n".encode())
        os._exit(0)
    os.close(record)
    for number, handler in before.items():
        signal.signal(number, handler)
    places.write_arguments([sys.orig_argv[0], job["script"], *job["args"]])


def _fork_job(job: Job, enter: Any) -> "int | None":
    """Fork the job, in its box if it has one: None in the job; in the caller, how it has ended."""
    if enter is None:
        pid = os.fork()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else None
    try:
        code: int | None = enter.enter(job["box"])
    except (enter.CannotEnter, OSError) as error:
        os.write(2, f"arf: the sandbox cannot be made: {error}\n".encode())
        code = enter.CANNOT
    return code


@functools.lru_cache(maxsize=1)
def _module(path: str) -> types.ModuleType:
    """The module at a path, which the script will not find loaded."""
    module = types.ModuleType("enter")
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec", dont_inherit=True), module.__dict__)
    return module


def _become(job: Job, env: "dict[str, str]", flags: "list[str]") -> "tuple[str, types.ModuleType]":
    """Make this process what a fresh one is before the script's first line; gives its path and `__main__`."""
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update({**env, **job["env"], MARK: job["mark"], "PWD": job["cwd"]})
    path = os.path.join(os.getcwd(), job["script"])
    sys.argv[:] = [job["script"], *job["args"]]
    sys.orig_argv[:] = [sys.orig_argv[0], *flags, *sys.argv]
    if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    importlib.invalidate_caches()
    _refresh_randomness()
    main = types.ModuleType("__main__")
    main.__dict__.clear()
    main.__dict__.update(FRESH_MAIN)
    main.__dict__.update(__doc__=None, __file__=path)
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    if "__annotations__" in FRESH_MAIN:
        main.__annotations__ = {}
    sys.modules["__main__"] = main
    return path, main


def _refresh_randomness() -> None:
    """What was drawn from the system at import is drawn anew. (`random` does so itself after a fork.)"""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        multiprocessing.current_process().authkey = os.urandom(32)


def _run(path: str, main: types.ModuleType) -> int:
    """Run the script to its end; gives a fresh process's exit code, and prints its traceback."""
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)
    except SystemExit as end:
        return _exit_code(end.code)
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        error.__traceback__ = trace
        sys.excepthook(type(error), error, trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, int):
        return value & 0xFF if -(2**63) <= value < 2**63 else 0xFF
    with contextlib.suppress(Exception):  # a script may have closed or replaced them
        sys.stdout.flush()
        print(value, file=sys.stderr)
    return 1


def _leave(code: int, folder: str) -> None:
    """End as the interpreter does, but leave the libraries' memory to the kernel: torch takes 0.4 s over it.

    Threads are joined, exit handlers run, what the script and the modules in its `folder` hold is destroyed,
    and no file is left unwritten.
    """
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    for name, module in list(sys.modules.items()):
        if name == "__main__" or (getattr(module, "__file__", None) or "").startswith(folder + os.sep):
            for key in [key for key in vars(module) if not key.startswith("__")]:
                vars(module)[key] = None
    gc.collect()
    for thing in gc.get_objects():
        if isinstance(thing, io.IOBase) and not thing.closed:
            with contextlib.suppress(Exception):  # somebody else's file object
                thing.flush()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:  # whatever a script has put there
            code = 120  # as the interpreter says that output was lost
    ctypes.CDLL(None).fflush(None)
    os._exit(code)


def main() -> None:
    keep = sys.modules["__main__"]  # noqa: F841 - this module's names live as long as this frame
    flags = sys.orig_argv[1 : sys.orig_argv.index(sys.argv[0])]
    if sys.path and sys.path[0] == os.path.dirname(HERE):
        del sys.path[0]
    try:
        server = Server(sys.argv[2])
    except (Unfit, OSError, SyntaxError, ValueError) as error:
        link = socket.socket(fileno=SOCKET)
        link.send(json.dumps({"unfit": str(error)}).encode())
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for wrappers: the kernel forgets them itself
    modules = {name.partition(".")[0] for name in server.plan.modules} - sys.stdlib_module_names
    server.send({"ready": time.monotonic(), "modules": sorted(modules) or ["the standard library"]})
    gc.freeze()  # what is loaded stays: a job's collector need not visit it, nor copy its pages
    job = server.serve()
    path, main = _become(job, server.env, flags)
    _leave(_run(path, main), os.path.dirname(os.path.realpath(path)))


main()
