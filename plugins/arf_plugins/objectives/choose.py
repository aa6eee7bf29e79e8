"""From options to an objective."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from arf.errors import UsageError, nearest
from arf_plugins.objectives.objective import SimulatedObjective, Values

if TYPE_CHECKING:
    from arf_plugins.backend_sim import ObjectiveOptions, SimTier

KINDS = ("surface", "generated", "h200", "hpo-bench", "table", "replay")


def make_objective(
    options: ObjectiveOptions, tiers: Mapping[str, SimTier], seed: int = 0
) -> SimulatedObjective:
    """The objective that options describe, on the hardware of the tiers. Raises UsageError.

    `seed` is the study's: one that is generated is another one for each, unless it says which.
    """
    objective = _make(options, seed)
    if math.isnan(objective.truth(objective.base)):
        raise UsageError(
            "the unchanged script of this objective crashes",
            hint="a study needs one that runs: change its base",
        )
    for tier in tiers.values():
        for name in tier.reversals:
            if name not in objective.base:
                raise UsageError(
                    f"reversals: the objective has no constant {name!r}", hint=nearest(name, objective.base)
                )
    if options.noise is None and not any(tier.offset or tier.reversals for tier in tiers.values()):
        return objective
    return OnHardware(objective, tiers, options.noise)


def _make(options: ObjectiveOptions, seed: int) -> SimulatedObjective:
    if options.kind == "surface":
        from arf_plugins.objectives.surface import make_surface

        return make_surface(options)
    if options.kind == "generated":
        from arf_plugins.objectives.generated import generate

        return generate(options.name, seed if options.instance is None else options.instance)
    if options.kind == "h200":
        from arf_plugins.objectives.h200 import H200Objective

        return H200Objective()
    if options.kind == "hpo-bench":
        from arf_plugins.objectives.hpo_bench import HpoBenchObjective

        return HpoBenchObjective(options.name)
    if options.kind == "table":
        from arf_plugins.objectives.table import TableObjective, read_table

        return TableObjective(read_table(options.file))
    if options.kind == "replay":
        from arf_plugins.objectives.replay import read_ledger
        from arf_plugins.objectives.table import TableObjective

        return TableObjective(read_ledger(options.file))
    if ":" in options.kind:
        return _import(options)
    raise UsageError(f"there is no objective {options.kind!r}", hint=nearest(options.kind, KINDS))


def _import(options: ObjectiveOptions) -> SimulatedObjective:
    """Somebody's own: `package.module:Class`, made with the options."""
    from importlib import import_module

    module, _, name = options.kind.partition(":")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the objective {options.kind!r} cannot be imported: {error}", hint="write package.module:Class"
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, SimulatedObjective)):
        raise UsageError(f"{options.kind} is no SimulatedObjective")
    make: Callable[[ObjectiveOptions], SimulatedObjective] = cls
    return make(options)


class OnHardware(SimulatedObjective):
    """An objective as tiers distort it, and with another noise if one is given."""

    def __init__(
        self, objective: SimulatedObjective, tiers: Mapping[str, SimTier], noise: float | None
    ) -> None:
        self._inner = objective
        self._tiers = dict(tiers)
        self._noise = noise
        self._optima: dict[str, float] = {}
        self.parameters = objective.parameters
        self.objective = objective.objective

    def truth(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        inner = self._inner.truth(values, tier, share)
        hardware = self._tiers.get(tier)
        if hardware is None:
            return inner
        moved = sum(
            extra * self._inner.moved(name, values[name]) for name, extra in hardware.reversals.items()
        )
        return inner + hardware.offset + moved

    def sigma(self, values: Values, tier: str = "", share: float = 1.0) -> float:
        return self._inner.sigma(values, tier, share) if self._noise is None else self._noise

    def draw(self, values: Values, tier: str, share: float, rng: random.Random) -> float:
        """The objective's own noise, whatever its shape, around the truth of the tier."""
        if self._noise is not None:
            return super().draw(values, tier, share, rng)
        there = self.truth(values, tier, share) - self._inner.truth(values, tier, share)
        return self._inner.draw(values, tier, share, rng) + there

    def seconds_to_crash(self, values: Values) -> float | None:
        return self._inner.seconds_to_crash(values)

    def also_prints(self, values: Values, share: float = 1.0) -> Mapping[str, float]:
        return self._inner.also_prints(values, share)

    def optimum(self, tier: str = "") -> float:
        hardware = self._tiers.get(tier)
        if hardware is None or not hardware.reversals:
            return self._inner.optimum(tier) + (hardware.offset if hardware else 0.0)
        if tier not in self._optima:
            self._optima[tier] = self.searched_optimum(tier)
        return self._optima[tier]
