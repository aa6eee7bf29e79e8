"""What real machines and scripts do to a reading besides white noise: drift, speed, tails and the like.

All of it is drawn from the seed, the run's settings, its node and its number, never from a clock: how far a
study has got is measured by how many experiments it has started. So a study that is killed and resumed on one
slot reads what it would have read.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from attrs import define, field, frozen

from arf.types import Seconds
from arf_plugins.backend_sim import DisturbanceOptions
from arf_plugins.objectives.tails import with_tails


@frozen(kw_only=True)
class Place:
    """Where and when a run happens."""

    tier: str
    slot: int
    number: int
    """The experiment's number in its study, from 1."""


@frozen(kw_only=True)
class Drawn:
    """What a run would have read by itself."""

    truth: float
    value: float
    unit: float
    """One sigma: the standard deviation of a run of the unchanged script there."""
    gets_worse: float
    """1 where a larger value is worse, else -1."""


@define
class _Series:
    """A stationary AR(1) series of variance 1, drawn as far as it is asked for."""

    chance: random.Random
    phi: float
    values: list[float] = field(factory=list)

    def at(self, index: int) -> float:
        while len(self.values) <= index:
            last = self.values[-1] if self.values else self.chance.gauss(0.0, 1.0)
            self.values.append(self.phi * last + math.sqrt(1 - self.phi**2) * self.chance.gauss(0.0, 1.0))
        return self.values[index]


class Disturbances:
    """The disturbances of a simulated study. Deterministic; what it remembers only saves time."""

    def __init__(
        self, options: DisturbanceOptions, slots: Mapping[str, int], run_s: Seconds, seed: int
    ) -> None:
        """`slots` by tier; `run_s` is the time of a run, by which numbers of experiments become hours."""
        self._options = options
        self._slots = sum(slots.values())
        self._run_s = run_s
        self._seed = seed
        self._series: dict[tuple[str, str, int], _Series] = {}
        self._nodes: dict[tuple[str, str, int], float] = {}

    # ---- Speed ------------------------------------------------------------------------------------

    def speed(self, place: Place) -> float:
        """How fast the machine is there and then, as a factor of what it is on average."""
        o = self._options
        logarithm = o.speed_drift * self._progress(place)
        if o.node_speed:
            logarithm += o.node_speed * self._node("speed", place)
        if o.speed:
            logarithm += o.speed * self._at("speed", place, o.speed_ar1)
        return math.exp(logarithm)

    def own_speed(self, settings: str) -> float:
        """How fast this setting itself is, wherever it runs."""
        if not self._options.own_speed:
            return 1.0
        return math.exp(self._options.own_speed * self._by_settings("own-speed", settings).gauss(0.0, 1.0))

    # ---- Values -----------------------------------------------------------------------------------

    def read(
        self, drawn: Drawn, place: Place, settings: str, chance: random.Random, speed: float = 1.0
    ) -> float:
        """What the run prints. `settings` names what it runs; `chance` is its own, `speed` its machine's."""
        o = self._options
        noise = drawn.value - drawn.truth
        if o.ar1:
            slow = self._at("ar1", place, o.ar1) * drawn.unit
            noise = math.sqrt(o.ar1_share) * slow + math.sqrt(1.0 - o.ar1_share) * noise
        noise = with_tails(noise, drawn.unit, o.tails, chance)
        if o.commit_noise:
            noise *= math.exp(o.commit_noise * self._by_settings("noise", settings).gauss(0.0, 1.0))
        moved = o.drift * self._progress(place)
        if o.step and self._progress(place) >= o.step_at:
            moved += o.step
        if o.node_offset:
            moved += o.node_offset * self._node("offset", place)
        moved -= drawn.gets_worse * o.speed_effect * 100.0 * math.log(speed)
        value = drawn.truth + noise + moved * drawn.unit
        if o.rounding and drawn.unit:
            grid = o.rounding * drawn.unit
            value = round(value / grid) * grid
        return value

    # ---- Where it comes from -----------------------------------------------------------------------

    def _progress(self, place: Place) -> float:
        """How far the study has got: 0 at its first run, 1 after `span_s`, and no further."""
        return min(1.0, (place.number - 1) * self._run_s / self._slots / self._options.span_s)

    def _node(self, what: str, place: Place) -> float:
        """A standard normal number of each node's own."""
        key = (what, place.tier, place.slot)
        if key not in self._nodes:
            chance = random.Random(f"{self._seed}/node/{what}/{place.tier}/{place.slot}")
            self._nodes[key] = chance.gauss(0.0, 1.0)
        return self._nodes[key]

    def _at(self, what: str, place: Place, phi: float) -> float:
        """The state of a node at the time: a step of an AR(1) series for each run that it could have done."""
        key = (what, place.tier, place.slot)
        if key not in self._series:
            chance = random.Random(f"{self._seed}/series/{what}/{place.tier}/{place.slot}")
            self._series[key] = _Series(chance, phi)
        return self._series[key].at((place.number - 1) // self._slots)

    def _by_settings(self, what: str, settings: str) -> random.Random:
        return random.Random(f"{self._seed}/{what}/{settings}")
