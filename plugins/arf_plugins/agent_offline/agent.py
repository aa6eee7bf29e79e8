"""Moves the constants of a script, and learns from results which of them matter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import combinations

from attrs import frozen

from arf.errors import AgentError, UsageError
from arf.interfaces import Agent, Brief, Finding
from arf.types import Answer, Ask, AskKind, Draft, FactorDraft, Scalar, Usage
from arf_plugins.agent_offline import OfflineOptions
from arf_plugins.agent_offline.history import History, Row
from arf_plugins.agent_offline.model import Basis, Model
from arf_plugins.agent_offline.reasons import Reasons
from arf_plugins.agent_offline.scales import Ordered, Scale
from arf_plugins.agent_offline.space import Space, Values, given_by, is_part, read_space, scripts_of

_ROWS = 256
"""Commits that predictions rest on: the last ones."""
_MAJOR = 0.35
"""Constants of this weight or more all have a move of their own before anything is built on results."""
_JOINED = 6
"""So many of the best moves are tried in pairs."""
_LEVELS = 2
"""Levels of a factor, the base not counted."""
_REACH = 1.1
"""Steps that a move may go beyond all values with a result: one sensible move, and some for rounding."""


@frozen
class _Candidate:
    change: Values
    mean: float
    score: float

    @property
    def name(self) -> str:
        """Of its first constant."""
        return next(iter(self.change))


class OfflineAgent(Agent):
    """Deterministic: the same study and files give the same answer, in another process too."""

    def __init__(self, options: OfflineOptions | None = None) -> None:
        super().__init__(options)
        self._options = options or OfflineOptions()
        self._history: History | None = None
        self._ground: _Ground | None = None

    def check(self, brief: Brief) -> None:
        self._space(brief)

    def outlook(self, brief: Brief) -> Sequence[Finding]:
        space = self._space(brief)
        moving = [Finding(what=name, detail=_range(space, name)) for name in space.scales]
        return [*moving, *(Finding(what=name, detail=f"stays: {why}") for name, why in space.stays.items())]

    def estimate(self, brief: Brief) -> Usage:
        return Usage()  # nobody is paid

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        try:
            space = self._space(brief)
        except UsageError as error:
            raise AgentError(error.message, hint=error.hint) from None
        if not space.moves:
            return Answer(exhausted=True, note=_nothing_to_move(space))
        if self._history is None or self._history.study is not brief.study:
            self._history, self._ground = History(brief.study, brief.directory), None
        self._history.update(ask.base, space.values)
        if self._ground is None or self._ground.space is not space:
            self._ground = _Ground(space)
        thought = _Thought(self._ground, self._history, ask.base, self._options.explore)
        return thought.factors(ask.n) if ask.kind is AskKind.FACTORS else await thought.ideas(ask.n)

    def _space(self, brief: Brief) -> Space:
        given: set[str] = set()
        if brief.workspace is not None:
            given |= set(given_by(brief.workspace.settings.command))
            for path in scripts_of(brief.workspace.settings.command):
                script = brief.workspace.read(brief.workspace.base_commit(), path)
                if script is not None:
                    given |= set(given_by(script.data.decode("utf-8", "replace")))
        options = self._options
        return read_space(brief.files, options.only, options.never, sorted(given), options.space)


class _Ground:
    """What stays between answers while the constants are the same."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.basis = Basis(space.scales)
        self.pairs = self._every_pair()
        """Every pair of moves of different constants, once; each is looked at once in a study."""

    def _every_pair(self) -> Iterator[Values]:
        moves = [(name, value) for name, value in self.space.moves if not is_part(name)]
        for first, second in sorted(combinations(range(len(moves)), 2), key=sum):
            if moves[first][0] != moves[second][0]:
                yield dict((moves[first], moves[second]))


class _Thought:
    """One answer: the open moves, what each is likely to bring, and which of them to try."""

    def __init__(self, ground: _Ground, history: History, base: str, explore: float) -> None:
        space = self._space = ground.space
        self._pairs = ground.pairs
        self._history = history
        self._base = base
        self._explore = explore
        self._chance = history.study.random()
        rows = list(history.rows(_ROWS))
        self._model = Model(ground.basis, rows, history.study)
        self._reasons = Reasons(space, history, self._model)
        self._taken: list[Values] = []
        self._untouched = [name for name in space.scales if name not in history.touched]
        self._singles = list(self._open_moves(rows))
        for values in history.running():
            self._model.expect(values)
        for change in history.waiting():
            self._take(change)

    def _open_moves(self, rows: Sequence[Row]) -> Iterator[Values]:
        """Every open move of one constant, near enough to what has been measured."""
        near = {
            name: _nearby(scale, [row.values[name] for row in rows if name in row.values])
            for name, scale in self._space.scales.items()
        }
        for name, value in self._space.moves:
            if value in near[name] and self._is_open({name: value}):
                yield {name: value}

    # ---- Ideas ------------------------------------------------------------------------------

    async def ideas(self, n: int) -> Answer:
        """A few milliseconds each, and between two of them a job that has ended is not kept waiting."""
        drafts: list[Draft] = []
        while len(drafts) < n and (change := self._next()) is not None:
            drafts.append(self._draft(change))
            self._take(change)
            await asyncio.sleep(0)
        exhausted = len(drafts) < n
        return Answer(ideas=tuple(drafts), exhausted=exhausted, note=self._last_words() if exhausted else "")

    def _last_words(self) -> str:
        return "; ".join(
            ["from here, that is every sensible move of the constants", *_what_stays(self._space)]
        )

    def _next(self) -> Values | None:
        """What to try next: what matters, then what nobody has touched and what promises most."""
        untouched = [name for name in self._untouched if any(name in change for change in self._singles)]
        if untouched:
            is_major = self._space.scales[untouched[0]].family.weight >= _MAJOR
            if is_major or self._chance.random() < 0.5:
                return self._first_move(untouched[0])
        singles = self._scored(self._singles)
        if not singles:
            return next((pair for pair in self._pairs if self._may_join(pair)), None)
        joined = self._scored(list(self._joined(singles)))
        return max(singles[:1] + joined[:1], key=lambda one: one.score).change

    def _first_move(self, name: str) -> Values:
        """The first move of a constant, in either direction unless one is known to be the better guess."""
        moves = [change for change in self._singles if name in change]
        return moves[0] if self._space.scales[name].family.lean else self._chance.choice(moves[:2])

    def _joined(self, singles: Sequence[_Candidate]) -> Iterator[Values]:
        """Pairs of the best moves that promise something."""
        best: dict[str, Values] = {}
        for one in singles:
            if one.mean > 0 and not is_part(one.name):
                best.setdefault(one.name, one.change)
        for first, second in combinations(list(best.values())[:_JOINED], 2):
            if self._may_join(joined := {**first, **second}):
                yield joined

    def _may_join(self, change: Values) -> bool:
        return self._is_open(change) and self._space.allows(change)

    def _scored(self, changes: Sequence[Values]) -> list[_Candidate]:
        """The best first: what is likely to gain, or is unknown enough to gain much."""
        means, sds = self._model.predict(changes)
        found = [
            _Candidate(change, float(mean), float(mean + self._explore * sd))
            for change, mean, sd in zip(changes, means, sds, strict=True)
        ]
        return sorted(found, key=lambda one: -one.score)

    def _is_open(self, change: Values) -> bool:
        """Whether nobody has tried it, it does not wait to be tried, and nothing like it has crashed."""
        return (
            change not in self._taken
            and not self._history.is_seen({**self._space.values, **change})
            and not self._history.forbids(self._space.values, change)
        )

    def _take(self, change: Values) -> None:
        self._taken.append(change)
        self._model.expect(change)
        self._untouched = [name for name in self._untouched if name not in change]
        self._singles = [one for one in self._singles if one != change]

    def _draft(self, change: Values) -> Draft:
        return self._space.draft(
            change,
            title=self._reasons.title(change),
            reason=self._reasons.reason(change),
            expected=self._reasons.expected(change),
        )

    # ---- Factors ----------------------------------------------------------------------------

    def factors(self, n: int) -> Answer:
        """The constants that promise most; those that were factors on this base before come last, with
        levels that are still open. Says that there is nothing more only once every move has been given."""
        found: dict[str, list[Values]] = {}
        for one in self._scored(self._singles):
            found.setdefault(one.name, []).append(one.change)
        names = sorted(found, key=lambda name: (name, self._base) in self._history.factored)[:n]
        levels = {name: found[name][:_LEVELS] for name in names}
        factors = [
            FactorDraft(name=name, levels=tuple(self._draft(change) for change in levels[name]))
            for name in names
        ]
        is_all = len(self._singles) == sum(map(len, levels.values()))
        note = "" if factors else "every sensible move of the constants has been tried from here"
        return Answer(factors=tuple(factors), exhausted=is_all, note=note)


def _nearby(scale: Scale, measured: Sequence[Scalar]) -> list[Scalar]:
    """The moves that go one step at most beyond every value with a result, and the next one each way."""
    moves = list(scale.moves())
    if not isinstance(scale, Ordered):
        return moves
    places = [0.0, *(place for value in measured if (place := scale.place(value)) is not None)]
    low, high = min(places) - _REACH, max(places) + _REACH
    away = {value: scale.place(value) or 0.0 for value in moves}
    nearest = [
        min(
            (value for value in moves if away[value] * sign > 0),
            key=lambda value: abs(away[value]),
            default=None,
        )
        for sign in (1, -1)
    ]
    return [value for value in moves if low <= away[value] <= high or value in nearest]


def _range(space: Space, name: str) -> str:
    """What a constant is and may become by a move of its own."""
    values = [value for moved, value in space.moves if moved == name]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) > 2:
        shown = f"{min(numbers):g} .. {max(numbers):g}"
    else:
        shown = ", ".join(str(value) for value in values) or "nothing that its neighbours allow"
    return f"{space.values[name]} -> {shown} ({space.scales[name].family.label})"


def _what_stays(space: Space) -> Iterator[str]:
    """What keeps constants from being moved that could be."""
    if space.shared:
        name, (one, other) = next(iter(space.shared.items()))
        more = f", and {len(space.shared) - 1} more such names" if len(space.shared) > 1 else ""
        yield f"{name} stays, as {one} and {other} both have it{more}: let workspace.editable name only one"
    if space.given:
        yield f"workspace.command gives {', '.join(space.given[:5])}: leave out what is to be moved"
    if space.unknown:
        some = ", ".join(space.unknown[:5])
        yield f"nothing says how {some} may move; say it in a comment behind the value, such as # [1..16]"


def _nothing_to_move(space: Space) -> str:
    if stays := "; ".join(_what_stays(space)):
        return stays
    return "no constants to move; write them as NAME = value  # [low..high] at the top level of the script"
