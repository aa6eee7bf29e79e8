"""`arf plugins`: what is installed, what each offers, and why some are left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import attrs
import click

from arf.cli.new_plugin import new
from arf.errors import UsageError, nearest
from arf.hooks import Declaration
from arf.plugins.registry import PluginInfo, Plugins, PluginState
from arf.sdk.commands import json_option, print_json
from arf.sdk.formats import paint, table


class _ListOrNew(click.Group):
    """`new` is a command; anything else is what `arf plugins` is to show."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or not (args[0] in self.commands or args[0] in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListOrNew)
def plugins() -> None:
    """List what plugins offer, or show the options of NAME (`arf plugins NAME`), or write a new one.

    A name can be given to --strategy, --agent, --backend or --parser; its options to a configuration file, or
    to -o, such as `-o backend.slots=2`.
    """


plugins.add_command(new)


@plugins.command("list")
@click.argument("name", required=False)
@json_option
def list_plugins(name: str | None, as_json: bool) -> None:
    """List what plugins offer, or show the options of NAME. It is what `arf plugins` does by itself."""
    infos = Plugins.load().describe()
    if name is not None:
        infos = _named(infos, name)
    if as_json:
        print_json([_told(info, name) for info in infos])
    elif name is None:
        _print_table(infos)
    else:
        for info in infos:
            _print_one(info, name)


def _named(infos: list[PluginInfo], name: str) -> list[PluginInfo]:
    """The plugins of that name, or that offer something of that name."""
    found = [info for info in infos if info.name == name or any(name in d.names for _, d in _offers(info))]
    if not found:
        known = {info.name for info in infos} | {d.name for info in infos for _, d in _offers(info)}
        raise UsageError(f"there is no plugin {name!r}", hint=nearest(name, known))
    return found


def _offers(info: PluginInfo) -> Iterator[tuple[str, Declaration]]:
    for kind, declarations in info.declarations.items():
        for declaration in declarations:
            yield kind, declaration


def _told(info: PluginInfo, name: str | None) -> dict[str, Any]:
    offers = [
        {
            "kind": kind,
            "name": declaration.name,
            "summary": declaration.summary,
            "extra": declaration.extra,
            "options": list(_options(declaration.options)),
        }
        for kind, declaration in _offers(info)
        if name in (None, info.name, *declaration.names)
    ]
    return {
        "plugin": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "state": str(info.state),
        "reason": info.reason,
        "hooks": list(info.hooks),
        "offers": offers,
    }


def _print_table(infos: list[PluginInfo]) -> None:
    rows = []
    for info in infos:
        source = f"{info.distribution} {info.version}".strip()
        offers = [[kind, d.name, source, d.summary] for kind, d in _offers(info)]
        if info.state is PluginState.OK:
            rows += offers or [["events", info.name, source, "watches studies"]]
    kinds = ["strategy", "agent", "backend", "parser", "accept", "claim", "command", "events"]
    rows.sort(key=lambda row: (kinds.index(row[0]), row[1]))
    click.echo(table(["kind", "name", "from", "what it is"], rows))
    left_out = [info for info in infos if info.state is not PluginState.OK]
    if left_out:
        click.echo()
        rows = [[str(i.state), i.name, f"{i.distribution} {i.version}".strip(), i.reason] for i in left_out]
        click.echo(table(["left out", "plugin", "from", "why"], rows))


def _print_one(info: PluginInfo, name: str) -> None:
    if info.state is not PluginState.OK:
        click.echo(f"plugin {info.origin}: {info.state}: {info.reason}")
        return
    for kind, declaration in _offers(info):
        if name not in (info.name, *declaration.names):
            continue
        click.echo(f"{kind} {paint(declaration.name, bold=True)}: {declaration.summary}")
        click.echo(f"  plugin {info.origin}; implementation {declaration.path}")
        if declaration.extra:
            click.echo(f"  needs: pip install '{declaration.extra}'")
        options = list(_options(declaration.options))
        if not options:
            click.echo("  no options")
        for option in options:
            click.echo(
                f"\n  {kind}.{option['name']}  ({option['type']}; default {json.dumps(option['default'])})"
            )
            if option["help"]:
                click.echo(click.wrap_text(option["help"], 96, "      ", "      "))
    events = [hook for hook in info.hooks if not hook.startswith("arf_register_")]
    if events:
        click.echo(f"plugin {info.origin} watches: {', '.join(events)}")


def _options(cls: type | None) -> Iterator[dict[str, Any]]:
    if cls is None:
        return
    hints = get_type_hints(cls)
    for option in attrs.fields(cls):
        if option.init:
            default = option.default
            if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
                default = default.factory() if not default.takes_self else "computed"
            yield {
                "name": option.name,
                "type": _type_text(hints.get(option.name)),
                "default": _plain(default),
                "help": str(option.metadata.get("help", "")),
            }


def _plain(value: Any) -> Any:
    """A default as JSON and YAML have it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


def _type_text(hint: Any) -> str:
    """A type as people write it."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (list, tuple) or (origin is not None and getattr(origin, "__name__", "") == "Sequence"):
        return f"list of {_type_text(args[0])}" if args else "list"
    if getattr(origin, "__name__", "") in ("Mapping", "dict"):
        return f"keys with a {_type_text(args[1])}"
    if args and all(isinstance(arg, str) for arg in args):
        return " | ".join(args)
    if args:
        return " or ".join(_type_text(arg) for arg in args)
    return str(getattr(hint, "__name__", hint))
