"""Changes to text: search and replace, unified diffs, and three-way merges.

All work on texts in memory and know nothing of git. Line ends are kept: a file with `\\r\\n` stays one,
whatever the line ends of the change.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from attrs import define, field

from arf.errors import UsageError
from arf.types import Edit

MAX_FUZZ = 2
"""Lines of context that a hunk may lose at each end to find its place, as in patch(1)."""


# ----------------------------------------------------------------------------------- search and replace


def apply_edit(text: str, edit: Edit) -> str:
    """The text with the one occurrence of `edit.old` replaced. Raises UsageError if there is not just one."""
    old, new = edit.old, edit.new
    count = text.count(old)
    if count == 0 and "\r\n" in text:
        old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
        count = text.count(old)
    if count == 1:
        return text.replace(old, new)
    first = old.strip().partition("\n")[0].strip()[:60]
    if count:
        raise UsageError(
            f"{edit.path}: the text to replace is there {count} times: {first!r}",
            hint="give more lines around it",
        )
    close = difflib.get_close_matches(first, [line.strip() for line in text.splitlines()], n=1, cutoff=0.6)
    raise UsageError(
        f"{edit.path}: the text to replace is not there: {first!r}",
        hint=f"the nearest line is {close[0][:80]!r}" if close else "copy it from the file, spaces included",
    )


# --------------------------------------------------------------------------------------- unified diffs


@define
class Hunk:
    """One changed place of a file."""

    start: int | None
    """The line of the old file that it says it starts at, from 1; None if it does not say."""
    lines: list[tuple[str, str]] = field(factory=list)
    """Pairs of ` `, `-` or `+` and a line without its end."""
    no_newline: set[str] = field(factory=set)
    """`-` or `+`: the sides whose last line has no newline."""

    @property
    def old(self) -> list[str]:
        """The lines as they were."""
        return [text for mark, text in self.lines if mark != "+"]

    @property
    def new(self) -> list[str]:
        """The lines as they become."""
        return [text for mark, text in self.lines if mark != "-"]


@define
class FilePatch:
    """What a diff does to one file. `old` is None for a new file, `new` None for one that is deleted."""

    old: str | None
    new: str | None
    hunks: list[Hunk] = field(factory=list)
    mode: str = ""
    """The new mode, such as `100755`, if it says so."""


def parse_patch(patch: str) -> list[FilePatch]:
    """The files of a unified diff, as git, diff(1) and language models write them.

    Wrong line counts, text around the diff and missing `a/` and `b/` are put up with. Raises UsageError for
    what is no unified diff.
    """
    parser = _PatchParser(patch.replace("\r\n", "\n").split("\n"))
    files = parser.files()
    if not files:
        raise UsageError("the patch holds no change", hint="give a unified diff with ---, +++ and @@ lines")
    return files


_HUNK = re.compile(r"@@+(?: -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))?)?(?: @@+|.*)")


class _PatchParser:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0

    def files(self) -> list[FilePatch]:
        found: list[FilePatch] = []
        git: FilePatch | None = None
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith("diff --git "):
                git = self._git_header()
                found.append(git)
            elif self._is_header(self._at):
                if git is None or not self._names_it(git):
                    git = FilePatch(None, None)
                    found.append(git)
                self._names(git)
                git = None
            elif line.startswith("@@") and found:
                found[-1].hunks.append(self._hunk())
                git = None
            elif line.startswith("@@"):
                raise UsageError(
                    "the patch has a hunk before any file name", hint="start it with --- and +++ lines"
                )
            else:
                self._at += 1
        return [file for file in found if file.hunks or file.mode or file.old != file.new]

    def _is_header(self, at: int) -> bool:
        following = self._lines[at + 1] if at + 1 < len(self._lines) else ""
        return self._lines[at].startswith("--- ") and following.startswith("+++ ")

    def _git_header(self) -> FilePatch:
        """`diff --git` and the lines after it that are git's own."""
        names = re.match(r"diff --git \"?a/(.*?)\"? \"?b/(.*?)\"?\Z", self._lines[self._at])
        file = FilePatch(names[1] if names else None, names[2] if names else None)
        self._at += 1
        while self._at < len(self._lines):
            line = self._lines[self._at]
            word, _, rest = line.partition(" ")
            if line.startswith("new file mode "):
                file.old, file.mode = None, line.rpartition(" ")[2]
            elif line.startswith("deleted file mode "):
                file.new = None
            elif line.startswith("new mode "):
                file.mode = line.rpartition(" ")[2]
            elif line.startswith(("rename from ", "copy from ")):
                file.old = line.split(" ", 2)[2]
            elif line.startswith(("rename to ", "copy to ")):
                file.new = line.split(" ", 2)[2]
            elif line.startswith(("Binary files ", "GIT binary patch")):
                raise UsageError(f"the patch changes a binary file: {file.new or file.old}")
            elif word not in ("index", "similarity", "dissimilarity", "old") or not rest:
                break
            self._at += 1
        return file

    def _names_it(self, file: FilePatch) -> bool:
        """Whether the `---` and `+++` lines are about the file of the git header before them."""
        names = {_file_name(self._lines[self._at + k]) for k in (0, 1)} - {None}
        known = {name for name in (file.old, file.new) if name}
        return any(
            name in (known_name, f"a/{known_name}", f"b/{known_name}")
            for name in names
            for known_name in known
        )

    def _names(self, file: FilePatch) -> None:
        old, new = (_file_name(self._lines[self._at + k]) for k in (0, 1))
        self._at += 2
        renamed = file.old is not None and file.new is not None and file.old != file.new
        if not renamed:
            file.old, file.new = old, new

    def _hunk(self) -> Hunk:
        head = _HUNK.match(self._lines[self._at])
        assert head is not None  # the line begins with @@
        self._at += 1
        hunk = Hunk(int(head[1]) if head[1] else None)
        counts = None
        if head[1]:
            counts = int(head[2] or 1), int(head[4] or 1)
        end = self._counted_end(counts) if counts else None
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith("\\"):  # "\ No newline at end of file"
                hunk.no_newline |= {"-", "+"} if hunk.lines[-1][0] == " " else {hunk.lines[-1][0]}
            elif self._at >= end if end is not None else self._is_hunk_end():
                break
            elif line[:1] in (" ", "-", "+"):
                hunk.lines.append((line[0], line[1:]))
            elif not line:  # the blank of an empty line of context is often lost
                hunk.lines.append((" ", ""))
            else:
                raise UsageError(
                    f"line {self._at + 1} of the patch is no part of a hunk: {line[:60]!r}",
                    hint="each line of a hunk begins with a blank, - or +",
                )
            self._at += 1
        if end is None:
            while hunk.lines and hunk.lines[-1] == (" ", ""):  # the end of the text, not of the file
                hunk.lines.pop()
        return hunk

    def _is_hunk_end(self) -> bool:
        return self._lines[self._at].startswith(("@@", "diff --git ", "```")) or self._is_header(self._at)

    def _counted_end(self, counts: tuple[int, int]) -> int | None:
        """Where the hunk ends by its own counts; None if they are wrong."""
        old, new = counts
        at = self._at
        while (old > 0 or new > 0) and at < len(self._lines):
            mark = self._lines[at][:1]
            if mark in (" ", ""):
                old, new = old - 1, new - 1
            elif mark == "-":
                old -= 1
            elif mark == "+":
                new -= 1
            elif mark != "\\":
                return None
            at += 1
        following = self._lines[at] if at < len(self._lines) else ""
        ends = (
            not following or following.startswith(("@@", "diff ", "\\", "```", "-- ")) or self._is_header(at)
        )
        return at if (old, new) == (0, 0) and ends else None


def _file_name(line: str) -> str | None:
    name = line[4:].split("\t")[0].strip()
    if name == "/dev/null":
        return None
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = (
            name[1:-1]
            .encode("latin-1", "replace")
            .decode("unicode_escape")
            .encode("latin-1")
            .decode(errors="replace")
        )
    return name


def apply_hunks(text: str, hunks: Sequence[Hunk], path: str) -> str:
    """The text with the hunks applied. Raises UsageError for one whose place is not there, or not clear.

    Line numbers are a hint only. Context that is not there is let go, two lines at each end at most and
    blanks at line ends, if that leaves one place.
    """
    lines = split_lines(text)
    eol = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    end = shift = 0
    for number, hunk in enumerate(hunks, 1):
        if all(mark == " " for mark, _ in hunk.lines) and not hunk.no_newline:
            continue
        place = _place([line.rstrip("\r\n") for line in lines], hunk, end, shift)
        if isinstance(place, str):
            first = next((line.strip() for line in hunk.old if line.strip()), "")
            raise UsageError(f"{path}: hunk {number} of the patch {place}: {first[:60]!r}", hint=_PATCH_HINT)
        at, rows = place
        own = iter(lines[at:])
        new = []
        for mark, line in rows:
            there = line + eol if mark == "+" else next(own)
            if mark != "-":
                new.append(there)
        removed = sum(mark != "+" for mark, _ in rows)
        at_end = at + removed == len(lines)
        unended = bool(lines) and not lines[-1].endswith("\n") and not hunk.no_newline
        lines[at : at + removed] = new
        if at_end and new and rows[-1][0] != " " and (unended or "+" in hunk.no_newline):
            lines[-1] = lines[-1].rstrip("\r\n")
        elif at_end and lines and "-" in hunk.no_newline and "+" not in hunk.no_newline:
            lines[-1] = lines[-1].rstrip("\r\n") + eol
        lines[:-1] = [line if line.endswith("\n") else line + eol for line in lines[:-1]]
        if hunk.start is not None:
            shift = at - max(hunk.start - 1, 0) + len(new) - removed
        end = at + len(new)
    return "".join(lines)


_PATCH_HINT = "make the patch against the file as it is now"


def _place(lines: list[str], hunk: Hunk, end: int, shift: int) -> tuple[int, list[tuple[str, str]]] | str:
    """Where a hunk goes, and its rows without the context that was let go; or what is wrong with it."""
    expected = None if hunk.start is None else max(hunk.start - 1, 0) + shift
    if not hunk.old:
        at = len(lines) if expected is None else min(hunk.start or 0, len(lines))
        return (at, hunk.lines) if at >= end and (expected is not None or not lines) else "has no context"
    trimmed = [line.rstrip() for line in lines]
    for lead, rows in _with_less_context(hunk.lines):
        old = [line for mark, line in rows if mark != "+"]
        for there, wanted in ((lines, old), (trimmed, [line.rstrip() for line in old])):
            places = [
                at
                for at in range(end, len(there) - len(wanted) + 1)
                if there[at] == wanted[0] and there[at : at + len(wanted)] == wanted
            ]
            if expected is not None and expected + lead in places:
                return expected + lead, rows
            if len(places) == 1:
                return places[0], rows
            if places:
                return f"fits {len(places)} places"
    return "fits nowhere"


def _with_less_context(rows: list[tuple[str, str]]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """The rows as they are, then with one and two lines of context less at each end, while there are any."""
    yield 0, rows
    lead = next((k for k, row in enumerate(rows) if row[0] != " "), 0)
    tail = next((k for k, row in enumerate(reversed(rows)) if row[0] != " "), 0)
    for fuzz in range(1, MAX_FUZZ + 1):
        first, last = min(fuzz, lead), len(rows) - min(fuzz, tail)
        if any(mark != "+" and line.strip() for mark, line in rows[first:last]):
            yield first, rows[first:last]


# ----------------------------------------------------------------------------------- three-way merges


def split_lines(text: str) -> list[str]:
    """Lines with their ends; only `\\n` ends one, as in git."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def merge(base: str, ours: str, theirs: str) -> str | None:
    """Both changes of `base`; None if they change the same lines differently.

    Unlike git's merge, it takes changes of adjacent lines: constants stand on adjacent lines, and ideas that
    set two of them do not conflict.
    """
    if ours == theirs or theirs == base:
        return ours
    if ours == base:
        return theirs
    lines = split_lines(base)
    edits = _combined(_line_edits(lines, split_lines(ours)), _line_edits(lines, split_lines(theirs)))
    if edits is None:
        return None
    merged: list[str] = []
    at = 0
    for start, end, new in edits:
        merged += lines[at:start]
        if merged and new and not merged[-1].endswith("\n"):
            return None  # something was added behind a last line that the other side may have ended
        merged += new
        at = end
    return "".join(merged + lines[at:])


_LineEdit = tuple[int, int, list[str]]
"""Lines from the first number to the one before the second become these."""


def _line_edits(old: list[str], new: list[str]) -> list[_LineEdit]:
    head = next(
        (k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new))
    )
    rest = min(len(old), len(new)) - head
    tail = next((k for k in range(rest) if old[-1 - k] != new[-1 - k]), rest)
    matcher = difflib.SequenceMatcher(
        None, old[head : len(old) - tail], new[head : len(new) - tail], autojunk=False
    )
    edits: list[_LineEdit] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "replace" and b - a == d - c:
            edits += [(head + a + k, head + a + k + 1, [new[head + c + k]]) for k in range(b - a)]
        elif tag != "equal":
            edits.append((head + a, head + b, new[head + c : head + d]))
    return edits


def _combined(ours: list[_LineEdit], theirs: list[_LineEdit]) -> list[_LineEdit] | None:
    """Both lists in order, what is in both once; None if they overlap."""
    edits = sorted(ours + [edit for edit in theirs if edit not in ours], key=lambda edit: edit[:2])
    for (_, end, _), (start, _, _) in pairwise(edits):
        if start < end:
            return None
    for one, other in pairwise(edits):
        if one[:2] == other[:2]:  # two insertions at one place: nobody knows their order
            return None
    return edits
