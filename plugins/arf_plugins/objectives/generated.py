"""Kinds of objectives with random parameters: the same kind is another problem for each seed.

One sigma is the standard deviation of a run of the unchanged script. Of each instance the best possible
value is known exactly. The kinds are those on which searches differ: many constants that do nothing, gains
below the noise, gains that need two changes at once, a narrow ridge, a limit beyond which runs crash, heavy
tails, a metric that is maximised, slopes that lead away from the best, and Rosenbrock's valley.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from arf.errors import UsageError, nearest
from arf.types import Direction, Objective, Scalar
from arf_plugins.objectives.objective import Parameter, SimulatedObjective, Values
from arf_plugins.objectives.tails import Tails, with_tails

SIGMA = 0.002
START = 1.0
"""The value of the unchanged script, where less is better."""
TESTED = 10_000
"""Examples that an accuracy is counted on."""

Place = Sequence[float]
"""Where each constant is on its own scale: 0 to 1, or the index of its level."""


@frozen(kw_only=True)
class Landscape:
    """What an instance is."""

    parameters: tuple[Parameter, ...]
    gain: Callable[[Place], float]
    """In sigmas; of differences only its own count. NaN where a run crashes."""
    best: float
    """The largest gain."""
    tails: Tails = "normal"
    accuracy: float | None = None
    """The metric is an accuracy, of which the unchanged script has this one; None: it is a loss."""


class Generated(SimulatedObjective):
    """An instance of a kind."""

    def __init__(self, landscape: Landscape) -> None:
        self._landscape = landscape
        self.parameters = landscape.parameters
        if landscape.accuracy is not None:
            self.objective = Objective(metric="val_accuracy", direction=Direction.MAX)
        self._at_base = landscape.gain(self._place(self.base))

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return self._value(self._landscape.gain(self._place(values)))

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        if self._landscape.accuracy is None:
            return SIGMA
        accuracy = self.truth(values)
        return math.sqrt(accuracy * (1.0 - accuracy) / TESTED)

    def draw(self, values: Values, tier: str, share: float, rng: random.Random) -> float:
        sigma = self.sigma(values)
        noise = with_tails(rng.gauss(0.0, sigma), sigma, self._landscape.tails, rng)
        return self.truth(values) + noise

    def optimum(self, tier: str = "") -> float:
        return self._value(self._landscape.best)

    def _value(self, gain: float) -> float:
        """A gain as a value of the metric. One sigma of an accuracy is what it is at the unchanged script."""
        start, more = self._landscape.accuracy, gain - self._at_base
        if start is None:
            return START - SIGMA * more
        slope = math.sqrt(start * (1.0 - start) / TESTED) / (start * (1.0 - start))
        return 1.0 / (1.0 + math.exp(-(math.log(start / (1.0 - start)) + slope * more)))

    def _place(self, values: Values) -> list[float]:
        return [_coordinate(p, values[p.name]) for p in self.parameters]


def generate(kind: str, instance: int) -> Generated:
    """The instance of a kind. Raises UsageError for a kind that there is not."""
    if kind not in KINDS:
        raise UsageError(f"there is no generated objective {kind!r}", hint=nearest(kind, KINDS))
    return Generated(KINDS[kind](random.Random(f"{kind}/{instance}")))


# ---- Constants ----------------------------------------------------------------------------------------


def _coordinate(p: Parameter, value: Scalar) -> float:
    number = float(value)
    if p.levels:
        return number
    if p.log:
        return math.log(number / p.low) / math.log(p.high / p.low)
    return (number - p.low) / (p.high - p.low)


def _scale(rng: random.Random, number: int, base: float) -> Parameter:
    """A constant on a scale of its own, which the unchanged script has at `base` of the way."""
    log = rng.random() < 0.4
    low = 10.0 ** rng.randint(-5, -1) if log else 0.0
    high = low * 10.0 ** rng.randint(2, 3) if log else 10.0 ** rng.randint(0, 2)
    value = low * (high / low) ** base if log else low + base * (high - low)
    return Parameter(name=f"C{number:02}", base=float(f"{value:.3g}"), low=low, high=high, log=log)


def _levels(number: int, count: int, base: int = 0) -> Parameter:
    return Parameter(name=f"C{number:02}", base=base, levels=tuple(range(count)))


@frozen
class _Hill:
    """A parabola through 0 at the base and `height` at its best."""

    base: float
    best: float
    height: float

    @classmethod
    def random(cls, rng: random.Random, height: float) -> _Hill:
        """A best value at least 0.15 away from the base."""
        base = rng.uniform(0.15, 0.85)
        best = rng.choice([b for b in (rng.uniform(0.0, 1.0) for _ in range(64)) if abs(b - base) > 0.15])
        return cls(base, best, height)

    def gain(self, place: float) -> float:
        return self.height * (1.0 - ((place - self.best) / (self.base - self.best)) ** 2)


def _additive(
    rng: random.Random, heights: Sequence[float]
) -> tuple[tuple[Parameter, ...], Callable[[Place], float]]:
    """A hill for each constant, in random order; those of height 0 do nothing."""
    shuffled = rng.sample(heights, len(heights))
    hills = [_Hill.random(rng, height) for height in shuffled]
    parameters = tuple(_scale(rng, n, hill.base) for n, hill in enumerate(hills, 1))
    used = [(n, hill) for n, hill in enumerate(hills) if hill.height]
    return parameters, lambda place: math.fsum(hill.gain(place[n]) for n, hill in used)


# ---- Kinds --------------------------------------------------------------------------------------------


def _mostly_null(rng: random.Random) -> Landscape:
    """Three of fifty constants matter."""
    heights = [rng.uniform(4.0, 10.0) for _ in range(3)]
    parameters, gain = _additive(rng, [*heights, *[0.0] * 47])
    return Landscape(parameters=parameters, gain=gain, best=math.fsum(heights))


def _many_small(rng: random.Random) -> Landscape:
    """Twenty gains, each about as large as the noise."""
    heights = [rng.uniform(0.8, 3.0) for _ in range(20)]
    parameters, gain = _additive(rng, heights)
    return Landscape(parameters=parameters, gain=gain, best=math.fsum(heights))


def _xor(rng: random.Random) -> Landscape:
    """Of ten switches six help in pairs only, two help or harm alone, and two do nothing."""
    order = rng.sample(range(10), 10)
    pairs = [(order[2 * k], order[2 * k + 1]) for k in range(3)]
    alone = [(rng.uniform(1.0, 3.0), rng.uniform(1.0, 3.0)) for _ in pairs]
    both = [rng.uniform(5.0, 12.0) for _ in pairs]
    single = {order[6]: rng.uniform(1.0, 3.0), order[7]: -rng.uniform(1.0, 3.0)}

    def gain(place: Place) -> float:
        total = math.fsum(height for n, height in single.items() if place[n])
        for (first, second), (one, other), height in zip(pairs, alone, both, strict=True):
            if place[first] and place[second]:
                total += height
            else:
                total -= one * place[first] + other * place[second]
        return total

    best = math.fsum(both) + single[order[6]]
    return Landscape(parameters=tuple(_levels(n, 2) for n in range(1, 11)), gain=gain, best=best)


def _ridge(rng: random.Random) -> Landscape:
    """The way up is narrow and leads along several constants at once."""
    n, height, stiffness = 6, rng.uniform(16.0, 24.0), rng.uniform(20.0, 40.0)
    way = [rng.choice((-1, 1)) * rng.uniform(0.6, 1.4) for _ in range(n)]
    norm = math.sqrt(math.fsum(w * w for w in way))
    way = [w / norm for w in way]
    length = 0.6 / max(abs(w) for w in way)
    base = [rng.uniform(0.1, 0.3) if w > 0 else rng.uniform(0.7, 0.9) for w in way]
    top = [b + length * w for b, w in zip(base, way, strict=True)]

    def gain(place: Place) -> float:
        off = [x - t for x, t in zip(place, top, strict=True)]
        along = math.fsum(o * w for o, w in zip(off, way, strict=True))
        across = max(0.0, math.fsum(o * o for o in off) - along * along)
        return height * (1.0 - (along / length) ** 2) - stiffness * across

    return Landscape(
        parameters=tuple(_scale(rng, k, b) for k, b in enumerate(base, 1)), gain=gain, best=height
    )


def _cliff(rng: random.Random) -> Landscape:
    """More of three constants is better until the run crashes; four others are as usual."""
    count, weights = 6, [rng.uniform(0.6, 1.6) for _ in range(3)]
    steps = [rng.uniform(1.5, 4.0) for _ in range(3)]
    limit = math.fsum(weights) * rng.uniform(2.2, 3.2)  # the unchanged script is at 1 of each
    heights = [rng.uniform(1.0, 4.0) for _ in range(4)]
    hills = [_Hill.random(rng, height) for height in heights]

    def size(place: Place) -> float:
        if math.fsum(w * x for w, x in zip(weights, place, strict=False)) > limit:
            return math.nan
        return math.fsum(s * x for s, x in zip(steps, place, strict=False))

    def gain(place: Place) -> float:
        return size(place) + math.fsum(h.gain(x) for h, x in zip(hills, place[3:], strict=True))

    sizes = (size(cell) for cell in itertools.product(range(count), repeat=3))
    largest = max(s for s in sizes if not math.isnan(s))
    parameters = (
        *(_levels(k, count, base=1) for k in (1, 2, 3)),
        *(_scale(rng, k, hill.base) for k, hill in enumerate(hills, 4)),
    )
    return Landscape(parameters=parameters, gain=gain, best=largest + math.fsum(heights))


def _heavy_tails(rng: random.Random) -> Landscape:
    """Eight constants of which five matter, and runs that are far off."""
    heights = [rng.uniform(1.0, 6.0) for _ in range(5)]
    parameters, gain = _additive(rng, [*heights, 0.0, 0.0, 0.0])
    shapes: tuple[Tails, ...] = ("t3", "contaminated", "lognormal")
    tails = rng.choice(shapes)
    return Landscape(parameters=parameters, gain=gain, best=math.fsum(heights), tails=tails)


def _accuracy(rng: random.Random) -> Landscape:
    """A share of 10,000 examples, to be maximised: gains shrink and noise does as it nears 1."""
    heights = [rng.uniform(1.0, 6.0) for _ in range(6)]
    parameters, gain = _additive(rng, [*heights, 0.0, 0.0])
    start = rng.uniform(0.7, 0.93)
    return Landscape(parameters=parameters, gain=gain, best=math.fsum(heights), accuracy=start)


def _deceptive(rng: random.Random) -> Landscape:
    """Slopes lead away from the best: traps of three switches, and narrow peaks at the far end of scales."""
    order = rng.sample(range(6), 6)
    traps = [(order[:3], rng.uniform(1.0, 2.0), rng.uniform(7.0, 12.0)) for order in (order[:3], order[3:])]
    peaks = [(rng.uniform(2.0, 4.0), rng.uniform(6.0, 10.0), rng.uniform(0.82, 0.95)) for _ in range(3)]

    def gain(place: Place) -> float:
        total = 0.0
        for members, slope, height in traps:
            ones = math.fsum(place[k] for k in members)
            total += height if ones == 3 else -slope * ones
        for (slope, height, top), x in zip(peaks, place[6:], strict=True):
            total += max(slope * (1.0 - x), height * (1.0 - ((x - top) / 0.06) ** 2))
        return total

    best = math.fsum(height for _, _, height in traps) + math.fsum(height for _, height, _ in peaks)
    switches = tuple(_levels(k, 2) for k in range(1, 7))
    scales = tuple(_scale(rng, k, rng.uniform(0.4, 0.6)) for k in (7, 8, 9))
    return Landscape(parameters=switches + scales, gain=gain, best=best)


def _rosenbrock(rng: random.Random) -> Landscape:
    """Rosenbrock's valley (The Computer Journal 3, 1960) in four constants, by the logarithm of its value."""
    n, height = 4, rng.uniform(20.0, 30.0)
    order = rng.sample(range(n), n)
    flipped = [rng.random() < 0.5 for _ in range(n)]
    start = [rng.uniform(-1.5, -0.5) for _ in range(n)]

    def value(x: Sequence[float]) -> float:
        return math.fsum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in itertools.pairwise(x))

    worst = math.log1p(value(start))

    def gain(place: Place) -> float:
        x = [4.0 * (1.0 - u if flip else u) - 2.0 for u, flip in zip(place, flipped, strict=True)]
        return height * (1.0 - math.log1p(value([x[k] for k in order])) / worst)

    placed: Mapping[int, float] = {k: (s + 2.0) / 4.0 for k, s in zip(order, start, strict=True)}
    parameters = tuple(_scale(rng, k + 1, 1.0 - placed[k] if flipped[k] else placed[k]) for k in range(n))
    return Landscape(parameters=parameters, gain=gain, best=height)


KINDS: Mapping[str, Callable[[random.Random], Landscape]] = {
    "mostly-null": _mostly_null,
    "many-small": _many_small,
    "xor": _xor,
    "ridge": _ridge,
    "cliff": _cliff,
    "heavy-tails": _heavy_tails,
    "accuracy": _accuracy,
    "deceptive": _deceptive,
    "rosenbrock": _rosenbrock,
}
