"""Turns what a model says into drafts; what would only cost a slot is refused with a reason for the model."""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import define, evolve, field, frozen

from arf.errors import UsageError, nearest
from arf.interfaces import Brief
from arf.sdk.scripts import apply_edit, constants, is_seed_name, same_but_for_seeds
from arf.types import Ask, Draft, Edit, FactorDraft, Scalar
from arf_plugins.llm.turns import Schema, ToolSpec

MAX_TITLE = 100
Files = Mapping[str, str]


# ---- What is asked for --------------------------------------------------------------------------


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Strict schemas want every property named as required, and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


CONSTANTS: Schema = {
    "type": "array",
    "description": "Constants to set by name; empty if the change is made by edits.",
    "items": _object(
        {
            "name": _text("A constant at the top level of a file."),
            "value": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
        }
    ),
}
EDITS: Schema = {
    "type": "array",
    "description": "Search and replace, applied in order; empty if constants are enough.",
    "items": _object(
        {
            "path": _text("The file."),
            "old": _text("Text that is in the file exactly once, copied with its spaces."),
            "new": _text("What it becomes."),
        }
    ),
}
_CHANGE = {
    "title": _text("One line that says what changes, such as `DEPTH 4 -> 6` or `RMSNorm before attention`."),
    "reason": _text("Why it should help, in two sentences at most."),
    "expected_gain": {
        "type": "number",
        "description": "By how much the objective should improve, in its own units; positive is better.",
    },
    "risk": _text("What may go wrong; empty if nothing special."),
    "constants": CONSTANTS,
    "edits": EDITS,
}
_CLOSING = {
    "learned": _text("What the results so far teach that is worth remembering later; empty if nothing new."),
    "exhausted": {
        "type": "boolean",
        "description": "True only if nothing worth a run is left for this base, now or later.",
    },
}


def of_answer(key: str, entry: Mapping[str, Any], **more: str) -> dict[str, Any]:
    """The schema of an answer: a list of entries, and what is said beside them."""
    texts = {name: _text(description) for name, description in more.items()}
    return _object({key: {"type": "array", "items": dict(entry)}, **texts, **_CLOSING})


IDEAS = ToolSpec(
    name="propose_ideas",
    description="Propose changes of the script, each to be run as an experiment.",
    parameters=of_answer("ideas", _object(_CHANGE)),
)
FACTORS = ToolSpec(
    name="propose_factors",
    description="Propose factors with their levels, to be crossed in a designed experiment.",
    parameters=of_answer(
        "factors",
        _object(
            {
                "name": _text("A short name, different from all others."),
                "levels": {"type": "array", "items": _object(_CHANGE)},
            }
        ),
    ),
)


def key_of(ask: Ask) -> str:
    """Under which name an answer has its entries."""
    return str(ask.kind)


# ---- Reading what was said ----------------------------------------------------------------------


# ---- Checking -----------------------------------------------------------------------------------


@frozen
class Checked:
    draft: Draft
    change: str
    """The same for drafts that do the same, whatever they are called."""


@define
class Checker:
    """Makes drafts for one base. What it has let pass once it refuses the next time."""

    brief: Brief
    ask: Ask
    passed: set[str] = field(factory=set)
    """Changes that this agent has proposed before for this base, its other conversations included."""
    mine: set[str] = field(factory=set)
    """Those that this checker has let pass."""

    def draft(self, raw: Any) -> Checked:
        """The draft of an idea as a model wrote it. Raises UsageError with what is wrong with it."""
        if not isinstance(raw, Mapping):
            raise UsageError("an idea must be an object")
        title = _line(raw.get("title"))
        if not title:
            raise UsageError("the idea has no title")
        files = self.brief.files
        values = self.values(raw.get("constants"))
        edits = self._edits(raw.get("edits"))
        if not values and not edits:
            raise UsageError("the idea changes nothing", hint="give constants or edits")
        after = self._edited(set_constants(files, values), edits)
        return self.changed(
            after, title=title, reason=_reason(raw), expected=_number(raw.get("expected_gain")), edits=edits
        )

    def changed(
        self,
        after: Files,
        *,
        title: str,
        reason: str = "",
        expected: float | None = None,
        edits: tuple[Edit, ...] = (),
    ) -> Checked:
        """The draft that turns the base's files into these. `edits` are kept if they do just that."""
        files = self.brief.files
        paths = [path for path, text in after.items() if files.get(path) != text]
        if not paths:
            raise UsageError("the idea changes nothing: the files are like that already")
        for path in paths:
            _check_syntax(path, files.get(path, ""), after[path])
        if all(path in files and _same(files[path], after[path], path) for path in paths):
            raise UsageError("it changes only a seed, comments or layout", hint="change what the script does")
        draft = Draft(title=title, reason=reason, expected=expected)
        values = constants_only(files, after, paths)
        if values is not None:
            draft = evolve(draft, constants=values)
        elif edits and self._is_exact(edits, after):
            draft = evolve(draft, edits=edits)
        else:
            draft = evolve(
                draft, edits=tuple(Edit(path=p, old=files.get(p, ""), new=after[p]) for p in paths)
            )
        return self._new(draft, after)

    def forget(self, checked: Checked) -> None:
        """Let a change be made again that was not handed in."""
        self.passed.discard(checked.change)
        self.mine.discard(checked.change)

    def factor(self, raw: Any) -> tuple[FactorDraft, list[str]]:
        """A factor, and the changes of its levels. Raises UsageError if no level can be used."""
        name = _line(raw.get("name")) if isinstance(raw, Mapping) else ""
        levels = raw.get("levels") if isinstance(raw, Mapping) else None
        if not name or not isinstance(levels, list) or not levels:
            raise UsageError("a factor needs a name and levels")
        self.check_factor_name(name)
        good, problems = [], []
        for level in levels:
            try:
                good.append(self.draft(level))
            except UsageError as error:
                problems.append(str(error))
        if not good:
            raise UsageError(f"no level of it can be used: {'; '.join(problems)}")
        return FactorDraft(name=name, levels=tuple(item.draft for item in good)), [g.change for g in good]

    def check_factor_name(self, name: str) -> None:
        """Raises UsageError if the study has a factor of that name for this base."""
        study = self.brief.study
        for factors in study.all_factors().values():
            for factor in factors:
                bases = {study.ideas[level].base for level in factor.levels if level in study.ideas}
                if factor.name == name and self.ask.base in bases:
                    raise UsageError(f"there is a factor {name!r} already")

    # -- the parts of an idea

    def values(self, raw: Any) -> dict[str, Scalar]:
        """Constants as they must be written, whatever the model made of numbers and texts."""
        if isinstance(raw, Mapping):
            raw = [{"name": name, "value": value} for name, value in raw.items()]
        values: dict[str, Scalar] = {}
        home = find_constants(self.brief.files)
        for item in raw if isinstance(raw, list) else ():
            if not isinstance(item, Mapping) or "name" not in item or "value" not in item:
                raise UsageError("each of the constants needs a name and a value")
            name = str(item["name"]).strip()
            if is_seed_name(name):
                raise UsageError(f"{name} is a seed, and a change of the seed is no idea")
            if name not in home:
                raise UsageError(f"the files have no constant {name!r}", hint=nearest(name, home))
            values[name] = _coerced(item["value"], home[name][0][1])
        return values

    def _edits(self, raw: Any) -> tuple[Edit, ...]:
        edits = []
        for item in raw if isinstance(raw, list) else ():
            if not isinstance(item, Mapping) or not all(
                isinstance(item.get(key), str) for key in ("path", "old", "new")
            ):
                raise UsageError("each edit needs path, old and new, all of them text")
            edits.append(
                Edit(path=self.path(item["path"], made=not item["old"]), old=item["old"], new=item["new"])
            )
        return tuple(edits)

    def path(self, path: str, *, made: bool = False) -> str:
        """The path as the files are called. Raises UsageError for one that must not be changed."""
        clean = path.strip().removeprefix("./")
        for prefix in ("a/", "b/", "/"):
            if clean not in self.brief.files and clean.removeprefix(prefix) in self.brief.files:
                clean = clean.removeprefix(prefix)
        if clean in self.brief.files:
            return clean
        may = self.brief.is_editable
        inside = not clean.startswith("/") and ".." not in clean.split("/")
        if made and may is not None and clean and inside and may(clean):
            return clean
        names = ", ".join(sorted(self.brief.files)) or "none"
        raise UsageError(f"{path!r} may not be changed", hint=f"the files that may: {names}")

    def _edited(self, files: Files, edits: Iterable[Edit]) -> dict[str, str]:
        texts = dict(files)
        for edit in edits:
            texts[edit.path] = edited(texts, edit)
        return texts

    def _is_exact(self, edits: tuple[Edit, ...], after: Files) -> bool:
        """Whether the edits alone give the files, each on its own place in the base."""
        files = self.brief.files
        alone = all(files.get(e.path, "").count(e.old) == 1 if e.old else e.path not in files for e in edits)
        try:
            return alone and self._edited(files, edits) == dict(after)
        except UsageError:
            return False

    def _new(self, draft: Draft, after: Files) -> Checked:
        """Raises UsageError if the study, or this agent, has had the same before."""
        study = self.brief.study
        if draft.constants:
            current = current_values(self.brief.files)
            for idea in study.ideas.values():
                theirs = {n: v for n, v in idea.constants.items() if current.get(n) != v}
                if theirs and _equal(theirs, draft.constants):
                    raise UsageError(f"the same as idea {idea.id} of the study, {idea.title!r}")
            change = f"constants {sorted((name, repr(value)) for name, value in draft.constants.items())}"
        else:
            for idea in study.ideas.values():
                if (
                    not idea.constants
                    and idea.base == self.ask.base
                    and _key(idea.title) == _key(draft.title)
                ):
                    raise UsageError(f"idea {idea.id} of the study has the same title, {idea.title!r}")
            change = fingerprint(after)
        if change in self.passed:
            raise UsageError("the same was proposed before")
        self.passed.add(change)
        self.mine.add(change)
        return Checked(draft, change)


def set_constants(files: Files, values: Mapping[str, Scalar]) -> dict[str, str]:
    """The files with constants set as their annotations allow. Raises UsageError."""
    home = find_constants(files)
    texts = dict(files)
    wanted: dict[str, dict[str, Scalar]] = {}
    for name, value in values.items():
        if name not in home:
            raise UsageError(f"the files have no constant {name!r}", hint=nearest(name, home))
        if len(home[name]) > 1:
            where = " and ".join(path for path, _ in home[name])
            raise UsageError(f"the constant {name} is in {where}", hint="change it by an edit of one file")
        wanted.setdefault(home[name][0][0], {})[name] = value
    for path, some in wanted.items():
        constants.check(constants.read(texts[path], path), some)
        texts[path] = constants.replace(texts[path], some, path)
    return texts


def find_constants(files: Files) -> dict[str, list[tuple[str, constants.Constant]]]:
    """Where each constant is."""
    home: dict[str, list[tuple[str, constants.Constant]]] = {}
    for path, text in files.items():
        for constant in constants.read(text, path):
            home.setdefault(constant.name, []).append((path, constant))
    return home


def current_values(files: Files) -> dict[str, Any]:
    return {name: where[0][1].value for name, where in find_constants(files).items()}


def constants_only(files: Files, after: Files, paths: Sequence[str]) -> dict[str, Scalar] | None:
    """The constants that explain the whole change; None if something else changed too.

    A change of constants by name goes onto any later base; an edit of the same lines may not.
    """
    home = find_constants(files)
    values: dict[str, Scalar] = {}
    for path in paths:
        if path not in files:
            return None
        new = {constant.name: constant.value for constant in constants.read(after[path], path)}
        mine: dict[str, Scalar] = {}
        for old in constants.read(files[path], path):
            value = new.get(old.name)
            if value is None or isinstance(value, tuple):
                continue
            if not _equal({"": old.value}, {"": value}):
                mine[old.name] = value
        try:
            explained = bool(mine) and _same_text(set_constants(files, mine)[path], after[path], path)
        except UsageError:
            return None
        if not explained or any(len(home[name]) > 1 for name in mine):
            return None
        values |= mine
    return values


def edited(files: Files, edit: Edit) -> str:
    """The text of a file after an edit. Raises UsageError where it does not apply."""
    if edit.path not in files:
        if edit.old:
            raise UsageError(f"there is no file {edit.path}", hint=nearest(edit.path, files))
        return edit.new
    if not edit.old:
        if files[edit.path]:
            raise UsageError(f"{edit.path} exists", hint="say which text of it to replace")
        return edit.new
    if edit.old == edit.new:
        raise UsageError(f"{edit.path}: the edit changes nothing: old and new are the same")
    return apply_edit(files[edit.path], edit)


def problems_of(files: Files) -> list[str]:
    """What is wrong with the syntax of the files; empty if nothing."""
    found = []
    for path, text in files.items():
        if problem := _syntax_problem(path, text):
            found.append(problem)
    return found


def _check_syntax(path: str, before: str, after: str) -> None:
    problem = _syntax_problem(path, after)
    if problem and not (before and _syntax_problem(path, before)):
        raise UsageError(problem)


def _syntax_problem(path: str, text: str) -> str:
    if not path.endswith(".py"):
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the script's business
            compile(text.removeprefix("\ufeff"), path, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f", line {error.lineno}: {(error.text or '').strip()[:80]!r}" if error.lineno else ""
        return f"{path} would not parse: {error.msg}{line}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{path} would not parse: {error}"
    return ""


def _same(old: str, new: str, path: str) -> bool:
    return same_but_for_seeds(old, new, python=path.endswith(".py"))


def _same_text(old: str, new: str, path: str) -> bool:
    """Whether two texts are the same code; comments of a Python file do not count."""
    return old == new or (path.endswith(".py") and _code(old) == _code(new))


def _code(text: str) -> str:
    tree = constants.parse_python(text)
    return text if tree is None else ast.dump(tree)


def fingerprint(files: Files) -> str:
    """The same for files that are the same code."""
    digest = hashlib.sha256()
    for path, text in sorted(files.items()):
        code = _code(text) if path.endswith(".py") else text
        digest.update(f"{path}\0{code}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


# ---- Values -------------------------------------------------------------------------------------


def _coerced(value: Any, constant: constants.Constant) -> Scalar:
    """A value in the type of the constant. Raises UsageError where that would change its meaning."""
    old = constant.value
    text = value.strip() if isinstance(value, str) else None
    if isinstance(old, bool):
        known = {"true": True, "false": False}
        if isinstance(value, bool):
            return value
        if text is not None and text.lower() in known:
            return known[text.lower()]
    elif isinstance(old, int | float):
        number = _number(value)
        if number is not None:
            whole = isinstance(old, int) and number.is_integer()
            return int(number) if whole else number
    elif isinstance(old, str) and text is not None:
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        return text[1:-1] if quoted else text
    raise UsageError(f"{constant.name} is {old!r}, and {value!r} is another kind of value")


def _number(value: Any) -> float | None:
    """A finite number, also from text such as `3e-4` or `2**16`; None for anything else."""
    if isinstance(value, str):
        read = constants.read(f"X = {value.strip()}", "x.py")
        value = read[0].value if len(read) == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if number == number and abs(number) != float("inf") else None


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        a[name] == b[name] and isinstance(a[name], bool) == isinstance(b[name], bool) for name in a
    )


def _reason(raw: Mapping[str, Any]) -> str:
    reason, risk = (raw.get(key) if isinstance(raw.get(key), str) else "" for key in ("reason", "risk"))
    return "\n".join(_sentences(reason, risk))


def _sentences(reason: Any, risk: Any) -> Iterator[str]:
    if reason.strip():
        yield reason.strip()[:1000]
    if risk.strip() and risk.strip().lower() not in ("none", "n/a", "-"):
        yield f"Risk: {risk.strip()[:300]}"


def _line(value: Any) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text if len(text) <= MAX_TITLE else text[: MAX_TITLE - 1] + "…"


def _key(title: str) -> str:
    return re.sub(r"\W+", " ", title.casefold()).strip()
