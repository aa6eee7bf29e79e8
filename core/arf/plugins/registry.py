"""Who can do what: finds plugins, keeps out the broken ones, and makes what a study names.

A plugin registers declarations, which are light; its implementation is imported when somebody names it.
Nothing that a plugin does here is fatal: one that fails is left out whole, and `describe` says why.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import attrs
import pluggy

from arf import hooks
from arf.errors import ArfError, PluginError, UsageError, nearest
from arf.hooks import PROJECT, Declaration, Kind
from arf.plugins.entry_points import EntryPoint, entry_points

if TYPE_CHECKING:
    from pathlib import Path

    import click
    from pluggy import HookImpl

    from arf.interfaces import AcceptRule, Agent, Backend, ClaimRule, MetricParser, Strategy
    from arf.study import Study
    from arf.types import Ask, Experiment, Reading, Usage

GROUP = "arf"
"""The entry point group in which plugins are found."""

DISABLE = "ARF_DISABLE_PLUGINS"
TRACE = "ARF_TRACE_HOOKS"

REGISTER: Mapping[str, Kind] = MappingProxyType(
    {
        "arf_register_agents": "agent",
        "arf_register_backends": "backend",
        "arf_register_strategies": "strategy",
        "arf_register_metric_parsers": "parser",
        "arf_register_accept_rules": "accept",
        "arf_register_claim_rules": "claim",
        "arf_register_commands": "command",
    }
)
"""The registering hooks and what each registers. Every other hook is an event."""

SLOW_S = 1.0
"""An event that takes longer is named: the engine waits for it."""
UNHURRIED = frozenset({"arf_study_started", "arf_study_finished"})
"""Events in which nothing waits."""

HOOKS = frozenset(name for name in vars(hooks) if name.startswith("arf_"))
KINDS: tuple[Kind, ...] = get_args(Kind)

_INTERFACES: Mapping[str, str] = {
    "agent": "Agent",
    "backend": "Backend",
    "strategy": "Strategy",
    "parser": "MetricParser",
    "accept": "AcceptRule",
    "claim": "ClaimRule",
}
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_IMPLEMENTATION = re.compile(f"({_DOTTED}):({_DOTTED})")


class PluginState(StrEnum):
    OK = "ok"
    DISABLED = "disabled"
    """By the user; it was not even imported."""
    BROKEN = "broken"
    """Left out whole; `reason` says why."""


@attrs.frozen(kw_only=True)
class PluginInfo:
    """A plugin that was found, whatever became of it."""

    name: str
    distribution: str = ""
    """Where it comes from, as pip names it; empty if it was registered by hand."""
    version: str = ""
    state: PluginState = PluginState.OK
    reason: str = ""
    """Why it is not ok, in one line."""
    declarations: Mapping[Kind, tuple[Declaration, ...]] = attrs.field(factory=dict)
    """What it offers; empty unless it is ok."""
    hooks: tuple[str, ...] = ()
    """The hooks that it implements; empty unless it is ok."""

    @property
    def origin(self) -> str:
        """The plugin with its distribution and version, for messages."""
        if not self.distribution:
            return self.name
        return f"{self.name} (of {self.distribution} {self.version})"


class Plugins:
    """The plugins of a process, and what they offer by kind and name."""

    def __init__(self, *, own_commands: Collection[str] = ()) -> None:
        """`own_commands` are the names of arf's commands, which no plugin can take."""
        self._own_commands = frozenset(own_commands)
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hooks)
        self._infos: dict[str, PluginInfo] = {}
        self._offers: dict[tuple[str, str], tuple[Declaration, PluginInfo]] = {}
        self._trace = os.environ.get(TRACE, "") not in ("", "0")
        self.events = Events(self)

    @classmethod
    def load(cls, disable: Collection[str] = (), *, own_commands: Collection[str] = ()) -> Plugins:
        """Every installed plugin but the disabled ones: those in `disable` and in ARF_DISABLE_PLUGINS.

        The order is stable: built-ins first, then by distribution and entry point. Raises UsageError for a
        name in `disable` that no plugin has; a plugin that fails is left out and named in `broken`.
        """
        self = cls(own_commands=own_commands)
        points = entry_points(GROUP)
        disabled = _disabled(disable, {point.name for point in points})
        for point in points:
            self._admit(point, disabled=point.name in disabled)
        return self

    def register(self, plugin: object, name: str, *, distribution: str = "", version: str = "") -> None:
        """Add a module or an object with hooks, for tests and embedding. Raises if it is broken."""
        if name in self._infos:
            raise PluginError(f"a plugin named {name!r} is there already: {self._infos[name].origin}")
        self._add(plugin, PluginInfo(name=name, distribution=distribution, version=version))

    # ---- What there is ----------------------------------------------------------------------

    def names(self, kind: str) -> list[str]:
        """What users can name, sorted."""
        return sorted(
            offer.name
            for (known, name), (offer, _) in self._offers.items()
            if (known, offer.name) == (kind, name)
        )

    def declaration(self, kind: str, name: str) -> Declaration:
        """What was declared under a name. Raises UsageError with the nearest right name."""
        return self._offer(kind, name)[0]

    def provider(self, kind: str, name: str) -> PluginInfo:
        """The plugin that offers a name. Raises UsageError with the nearest right name."""
        return self._offer(kind, name)[1]

    def options(self, kind: str, name: str) -> type | None:
        """The attrs class of its options; None if it takes none. Raises UsageError for an unknown name."""
        return self.declaration(kind, name).options

    def describe(self) -> list[PluginInfo]:
        """Every plugin that was found, in the order in which they were loaded."""
        return list(self._infos.values())

    @property
    def broken(self) -> Mapping[str, str]:
        """The plugins that were left out because they are broken, and why."""
        return {info.name: info.reason for info in self.describe() if info.state is PluginState.BROKEN}

    def _offer(self, kind: str, name: str) -> tuple[Declaration, PluginInfo]:
        if (offer := self._offers.get((kind, name))) is not None:
            return offer
        disabled = [info.name for info in self.describe() if info.state is PluginState.DISABLED]
        parts = [
            nearest(name, self.names(kind)),
            *(
                f"the plugin {info.origin} is left out: {info.reason}"
                for info in self.describe()
                if info.name in self.broken
            ),
            f"disabled: {', '.join(disabled)}" if disabled else "",
        ]
        raise UsageError(f"there is no {kind} {name!r}", hint="; ".join(part for part in parts if part))

    # ---- Making things ----------------------------------------------------------------------

    @overload
    def make(self, kind: Literal["agent"], name: str, options: object = None) -> Agent: ...
    @overload
    def make(self, kind: Literal["backend"], name: str, options: object, directory: Path) -> Backend: ...
    @overload
    def make(self, kind: Literal["strategy"], name: str, options: object = None) -> Strategy: ...
    @overload
    def make(self, kind: Literal["parser"], name: str, options: object = None) -> MetricParser: ...
    @overload
    def make(self, kind: Literal["accept"], name: str, options: object = None) -> AcceptRule: ...
    @overload
    def make(self, kind: Literal["claim"], name: str, options: object = None) -> ClaimRule: ...

    def make(
        self, kind: Kind, name: str, options: object = None, directory: Path | None = None
    ) -> Agent | Backend | Strategy | MetricParser | AcceptRule | ClaimRule:
        """Import an implementation and make one. `options` None means its defaults.

        What is made is guarded (`arf.plugins.guards`). Raises UsageError for an unknown name or options that
        the plugin refuses, and PluginError, naming the plugin, if it lacks a dependency or is broken.
        """
        declaration, info = self._offer(kind, name)
        cls = self._implementation(kind, declaration, info)
        interface = getattr(importlib.import_module("arf.interfaces"), _INTERFACES[kind])
        if not (isinstance(cls, type) and issubclass(cls, interface)):
            raise _broken(kind, declaration, info, f"{declaration.path} is no {interface.__name__}")
        if missing := sorted(getattr(cls, "__abstractmethods__", ())):
            raise _broken(kind, declaration, info, f"it does not implement {', '.join(missing)}")
        with _blaming(kind, declaration, info), self._traced("make", declaration.path):
            if options is None and declaration.options is not None:
                options = declaration.options()
            made = cls(options) if directory is None else cls(options, directory)
        guard: Any = importlib.import_module("arf.plugins.guards").GUARDS[kind]
        return guard(made, functools.partial(self._blame, kind, declaration, info))  # type: ignore[no-any-return]

    def implementation(self, kind: Kind, name: str) -> type:
        """Import an implementation without making one. Raises UsageError and PluginError as `make` does."""
        declaration, info = self._offer(kind, name)
        found: type = self._implementation(kind, declaration, info)
        return found

    def command(self, name: str) -> click.Command:
        """Import a plugin's command. Raises UsageError and PluginError as `make` does."""
        import click

        declaration, info = self._offer("command", name)
        command = self._implementation("command", declaration, info)
        if not isinstance(command, click.Command):
            raise _broken("command", declaration, info, f"{declaration.path} is no click command")
        return command

    def _blame(
        self, kind: Kind, declaration: Declaration, info: PluginInfo, reason: str, cause: BaseException | None
    ) -> PluginError:
        """What a guard raises for something that it has made."""
        if self._trace and cause is not None:
            _print_traceback(cause)
        return _broken(kind, declaration, info, reason)

    def _implementation(self, kind: Kind, declaration: Declaration, info: PluginInfo) -> Any:
        with _blaming(kind, declaration, info), self._traced("import", declaration.path):
            wanted = declaration.implementation
            return _resolve(wanted) if isinstance(wanted, str) else wanted

    # ---- Loading ----------------------------------------------------------------------------

    def _admit(self, point: EntryPoint, *, disabled: bool) -> None:
        """Load the plugin of an entry point, or note why not."""
        info = PluginInfo(name=point.name, distribution=point.distribution, version=point.version)
        if (first := self._infos.get(info.name)) is not None:
            # The name is all that a user has to disable one, so the second is listed with its distribution.
            info = attrs.evolve(info, name=f"{info.name}@{info.distribution}")
            reason = f"its entry point has the name of {first.origin}"
            self._infos[info.name] = attrs.evolve(info, state=PluginState.BROKEN, reason=reason)
            return
        if disabled:
            self._infos[info.name] = attrs.evolve(info, state=PluginState.DISABLED, reason="disabled")
            return
        try:
            with self._traced("load", info.name):
                plugin = _resolve(point.value)
            self._add(plugin, info)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # other people's code: whatever it does, arf goes on without it
            self._infos[info.name] = attrs.evolve(info, state=PluginState.BROKEN, reason=_one_line(error))

    def _add(self, plugin: object, info: PluginInfo) -> None:
        """Check a plugin and take it in, all of it or nothing. Raises whatever is wrong with it."""
        try:
            with _stdout_to_stderr():
                try:
                    self._manager.register(plugin, info.name)
                except pluggy.PluginValidationError as error:
                    raise PluginError(_validation(str(error))) from error
                impls = self._impls(plugin)
                declarations = {
                    kind: self._declared(hook, impls[hook])
                    for hook, kind in REGISTER.items()
                    if hook in impls
                }
            info = attrs.evolve(info, declarations=declarations, hooks=tuple(sorted(impls)))
            self._check_unique(info)
        except BaseException:
            if self._manager.get_plugin(info.name) is not None:
                self._manager.unregister(name=info.name)
            raise
        self._infos[info.name] = info
        for kind, offered in declarations.items():
            for declaration in offered:
                for name in declaration.names:
                    self._offers[kind, name] = declaration, info

    def _impls(self, plugin: object) -> dict[str, HookImpl]:
        """A plugin's hooks by name. Raises PluginError for those that would not be called as meant."""
        impls: dict[str, HookImpl] = {}
        for name, caller in vars(self._manager.hook).items():
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin:
                    impls[name] = impl
        for name, impl in impls.items():
            if name not in HOOKS:
                if not impl.optionalhook:
                    raise PluginError(f"arf has no hook {name}", hint=nearest(name, HOOKS))
            elif impl.hookwrapper or impl.wrapper:
                raise PluginError(f"{name} is a hook wrapper, and arf's hooks cannot be wrapped")
            elif inspect.iscoroutinefunction(impl.function):
                raise PluginError(f"{name} is a coroutine function, and arf's hooks are plain functions")
        for name in HOOKS - impls.keys():
            if callable(getattr(plugin, name, None)):
                raise PluginError(f"{name} is not marked", hint="put `@hookimpl` of arf.hooks above it")
        if not impls:
            raise PluginError("it implements no hook of arf", hint="mark its functions with `@hookimpl`")
        return {name: impl for name, impl in impls.items() if name in HOOKS}

    def _declared(self, hook: str, impl: HookImpl) -> tuple[Declaration, ...]:
        """What a registering hook returns, checked."""
        result = self._call(hook, impl, {})
        if not isinstance(result, Sequence) or isinstance(result, str):
            raise PluginError(f"{hook} returned {_a(result)} where a list of declarations is wanted")
        seen: set[str] = set()
        for declaration in result:
            if not isinstance(declaration, Declaration):
                raise PluginError(f"{hook} returned {_a(declaration)} among its declarations")
            if (wrong := _malformed(declaration)) is not None:
                raise PluginError(f"{hook} declares {declaration.name!r}: {wrong}")
            for name in declaration.names:
                if name in seen:
                    raise PluginError(f"{hook} declares {name!r} twice")
                seen.add(name)
        return tuple(result)

    def _check_unique(self, info: PluginInfo) -> None:
        offers = [(k, name) for k, ds in info.declarations.items() for d in ds for name in d.names]
        for kind, name in offers:
            if kind == "command" and name in self._own_commands:
                raise PluginError(f"{info.origin} offers the command {name!r}, which is arf's own")
            if (taken := self._offers.get((kind, name))) is not None:
                raise PluginError(
                    f"{info.origin} offers the {kind} {name!r}, which {taken[1].origin} has",
                    hint=f"to use it, disable the other: {DISABLE}={taken[1].name}",
                )

    # ---- Calling hooks ----------------------------------------------------------------------

    def _call(self, hook: str, impl: HookImpl, arguments: Mapping[str, object]) -> Any:
        """Call one plugin's hook.

        pluggy's own call and its monitoring take all plugins together: what the first raises keeps the
        others from being called, and a duration is the sum.
        """
        with self._traced(hook, impl.plugin_name):
            return impl.function(*[arguments[name] for name in impl.argnames])

    @contextlib.contextmanager
    def _traced(self, what: str, whom: str) -> Iterator[None]:
        if not self._trace:
            yield
            return
        started = time.perf_counter()
        try:
            yield
        except BaseException as error:
            _print_traceback(error)
            raise
        finally:
            took_ms = (time.perf_counter() - started) * 1000
            print(f"arf: hook: {what} {whom} {took_ms:.2f} ms", file=sys.stderr, flush=True)


class Events:
    """Tells plugins what happens. What one raises is logged and dropped, and the others are still told."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._warned: set[tuple[str, ...]] = set()

    def arf_study_started(self, *, study: Study, directory: Path, resumed: bool) -> None:
        self._tell("arf_study_started", {"study": study, "directory": directory, "resumed": resumed})

    def arf_experiment_changed(self, *, study: Study, experiment: Experiment) -> None:
        self._tell("arf_experiment_changed", {"study": study, "experiment": experiment})

    def arf_reading(self, *, study: Study, experiment: Experiment, reading: Reading) -> None:
        self._tell("arf_reading", {"study": study, "experiment": experiment, "reading": reading})

    def arf_ask_opened(self, *, study: Study, number: int, ask: Ask) -> None:
        self._tell("arf_ask_opened", {"study": study, "number": number, "ask": ask})

    def arf_ask_closed(self, *, study: Study, number: int, ask: Ask, usage: Usage, note: str) -> None:
        arguments = {"study": study, "number": number, "ask": ask, "usage": usage, "note": note}
        self._tell("arf_ask_closed", arguments)

    def arf_study_finished(self, *, study: Study, directory: Path, summary: Mapping[str, Any]) -> list[str]:
        """Gives the paths that the plugins have written."""
        given = self._tell("arf_study_finished", {"study": study, "directory": directory, "summary": summary})
        return [str(path) for paths in given if isinstance(paths, list | tuple) for path in paths]

    def _tell(self, hook: str, arguments: Mapping[str, object]) -> list[object]:
        """What each plugin returned, but for those that failed."""
        told: list[object] = []
        impls = getattr(self._plugins._manager.hook, hook).get_hookimpls()
        for impl in reversed(impls):  # pluggy's order of calls
            began = time.monotonic()
            try:
                with _stdout_to_stderr():
                    given = self._plugins._call(hook, impl, arguments)
                if inspect.iscoroutine(given):
                    given.close()
                    raise PluginError("it gave a coroutine, and arf's hooks are plain functions")
                told.append(given)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # an event observes: nothing that it does may end a study
                self._log(hook, impl.plugin_name, error)
            if (took_s := time.monotonic() - began) > SLOW_S and hook not in UNHURRIED:
                self._name_slow(hook, impl.plugin_name, took_s)
        return told

    def _name_slow(self, hook: str, plugin: str, took_s: float) -> None:
        """Once for each hook of a plugin."""
        if (hook, plugin, "slow") not in self._warned:
            self._warned.add((hook, plugin, "slow"))
            origin = self._plugins._infos[plugin].origin
            logging.getLogger(__name__).warning(
                "plugin %s: %s took %.1f s, and the study stood still meanwhile", origin, hook, took_s
            )

    def _log(self, hook: str, plugin: str, error: BaseException) -> None:
        """A warning the first time; an event may come thousands of times."""
        first = (hook, plugin) not in self._warned
        self._warned.add((hook, plugin))
        level = logging.WARNING if first else logging.DEBUG
        log = logging.getLogger(__name__)
        origin = self._plugins._infos[plugin].origin
        log.log(level, "plugin %s: %s: %s", origin, hook, _one_line(error), exc_info=None if first else error)
        if first:
            log.debug("plugin %s: %s", plugin, hook, exc_info=error)


# ---- Checks and messages --------------------------------------------------------------------


def _disabled(disable: Collection[str], known: Collection[str]) -> set[str]:
    wanted = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    for names, where in ((wanted, f"{DISABLE}: "), (set(disable), "")):
        for name in sorted(names):
            if name not in known:
                raise UsageError(f"{where}there is no plugin {name!r} to disable", hint=nearest(name, known))
    return wanted | set(disable)


def _malformed(declaration: Declaration) -> str | None:
    """What is wrong with a declaration; None if nothing is."""
    if not isinstance(declaration.aliases, tuple):
        return f"its aliases are {_a(declaration.aliases)}, not a tuple"
    for attribute in ("name", "summary", "extra"):
        value = getattr(declaration, attribute)
        if not isinstance(value, str):
            return f"its {attribute} is {_a(value)}, not a text"
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in declaration.names):
        return "a name is lower case letters and digits, with dashes between words"
    if not declaration.summary.strip() or len(declaration.summary.splitlines()) > 1:
        return "a summary is one line of text"
    wanted = declaration.implementation
    if isinstance(wanted, str) and not _IMPLEMENTATION.fullmatch(wanted):
        return f"its implementation {wanted!r} is not `package.module:Name`"
    return _malformed_options(declaration.options)


def _malformed_options(options: object) -> str | None:
    if options is None:
        return None
    if not (isinstance(options, type) and attrs.has(options)):
        return f"its options are {_a(options)}, not an attrs class"
    for field in attrs.fields(options):
        if field.init and field.default is attrs.NOTHING:
            return f"its option {field.name!r} has no default"
    return None


@contextlib.contextmanager
def _blaming(kind: Kind, declaration: Declaration, info: PluginInfo) -> Iterator[None]:
    """Turns what a plugin's code raises into an error that names the plugin, and the extra that it lacks."""
    try:
        with _stdout_to_stderr():
            yield
    except (ArfError, KeyboardInterrupt):
        raise
    except ImportError as error:
        package = re.split("[.:]", declaration.path)[0]
        own = (error.name or "").partition(".")[0] == package
        if not declaration.extra or own:
            raise _broken(kind, declaration, info, _one_line(error)) from error
        raise PluginError(
            f"the {kind} {declaration.name!r} lacks what it needs: {_one_line(error)}",
            hint=f"install it with: pip install '{declaration.extra}'",
        ) from error
    except BaseException as error:  # other people's code
        raise _broken(kind, declaration, info, _one_line(error)) from error


def _broken(kind: Kind, declaration: Declaration, info: PluginInfo, reason: str) -> PluginError:
    return PluginError(
        f"the {kind} {declaration.name!r} of the plugin {info.origin} is broken: {reason}",
        hint=f"tell its author, or name another {kind}",
    )


def _resolve(path: str) -> Any:
    """The module, or what is in it: `package.module` or `package.module:attribute`."""
    module, _, attribute = path.partition(":")
    with _stdout_to_stderr():
        found: Any = importlib.import_module(module)
    for name in attribute.split(".") if attribute else ():
        if not hasattr(found, name):
            raise AttributeError(f"{module} has no {attribute}")
        found = getattr(found, name)
    return found


def _print_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error, file=sys.stderr)


def _stdout_to_stderr() -> contextlib.AbstractContextManager[Any]:
    """Standard output is for arf's data, so what a plugin prints must not get into it."""
    return contextlib.redirect_stdout(sys.stderr)


def _validation(message: str) -> str:
    """pluggy's several lines in one, without the plugin's name and the function's address."""
    text = " ".join(message.split())
    argument = re.search(r"hook '(\w+)'.*?Argument\(s\) (\{.*?\}) are declared", text)
    if argument is None:
        return text
    return f"{argument[1]} has arguments that the hook does not give: {argument[2].strip('{}')}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ArfError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _a(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
