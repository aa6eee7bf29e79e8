"""Reads ideas from a folder of patches or from a file with a list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from attrs import evolve

from arf.errors import UsageError, nearest
from arf.sdk.scripts import parse_patch
from arf.types import Draft, Edit, Scalar

_PATCHES = (".patch", ".diff")
_LISTS = (".yaml", ".yml", ".json", ".jsonl", ".ndjson")
_KEYS = ("title", "reason", "constants", "edits", "patch", "expected")
_CHANGES = ("constants", "edits", "patch")


def read_ideas(path: Path) -> list[Draft]:
    """The ideas in order, each with a title of its own. Raises UsageError, which names file and entry."""
    if path.is_dir():
        drafts = list(_from_folder(path))
    elif path.suffix.lower() in _PATCHES:
        drafts = [_from_patch(_text(path), path)]
    elif path.suffix.lower() in _LISTS:
        drafts = [_draft(entry, where) for entry, where in _entries(path)]
    else:
        known = ", ".join((*_LISTS, *_PATCHES))
        raise UsageError(f"{path}: ideas are read from a folder of patches or a file in {known}")
    if not drafts:
        raise UsageError(f"{path} has no ideas")
    return _with_titles_of_their_own(drafts)


def _with_titles_of_their_own(drafts: list[Draft]) -> list[Draft]:
    """A resumed study knows by their titles what has been used."""
    seen: dict[str, int] = {}
    own = []
    for draft in drafts:
        seen[draft.title] = seen.get(draft.title, 0) + 1
        count = seen[draft.title]
        own.append(draft if count == 1 else evolve(draft, title=f"{draft.title} ({count})"))
    return own


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: it is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


# ---------------------------------------------------------------------------------------------- patches


def _from_folder(folder: Path) -> Iterator[Draft]:
    files = sorted(
        (
            file
            for file in folder.iterdir()
            if file.suffix.lower() in _PATCHES and file.is_file() and not file.name.startswith(".")
        ),
        key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)],
    )
    if not files:
        raise UsageError(f"{folder} has no *.patch or *.diff files")
    for file in files:
        yield _from_patch(_text(file), file)


def _from_patch(text: str, path: Path) -> Draft:
    try:
        parse_patch(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from None
    title, reason = _title_of(text)
    return Draft(title=title or path.stem, reason=reason, patch=text)


_DIFF = re.compile(r"^(?:diff |--- |Index: )", re.MULTILINE)
_SUBJECT = re.compile(r"^Subject:[ \t]*(.*(?:\r?\n[ \t]+\S.*)*)", re.MULTILINE | re.IGNORECASE)


def _title_of(patch: str) -> tuple[str, str]:
    """Title and reason by the lines before the diff: a mail's subject and text, or a comment."""
    start = _DIFF.search(patch)
    head = patch[: start.start()] if start else patch
    if subject := _SUBJECT.search(head):
        title = re.sub(r"^(?:\s*\[[^\]]*\])+", "", _line(_decoded(subject[1])))
        _, _, body = head[subject.end() :].partition("\n\n")
        return title.strip(), _line(body.partition("\n---")[0])
    comments = [line.lstrip("#").strip() for line in head.splitlines() if line.startswith("#")]
    said = [comment for comment in comments if comment]
    return (said[0], " ".join(said[1:])) if said else ("", "")


def _decoded(header: str) -> str:
    """A mail header's text: `=?UTF-8?q?...?=` is how git writes what is not ASCII."""
    from email.errors import HeaderParseError
    from email.header import decode_header, make_header

    try:
        return str(make_header(decode_header(header)))
    except (HeaderParseError, LookupError, UnicodeDecodeError):
        return header


def _line(text: str) -> str:
    return " ".join(text.split())


# ------------------------------------------------------------------------------------------------ lists


def _entries(path: Path) -> Iterator[tuple[Any, str]]:
    """Each entry, and what to call it in an error."""
    text = _text(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _json(line, f"{path}:{number}", first_line=None), f"{path}:{number}"
        return
    found = _json(text, str(path), first_line=1) if path.suffix.lower() == ".json" else _yaml(text, path)
    if isinstance(found, dict) and "ideas" in found:
        found = found["ideas"]
    if not isinstance(found, list):
        raise UsageError(f"{path}: expected a list of ideas, found {_described(found)}")
    for number, entry in enumerate(found, 1):
        title = entry.get("title") if isinstance(entry, dict) else None
        yield entry, f"{path}: idea {number}" + (f" ({_line(title)!r})" if isinstance(title, str) else "")


def _json(text: str, where: str, *, first_line: int | None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if first_line is None else f"{where}:{error.lineno}"
        raise UsageError(f"{place}: it is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise UsageError(f"{where}: it is nested too deeply") from None


def _yaml(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: it is not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: it is not YAML: {_line(str(error))}") from None


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-3` is a number, `off` and `no` are text."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if not pair[0].endswith((":bool", ":float", ":timestamp"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|false|True|False)\Z"), list("tfTF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)\Z"),
    list("-+.0123456789"),
)


def _draft(entry: Any, where: str) -> Draft:
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: expected an idea with a title and a change, found {_described(entry)}")
    for key in entry:
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {key!r}", hint=nearest(str(key), _KEYS))
    given = [key for key in _CHANGES if entry.get(key)]
    if len(given) != 1:
        what = " and ".join(given) or "none"
        raise UsageError(f"{where}: an idea has one of {', '.join(_CHANGES)}; this one has {what}")
    draft = Draft(
        title=_line(_string(entry, "title", where)),
        reason=_string(entry, "reason", where).strip(),
        constants=_constants(entry.get("constants"), where),
        edits=_edits(entry.get("edits"), where),
        patch=_string(entry, "patch", where),
        expected=_expected(entry.get("expected"), where),
    )
    if draft.patch:
        try:
            parse_patch(draft.patch)
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
    return draft if draft.title else evolve(draft, title=_made_up_title(draft))


def _made_up_title(draft: Draft) -> str:
    if draft.constants:
        return ", ".join(f"{name} = {value}" for name, value in draft.constants.items())
    if draft.edits:
        return f"edit of {', '.join(dict.fromkeys(edit.path for edit in draft.edits))}"
    files = dict.fromkeys(file.new or file.old or "" for file in parse_patch(draft.patch))
    return _title_of(draft.patch)[0] or f"patch of {', '.join(re.sub(r'^[ab]/', '', file) for file in files)}"


def _string(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if isinstance(value, dict | list):
        raise UsageError(f"{where}: {key}: expected text, found {_described(value)}")
    return value if isinstance(value, str) else str(value)


def _constants(value: Any, where: str) -> dict[str, Scalar]:
    if not value:
        return {}
    if not isinstance(value, dict):
        raise UsageError(
            f"{where}: constants: expected names with values, found {_described(value)}",
            hint="write it as {DEPTH: 6}",
        )
    for name, one in value.items():
        if not isinstance(name, str) or not isinstance(one, bool | int | float | str):
            raise UsageError(f"{where}: constants: {name}: expected a number, text, true or false")
    return dict(value)


def _edits(value: Any, where: str) -> tuple[Edit, ...]:
    if not value:
        return ()
    if not isinstance(value, list):
        raise UsageError(f"{where}: edits: expected a list, found {_described(value)}")
    edits = []
    for number, edit in enumerate(value, 1):
        keys = ("path", "old", "new")
        if not isinstance(edit, dict) or not all(isinstance(edit.get(key), str) for key in keys):
            raise UsageError(f"{where}: edit {number}: expected path, old and new, each a text")
        for key in edit:
            if key not in keys:
                raise UsageError(f"{where}: edit {number}: unknown key {key!r}", hint=nearest(str(key), keys))
        edits.append(Edit(path=edit["path"], old=edit["old"], new=edit["new"]))
    return tuple(edits)


def _expected(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where}: expected: expected the gain as a number, found {_described(value)}")
    return float(value)


def _described(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "keys with values"
        case list():
            return "a list"
        case _:
            return repr(value)[:60]
