"""The group of commands, imported one by one, and what becomes of their errors.

Exit codes: 0 done, 1 an error, 2 a request that cannot be, 130 interrupted. An error is one line on standard
error; with `--json` also one object on standard output.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from arf import __version__
from arf.errors import ArfError, UsageError, nearest

if TYPE_CHECKING:
    from arf.plugins.registry import Plugins

INTERRUPTED = 130


@frozen
class BuiltIn:
    """A command of arf's own, not yet imported."""

    target: str
    """`module:attribute` below `arf.cli`."""
    summary: str
    section: str


_RUN, _LOOK, _SET_UP = "Studies", "Results", "Set-up"

COMMANDS: Mapping[str, BuiltIn] = {
    "run": BuiltIn("run:run", "Start a study and run it to its end", _RUN),
    "resume": BuiltIn("run:resume", "Continue a study after any exit", _RUN),
    "claim": BuiltIn("claim:claim", "Measure what was found against the baseline now", _RUN),
    "stop": BuiltIn("stop:stop", "Stop a running study, or its jobs if arf has died", _RUN),
    "submit": BuiltIn("submissions:submit", "Queue experiments in a running study", _RUN),
    "wait": BuiltIn("submissions:wait", "Wait for submitted experiments to finish", _RUN),
    "cancel": BuiltIn("submissions:cancel", "Cancel submitted experiments", _RUN),
    "accept": BuiltIn("submissions:accept", "Accept a suspect result", _RUN),
    "reject": BuiltIn("submissions:reject", "Reject a suspect result for good", _RUN),
    "status": BuiltIn("status:status", "Show the progress of a study", _RUN),
    "list": BuiltIn("status:list_studies", "List the studies of the workspace", _RUN),
    "show": BuiltIn("experiments:show", "Show everything about one experiment", _LOOK),
    "log": BuiltIn("experiments:log", "Print an experiment's output", _LOOK),
    "diff": BuiltIn("experiments:diff", "Print what an experiment changed", _LOOK),
    "best": BuiltIn("experiments:best", "Show the best so far, or apply it to your files", _LOOK),
    "init": BuiltIn("init:init", "Create a workspace, or write an arf.yaml for a script", _SET_UP),
    "plugins": BuiltIn("plugins:plugins", "List plugins, show the options of one, or create one", _SET_UP),
    "doctor": BuiltIn("doctor:doctor", "Check that a study can run here", _SET_UP),
}


class Commands(click.Group):
    """Knows names and summaries; imports a command when it is called. Plugins come after the built-ins."""

    _plugins: Plugins | None = None
    author = ""
    """The plugin of somebody else's whose command was called; empty while none was."""

    @property
    def plugins(self) -> Plugins:
        if self._plugins is None:
            from arf.plugins.registry import Plugins

            self._plugins = Plugins.load()
        return self._plugins

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in self.plugins.names("command") if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (built_in := COMMANDS.get(cmd_name)) is not None:
            return _load(built_in.target)
        if cmd_name in self.plugins.names("command"):
            if not self._is_ours(cmd_name):
                self.author = self.plugins.provider("command", cmd_name).origin
            return self.plugins.command(cmd_name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            if name.startswith("-"):
                raise click.NoSuchOption(name, possibilities=["--help", "--version"], ctx=ctx)
            raise UsageError(f"there is no command {name!r}", hint=self._hint(name))
        return name, command, args[1:]

    def _hint(self, name: str) -> str:
        broken = ", ".join(self.plugins.broken)
        return nearest(name, self.list_commands(click.Context(self))) + (
            f" (plugins left out: {broken})" if broken else ""
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in COMMANDS.items():
            sections.setdefault(command.section, []).append((name, command.summary))
        for name in self.plugins.names("command"):
            if name not in COMMANDS:
                summary = self.plugins.declaration("command", name).summary
                sections.setdefault(_LOOK if self._is_ours(name) else "From plugins", []).append(
                    (name, summary)
                )
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def _is_ours(self, name: str) -> bool:
        return self.plugins.provider("command", name).distribution == "arf-research"


def _load(target: str) -> click.Command:
    from importlib import import_module

    module, _, attribute = target.partition(":")
    command: click.Command = getattr(import_module(f"arf.cli.{module}"), attribute)
    return command


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="`arf run` in a folder with a train.py starts a study; `arf COMMAND --help` says more.",
)
@click.version_option(__version__, "-V", "--version", message="arf %(version)s")
def arf() -> None:
    """Autonomous machine-learning research: agents propose, machines run, statistics decide."""


def run(arguments: Sequence[str]) -> int:
    """Run `arf` with these arguments; gives the exit code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A title may hold what the terminal's encoding has not; that must not end a study.
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = list(arguments) or ["--help"]
        result = arf.main(arguments, prog_name="arf", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (click.Abort, KeyboardInterrupt):
        print("arf: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # whoever read it has left
        return 1
    except (ArfError, click.ClickException, OSError) as error:
        return _tell(error, as_json=_wants_json(arguments))
    except Exception:
        _tell_bug(as_json=_wants_json(arguments))
        return 1


def _open_closed_streams() -> None:
    """Open what was closed (`arf run >&-`) on nothing, or files opened later would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _drop_output() -> None:
    """What is buffered for standard output must not fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wants_json(arguments: Sequence[str]) -> bool:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


def _tell(error: Exception, *, as_json: bool) -> int:
    """Report an expected error; gives its exit code."""
    message, hint, code = _parts(error)
    if as_json:
        _print_json({"event": "error", "error": message, "hint": hint, "exit_code": code})
    with contextlib.suppress(OSError):
        print(f"arf: error: {message}" + (f"; {hint}" if hint else ""), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return code


def _parts(error: Exception) -> tuple[str, str, int]:
    if isinstance(error, ArfError):
        return _one_line(error.message), _one_line(error.hint), error.exit_code
    if isinstance(error, click.ClickException):
        return *_click_parts(error), error.exit_code
    assert isinstance(error, OSError)
    if isinstance(error, FileNotFoundError) and _is_nowhere():
        return "the current folder is gone", "`cd` to one that is there", 1
    where = f"{error.filename}: " if error.filename else ""
    hint = "free some disk space, then try again" if error.errno == 28 else ""
    return f"{where}{error.strerror or error}", hint, 1


def _is_nowhere() -> bool:
    """Whether the current folder has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


_WITHOUT_COMMAND: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What click 8.2 raises where older ones print the help."""


def _click_parts(error: click.ClickException) -> tuple[str, str]:
    """What click says, as arf says it: no capital, no full stop, and the nearest right name as a hint."""
    ctx = getattr(error, "ctx", None)
    usage = f"see `{ctx.command_path} --help`" if ctx else "see `arf --help`"
    if isinstance(error, _WITHOUT_COMMAND):
        return f"name a command: {', '.join(ctx.command.list_commands(ctx))}" if ctx else "", usage
    if isinstance(error, click.NoSuchOption):
        known = [option for parameter in ctx.command.params for option in parameter.opts] if ctx else []
        known += ["--help"]
        close = nearest(error.option_name, known)
        return f"no such option: {error.option_name}", close if close.startswith("did you mean") else usage
    message = _one_line(error.format_message()).rstrip(".")
    return message[:1].lower() + message[1:], usage if isinstance(error, click.UsageError) else ""


def _tell_bug(*, as_json: bool) -> None:
    import traceback

    text = traceback.format_exc()
    if as_json:
        _print_json({"event": "error", "error": text.strip().splitlines()[-1], "hint": "", "exit_code": 1})
    print(text, file=sys.stderr, end="")
    group = arf
    assert isinstance(group, Commands)
    whose = f"the plugin {group.author}" if group.author else f"arf {__version__}"
    print(
        f"arf: a bug in {whose}: please report it with the lines above. What is recorded is safe.",
        file=sys.stderr,
    )


def _print_json(data: Mapping[str, Any]) -> None:
    import json

    try:
        print(json.dumps(data, ensure_ascii=False), flush=True)
    except OSError:
        _drop_output()


def _one_line(text: str) -> str:
    return " ".join(text.split())
