"""Finds the entry points of a group without `importlib.metadata`.

Importing that module costs 30 ms and parsing every distribution some more, a third of what `arf --help` may
take; listing the same folders and reading the one small file costs under 1 ms. Whatever is not a plain
folder of distributions (a zip file, a frozen application) is left to `importlib.metadata`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class EntryPoint:
    name: str
    value: str
    """`package.module` or `package.module:attribute`."""
    distribution: str
    """The name under which pip knows it."""
    version: str


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group: built-ins, then by distribution and name, so that the order is stable.

    A distribution that is on `sys.path` twice counts once: the first, as for imports.
    """
    custom = any(
        hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path
    )
    found: list[EntryPoint] = []
    for entry in dict.fromkeys(sys.path):
        path = entry or "."
        if os.path.isdir(path) and not custom:
            points = list(_from_folder(path, group))
        elif os.path.exists(path) or custom:
            points = list(_from_metadata(path, group))
        else:
            continue
        seen = {_normalised(point.distribution) for point in found}
        found += [point for point in points if _normalised(point.distribution) not in seen]
    return sorted(found, key=lambda point: (not _is_ours(point), point.distribution, point.name))


def _is_ours(point: EntryPoint) -> bool:
    return _normalised(point.distribution) == "arf-research"


def _normalised(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")


def _from_folder(folder: str, group: str) -> Iterator[EntryPoint]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return  # unreadable: imports skip it too
    for name in names:
        if not name.endswith((".dist-info", ".egg-info")):
            continue
        info = Path(folder, name)
        try:
            text = (info / "entry_points.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # most distributions have none, and an old .egg-info may be a file
        section = dict(_section(text, group))
        if section:
            distribution, version = _identity(info)
            for point, value in section.items():
                yield EntryPoint(name=point, value=value, distribution=distribution, version=version)


def _section(text: str, group: str) -> Iterator[tuple[str, str]]:
    """The `name = value` lines of one section of an `entry_points.txt`."""
    inside = False
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and line and not line.startswith(("#", ";")):
            name, equals, value = line.partition("=")
            if equals:
                yield name.strip(), value.partition("[")[0].strip()


def _identity(info: Path) -> tuple[str, str]:
    """A distribution's name and version, from its metadata or else from the folder's name."""
    name, _, version = info.stem.partition("-")
    for file in ("METADATA", "PKG-INFO"):
        try:
            lines = (info / file).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(":")
            if not line:
                break  # the description follows
            if key.lower() == "name":
                name = value.strip()
            elif key.lower() == "version":
                version = value.strip()
    return name, version


def _from_metadata(path: str, group: str) -> Iterator[EntryPoint]:
    from importlib.metadata import distributions

    for distribution in distributions(path=[path]):
        for point in distribution.entry_points:
            if point.group == group:
                yield EntryPoint(
                    name=point.name,
                    value=point.value.partition("[")[0].strip(),
                    distribution=distribution.metadata["Name"],
                    version=distribution.version,
                )
