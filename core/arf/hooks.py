"""The door for plugins: what they can register, and what they can watch.

A plugin is a module or an object with functions marked `@hookimpl`, named by an entry point in the group
`arf`. Registering hooks return declarations, which are light; the implementation is imported when a
study names it. Events observe and never veto: what they raise is logged and dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pluggy
from attrs import field, frozen

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from arf.study import Study
    from arf.types import Ask, Experiment, Reading, Usage

PROJECT = "arf"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Kind = Literal["agent", "backend", "strategy", "parser", "accept", "claim", "command"]


@frozen(kw_only=True)
class Declaration:
    """One thing that a plugin offers, without importing it."""

    name: str
    """What users write; lower case with dashes."""
    implementation: str | type | click.Command
    """The class itself, or `package.module:Class`, which is imported when it is used; for a command, a click
    command. Name what imports heavy libraries: a plugin's module is imported whenever arf starts.
    """
    summary: str = field()
    """One line for `arf plugins`; by default the first line of the docstring of a class or command."""
    options: type | None = field()
    """An attrs class with a default for each field; the user's configuration is structured into it.

    By default `Options` of a class, if it has one. A field's `metadata["help"]` is its documentation.
    """
    extra: str = ""
    """The pip requirement that brings what it needs, such as `arf-research[slurm]`; empty if nothing."""
    aliases: tuple[str, ...] = ()
    """Names that it had before: configurations and studies that use them still work."""

    @summary.default
    def _first_line(self) -> str:
        if isinstance(self.implementation, str):
            return ""
        text = self.implementation.__doc__
        if not isinstance(self.implementation, type):
            text = self.implementation.help
        return (text or "").strip().partition("\n")[0].rstrip(".")

    @options.default
    def _own_options(self) -> type | None:
        return None if isinstance(self.implementation, str) else getattr(self.implementation, "Options", None)

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)

    @property
    def path(self) -> str:
        """`package.module:Name` of the implementation, given or not."""
        what = self.implementation
        if isinstance(what, str):
            return what
        if not isinstance(what, type):
            what = getattr(what, "callback", None) or type(what)
        return f"{what.__module__}:{what.__qualname__}"


# What follows is only declared: pluggy calls the plugins' functions and never these. Their bodies are there
# for the type checker.


@hookspec
def arf_register_agents() -> Sequence[Declaration]:
    """Called once at start-up. Return the declarations of agents (`arf.interfaces.Agent`).

    Must be fast and import nothing heavy. If it raises, the whole plugin is left out and named.
    """
    raise NotImplementedError


@hookspec
def arf_register_backends() -> Sequence[Declaration]:
    """Called once at start-up. Return the declarations of backends (`arf.interfaces.Backend`).

    Must be fast and import nothing heavy. If it raises, the whole plugin is left out and named.
    """
    raise NotImplementedError


@hookspec
def arf_register_strategies() -> Sequence[Declaration]:
    """Called once at start-up. Return the declarations of strategies (`arf.interfaces.Strategy`).

    Must be fast and import nothing heavy. If it raises, the whole plugin is left out and named.
    """
    raise NotImplementedError


@hookspec
def arf_register_metric_parsers() -> Sequence[Declaration]:
    """Called once at start-up. Return the declarations of parsers (`arf.interfaces.MetricParser`).

    Must be fast and import nothing heavy. If it raises, the whole plugin is left out and named.
    """
    raise NotImplementedError


@hookspec
def arf_register_accept_rules() -> Sequence[Declaration]:
    """Called once at start-up. Return the declarations of rules of acceptance (`arf.interfaces.AcceptRule`).

    Must be fast and import nothing heavy. If it raises, the whole plugin is left out and named.
    """
    raise NotImplementedError


@hookspec
def arf_register_claim_rules() -> Sequence[Declaration]:
    """Called once at start-up. Return the declarations of rules of claims (`arf.interfaces.ClaimRule`).

    Must be fast and import nothing heavy. If it raises, the whole plugin is left out and named.
    """
    raise NotImplementedError


@hookspec
def arf_register_commands() -> Sequence[Declaration]:
    """Called once at start-up. Return declarations whose implementations are click commands of `arf`.

    Must be fast and import nothing heavy. If it raises, the whole plugin is left out and named.
    """
    raise NotImplementedError


@hookspec
def arf_study_started(study: Study, directory: Path, resumed: bool) -> None:
    """A study began, or went on after an end (`resumed`). `directory` holds its files.

    `study` is a read-only view that stays true while the study runs. What this raises is logged and dropped.
    """


@hookspec
def arf_experiment_changed(study: Study, experiment: Experiment) -> None:
    """An experiment was accepted, started, ended or judged: already written, and not yet acted on.

    Called on the engine's thread between two experiments: be quick. What this raises is logged and dropped.
    """


@hookspec
def arf_reading(study: Study, experiment: Experiment, reading: Reading) -> None:
    """A metric value appeared in the log of a running experiment (about once a second, in batches).

    Be quick. What this raises is logged and dropped.
    """


@hookspec
def arf_ask_opened(study: Study, number: int, ask: Ask) -> None:
    """The agent was asked: already written. `number` names the ask in the study.

    Called on the engine's thread: be quick. What this raises is logged and dropped.
    """


@hookspec
def arf_ask_closed(study: Study, number: int, ask: Ask, usage: Usage, note: str) -> None:
    """The agent answered, or will not: already written, with its ideas in `study.ideas`.

    `usage` is what it cost; `note` what the agent said of it, or why there is no answer. Called on the
    engine's thread: be quick. What this raises is logged and dropped.
    """


@hookspec
def arf_study_finished(study: Study, directory: Path, summary: Mapping[str, Any]) -> Sequence[Path] | None:
    """A study ended: all is written, no job runs. `summary` is what `arf status --json` shows.

    May take its time, such as to draw plots. Return the files that people should be shown, or None. What this
    raises is logged and dropped.
    """
    raise NotImplementedError
