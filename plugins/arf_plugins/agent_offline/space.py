"""The constants of a script as they are at one commit: what each may become, and what ties them together."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from pathlib import PurePosixPath

from attrs import evolve, frozen

from arf.errors import UsageError, nearest
from arf.sdk.scripts import Constant, constants
from arf.types import Draft, Edit, Scalar
from arf_plugins.agent_offline import hydra, names
from arf_plugins.agent_offline.scales import Scale, scale_of

Values = Mapping[str, Scalar]

_PART = re.compile(r"(?P<name>[\w.-]+)\[(?P<index>\d+)\]\Z")
_SEQUENCES = ("it is a tuple", "it is a list")
_LEAST = 8
"""Whole numbers below it are indices or strides in a list, as often as not."""
FIXED = "fixed"
_SHELL = (".sh", ".bash", ".slurm", ".sbatch")
"""Scripts that give options to others: what they give is moved there."""
_PART_TITLE = re.compile(r"(?P<part>[\w.-]+\[\d+\]) \S+ -> (?P<new>\S+)\Z")


@frozen(kw_only=True)
class Space:
    """What may be moved at a base. A number in a tuple goes by `NAME[0]`."""

    values: Values
    """Every constant's value, the ones that stay as well."""
    scales: Mapping[str, Scale]
    """Of those that may move, the ones that are likely to matter most first."""
    moves: tuple[tuple[str, Scalar], ...]
    """Every value that one of them may take while the others stay, in the order of the scales."""
    files: Mapping[str, str]
    home: Mapping[str, tuple[str, Constant]]
    """The file and the constant itself, by the name of the constant."""
    ties: tuple[tuple[str, str], ...]
    """Pairs of constants of which the first is a multiple of the second."""
    unknown: tuple[str, ...]
    """Constants that stay only because nothing says how they may move."""
    shared: Mapping[str, tuple[str, str]]
    """Two of the files of each name that stays because several files have it."""
    given: tuple[str, ...]
    """Constants that stay because the command that runs the script gives them."""
    stays: Mapping[str, str]
    """Why each of the others stays, for people."""

    def allows(self, change: Values) -> bool:
        """Whether the script may take a change, as far as its annotations and what ties it say."""
        by_file: dict[str, dict[str, Scalar]] = {}
        for name, value in change.items():
            part = _PART.match(name)
            if part is None:
                by_file.setdefault(self.home[name][0], {})[name] = value
        for path, some in by_file.items():
            try:
                constants.check(constants.read(self.files[path], path), some)
            except UsageError:
                return False
        for whole, divisor in self.ties:
            if whole in change or divisor in change:
                a, b = (change.get(name, self.values[name]) for name in (whole, divisor))
                if not isinstance(a, int) or not isinstance(b, int) or b == 0 or a % b:
                    return False
        return True

    def draft(self, change: Values, *, title: str, reason: str, expected: float | None) -> Draft:
        """A change as an idea. Numbers in tuples are changed one at a time, by an edit of their line."""
        part = _PART.match(next(iter(change)))
        if part is None:
            return Draft(title=title, reason=reason, constants=dict(change), expected=expected)
        (value,) = change.values()
        edit = self._edit(part["name"], int(part["index"]), value)
        return Draft(title=title, reason=reason, edits=(edit,), expected=expected)

    def _edit(self, name: str, index: int, value: Scalar) -> Edit:
        path, constant = self.home[name]
        assert isinstance(constant.value, tuple)
        text = self.files[path]
        start, end = constant.span
        values = (value if k == index else old for k, old in enumerate(constant.value))
        new = repr(list(values) if text[start] == "[" else tuple(values))
        head = text.rfind("\n", 0, start) + 1
        return Edit(path=path, old=text[head:end], new=text[head:start] + new)

    def can_edit(self, name: str) -> bool:
        """Whether a tuple can be replaced: its line is there once."""
        path, constant = self.home[name]
        text = self.files[path]
        return text.count(text[text.rfind("\n", 0, constant.span[0]) + 1 : constant.span[1]]) == 1


def change_of(title: str, set_by_name: Values) -> Values:
    """The constants that an idea of this agent changes: by name, or a number in a tuple, by its title."""
    if set_by_name:
        return set_by_name
    part = _PART_TITLE.match(title)
    if part is None:
        return {}
    number = _number(part["new"])
    return {} if number is None else {part["part"]: number}


def _number(text: str) -> Scalar | None:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return None


def is_part(name: str) -> bool:
    """Whether a name is that of a number in a tuple."""
    return name.endswith("]")


_GIVEN = re.compile(r"(?<![\w-])--?([A-Za-z][\w.-]+)(?=[=\s]|\Z)|(?<![\w./-])([A-Za-z_][\w.]*)=")
"""`--lr 0.1`, `--lr=0.1`, `-lr 0.1`, `optim.lr=0.1`, `LR=0.1 python train.py`."""


def given_by(command: str | Sequence[str]) -> tuple[str, ...]:
    """The last words of the names that a command gives a value: their defaults do nothing."""
    text = command if isinstance(command, str) else " ".join(command)
    found = (option or name for option, name in _GIVEN.findall(text))
    return tuple(sorted({name.rpartition(".")[2].replace("-", "_") for name in found}))


def scripts_of(command: str | Sequence[str]) -> list[str]:
    """The shell scripts that a command names."""
    words = command.split() if isinstance(command, str) else command
    return [word.removeprefix("./") for word in words if word.endswith(_SHELL)]


def read_space(
    files: Mapping[str, str],
    only: Collection[str] = (),
    never: Collection[str] = (),
    given: Collection[str] = (),
    ranges: Mapping[str, str] | None = None,
) -> Space:
    """The space of some files. A name that two files share is left alone: an idea could not say which.

    `given` are the last words of names that stay unless `only` or `ranges` has them, or a shell script gives
    them. `ranges` has what single constants may become, in the words of their comments: `1..16`; `fixed`:
    nothing else.

    Raises UsageError where `only`, `never` or `ranges` names what is no constant of the files.
    """
    said = tuple(sorted((ranges or {}).items()))
    return _space_of(tuple(sorted(files.items())), tuple(only), tuple(never), tuple(given), said)


@lru_cache(maxsize=64)
def _space_of(
    files: tuple[tuple[str, str], ...],
    only: tuple[str, ...],
    never: tuple[str, ...],
    given: tuple[str, ...],
    ranges: tuple[tuple[str, str], ...],
) -> Space:
    never = (*never, *(name for name, text in ranges if text == FIXED))
    wished = {name: text for name, text in ranges if text != FIXED}
    home: dict[str, tuple[str, Constant]] = {}
    shared: dict[str, tuple[str, str]] = {}
    left_out = hydra.unused(dict(files))
    for path, text in files:
        if path in left_out:
            continue
        for constant in constants.read(text, path):
            if constant.name in home:
                shared[constant.name] = (home[constant.name][0], path)
            home[constant.name] = (path, constant)
    for option, named in (("only", only), ("never", never), ("space", wished)):
        for name in named:
            if _whole_name(name) not in home:
                raise UsageError(
                    f"agent.{option}: the editable files have no constant {name!r}", hint=nearest(name, home)
                )
    home = {name: place for name, place in home.items() if name not in shared}
    texts = dict(files)
    values, found = _parts(home)
    space = Space(
        values=values,
        scales={},
        moves=(),
        files=texts,
        home=home,
        ties=(),
        unknown=(),
        shared=_movable(shared),
        given=(),
        stays={},
    )
    scales, unknown, stay = {}, [], []
    why = {name: f"both {one} and {other} have it" for name, (one, other) in shared.items()}
    for constant in found:
        name, whole = constant.name, _whole_name(constant.name)
        if name in never or whole in never:
            why[name] = "the options say so"
            continue
        if constant.fixed or (is_part(name) and not space.can_edit(whole)):
            why[name] = constant.fixed or "its line is there twice"
            continue
        wanted = name in only or whole in only or whole in wished
        if only and not wanted:
            why[name] = "agent.only does not have it"
            continue
        path = home[whole][0]
        if whole in wished:
            constant = constants.annotated(constant, wished[whole])
        elif not wanted and names.is_aside(PurePosixPath(path).with_suffix("").as_posix()):
            why[name] = names.ASIDE
            continue
        scale = scale_of(constant, texts[path], values, wanted=wanted)
        if not wanted and whole.rpartition(".")[2] in given and not path.endswith(_SHELL):
            stay += [name] if scale is not None else []
            why[name] = "workspace.command gives it"
        elif scale is not None and scale.moves():
            scales[name] = scale
        else:
            why[name] = names.why_it_stays(name)
            unknown += [] if names.is_forbidden(name) or names.is_seed(name) else [name]
    ordered = dict(sorted(scales.items(), key=lambda item: -item[1].family.weight))
    space = evolve(
        space,
        scales=ordered,
        ties=tuple(_ties(values, texts)),
        unknown=tuple(unknown),
        given=tuple(stay),
        stays=why,
    )
    moves = [(name, value) for name, scale in ordered.items() for value in scale.moves()]
    return evolve(space, moves=tuple((name, value) for name, value in moves if space.allows({name: value})))


def _movable(shared: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Those that would be moved if one file alone had them."""
    return {
        name: paths
        for name, paths in shared.items()
        if names.family_of(name)
        and not (names.is_forbidden(name) or names.is_unsure(name) or names.is_seed(name))
    }


def _whole_name(name: str) -> str:
    part = _PART.match(name)
    return part["name"] if part else name


def _parts(home: Mapping[str, tuple[str, Constant]]) -> tuple[dict[str, Scalar], list[Constant]]:
    """All values, and all constants, with those that are tuples of numbers as one for each number."""
    values: dict[str, Scalar] = {}
    found: list[Constant] = []
    for name, (_, constant) in home.items():
        if not isinstance(constant.value, tuple):
            values[name] = constant.value
            found.append(constant)
        elif constant.fixed in _SEQUENCES and all(map(_is_movable, constant.value, repeat(constant.fixed))):
            for index, one in enumerate(constant.value):
                part = evolve(constant, name=f"{name}[{index}]", value=one, literal=repr(one), fixed="")
                values[part.name] = one
                found.append(part)
    return values, found


def _is_movable(one: Scalar, sequence: str) -> bool:
    """Whether a value in a tuple or a list is a number that may be moved."""
    return type(one) is float or (type(one) is int and (one >= _LEAST or sequence == _SEQUENCES[0]))


_DIVIDES = re.compile(r"\b([A-Z][A-Z0-9_]*)\s*%\s*([A-Z][A-Z0-9_]*)\s*==\s*0")
_MULTIPLE = re.compile(r"\b(?:multiples? of|divisible by)\s+([A-Z][A-Z0-9_]*)\b")


def _ties(values: Values, files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is a multiple of what: as the script asserts, or as names have it; only what holds now."""
    pairs = [pair for text in files.values() for pair in _DIVIDES.findall(text)]
    for line in (line for text in files.values() for line in text.splitlines()):
        said, name = _MULTIPLE.search(line), re.match(r"[\w \t:]*?([A-Z][A-Z0-9_]*)\b", line)
        if said and name:
            pairs.append((name[1], said[1]))
    heads = [name for name in values if names.is_heads(name)]
    pairs += [(width, head) for width in values if names.is_width(width) for head in heads]
    pairs += [(head, kv) for head in heads for kv in heads if "kv" in kv.lower() and head != kv]
    for whole, divisor in dict.fromkeys(pairs):
        a, b = values.get(whole), values.get(divisor)
        if type(a) is int and type(b) is int and b > 0 and a % b == 0:
            yield whole, divisor
