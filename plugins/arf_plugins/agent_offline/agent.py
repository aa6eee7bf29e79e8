"""Moves the constants of a script, and learns from results which of them matter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from attrs import frozen

from arf.interfaces import Agent, Brief
from arf.types import Answer, Ask, AskKind, Draft, FactorDraft, Scalar
from arf_plugins.agent_offline import OfflineOptions
from arf_plugins.agent_offline.history import History, Row
from arf_plugins.agent_offline.model import Model
from arf_plugins.agent_offline.reasons import Reasons
from arf_plugins.agent_offline.scales import Ordered, Scale
from arf_plugins.agent_offline.space import Space, Values, is_part, read_space

_ROWS = 256
"""Commits that predictions rest on: the last ones."""
_JOINED = 6
"""So many of the best moves are tried in pairs."""
_LEVELS = 2
"""Levels of a factor, the base not counted."""
_REACH = 1.1
"""Steps that a move may go beyond all values with a result: one sensible move, and some for rounding."""


@frozen
class Candidate:
    change: Values
    score: float
    mean: float
    sd: float = 0.0


class OfflineAgent(Agent):
    """Deterministic: the same study and files give the same answer, in another process too."""

    def __init__(self, options: OfflineOptions | None = None) -> None:
        super().__init__(options)
        self._options = options or OfflineOptions()
        self._history: History | None = None

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        space = read_space(brief.files, self._options.only, self._options.never)
        if not space.scales:
            return Answer(exhausted=True, note=_nothing_to_move(space))
        if self._history is None or self._history.study is not brief.study:
            self._history = History(brief.study, brief.directory)
        self._history.update(ask.base, space.values)
        search = _Search(space, self._history, ask.base, self._options.explore)
        return search.factors(ask.n) if ask.kind is AskKind.FACTORS else search.ideas(ask.n)


class _Search:
    """One answer."""

    def __init__(self, space: Space, history: History, base: str, explore: float) -> None:
        self._space = space
        self._history = history
        self._base = base
        self._explore = explore
        self._chance = history.study.random()
        rows = list(history.rows(_ROWS))
        self._model = Model(space.scales, space.values, rows, history.study)
        self._reasons = Reasons(space, history, self._model, informed=len(rows) > 1)
        self._untouched = [name for name in space.scales if name not in history.touched]
        self._taken: list[Values] = []
        self._singles = list(self._single_moves(rows))
        for values in history.running():
            self._model.expect(values)
        for of, change in history.waiting():
            if of == base or all(name in space.scales for name in change):
                self._take(change)

    def _single_moves(self, rows: Sequence[Row]) -> Iterator[Values]:
        """Every open move of one constant, near enough to what has been measured."""
        for name, scale in self._space.scales.items():
            near = _nearby(scale, [row.values[name] for row in rows if name in row.values])
            for value in near:
                if self._is_open({name: value}):
                    yield {name: value}

    # ---- Ideas ------------------------------------------------------------------------------

    def ideas(self, n: int) -> Answer:
        drafts: list[Draft] = []
        while len(drafts) < n:
            change = self._next()
            if change is None:
                break
            drafts.append(self._draft(change))
            self._take(change)
        note = "" if drafts else "every sensible move of the constants has been tried from here"
        return Answer(ideas=tuple(drafts), exhausted=len(drafts) < n, note=note)

    def _next(self) -> Values | None:
        """The next idea: a constant that nobody has touched, or whatever promises most."""
        singles = self._scored(self._singles)
        if _MIX and singles and self._untouched and self._chance.random() < _MIX and singles[0].mean > singles[0].sd:
            return singles[0].change
        if self._untouched and singles and self._space.scales[self._untouched[0]].family.weight < _COVER and self._chance.random() > _ALT:
            first = None
        else:
            first = self._first_move()
        if first:
            return first
        best = singles[:1] + self._scored(self._joined(singles))[:1]
        return max(best, key=lambda one: one.score).change if best else None

    def _first_move(self) -> Values | None:
        """The first move of the first constant that has had none, in either direction where both may do."""
        while self._untouched:
            name = self._untouched.pop(0)
            moves = [change for change in self._singles if name in change]
            if moves:
                either = self._space.scales[name].family.lean == 0
                return self._chance.choice(moves[:2]) if either else moves[0]
        return None

    def _joined(self, singles: Sequence[Candidate]) -> Iterator[Values]:
        """Pairs of the best moves of different constants that results speak for; of any, if no single is left."""
        best: dict[str, Values] = {}
        for one in singles:
            name = next(iter(one.change))
            if not is_part(name) and one.mean > _SURE * one.sd:
                best.setdefault(name, one.change)
        for size in _SIZES:
          for group in combinations(list(best.values())[:_JOINED], size):
            joined = {}
            for g in group: joined.update(g)
            if self._is_open(joined):
                yield joined

    def _scored(self, changes: Iterable[Values]) -> list[Candidate]:
        """The best first. What is as good as equal is in the order of the moves themselves."""
        scored = []
        for change in changes:
            mean, sd = self._model.predict(change)
            scored.append(Candidate(change, _score(mean, self._explore * sd, self._model.noise), mean, sd))
        return sorted(scored, key=lambda one: -one.score)

    def _is_open(self, change: Values) -> bool:
        """Whether nobody has tried it, nothing speaks against it, and it is not waiting to be tried."""
        return (
            change not in self._taken
            and not self._history.is_seen({**self._space.values, **change})
            and not self._history.forbids(self._space.values, change)
            and self._space.allows(change)
        )

    def _take(self, change: Values) -> None:
        self._taken.append(change)
        self._model.expect({**self._space.values, **change})
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
        found: dict[str, list[Values]] = {}
        for one in self._scored(self._singles):
            name = next(iter(one.change))
            if (name, self._base) not in self._history.factored:
                found.setdefault(name, []).append(one.change)
        factors = [
            FactorDraft(name=name, levels=tuple(self._draft(change) for change in changes[:_LEVELS]))
            for name, changes in list(found.items())[:n]
        ]
        note = "" if factors else "every constant is a factor already"
        return Answer(factors=tuple(factors), exhausted=len(found) <= n, note=note)


_SURE=0.0
_EI=False
_MIX=0
_COVER=0
_ALT=.5
_SIZES=(2,)
def _score(mean, sd, noise):
    if not _EI:
        return mean + sd
    import math
    z = (mean - _EI*noise) / max(sd, 1e-12)
    return (mean- _EI*noise) * 0.5 * math.erfc(-z / math.sqrt(2)) + sd * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _nearby(scale: Scale, measured: Sequence[Scalar]) -> list[Scalar]:
    """The moves that go one step at most beyond every value with a result, and the next one each way."""
    moves = list(scale.moves())
    if not isinstance(scale, Ordered):
        return moves
    places = [0.0, *(place for value in measured if (place := scale.place(value)) is not None)]
    low, high = min(places) - _REACH, max(places) + _REACH
    away = {value: scale.place(value) or 0.0 for value in moves}
    nearest = [
        min((value for value in moves if away[value] * sign > 0), key=lambda value: abs(away[value]), default=None)
        for sign in (1, -1)
    ]
    return [value for value in moves if low <= away[value] <= high or value in nearest]


def _nothing_to_move(space: Space) -> str:
    if space.unknown:
        some = ", ".join(space.unknown[:5])
        return f"nothing says how {some} may move; say it in a comment behind the value, such as # [1..16]"
    return "no constants to move; write them as NAME = value  # [low..high] at the top level of the script"
