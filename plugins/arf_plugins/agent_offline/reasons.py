"""Says in words what an idea is and why."""

from __future__ import annotations

from arf.types import Scalar
from arf_plugins.agent_offline.history import Comparison, History
from arf_plugins.agent_offline.model import Model
from arf_plugins.agent_offline.scales import Ordered, Scale
from arf_plugins.agent_offline.space import Space, Values

_CLEAR = 2.0
"""A gain of this many noises is called one."""


class Reasons:
    """For the changes of one answer."""

    def __init__(self, space: Space, history: History, model: Model) -> None:
        self._space = space
        self._history = history
        self._model = model

    def title(self, change: Values) -> str:
        """`DEPTH 4 -> 3, WIDTH 64 -> 96`."""
        return ", ".join(
            f"{name} {_shown(self._space.values[name])} -> {_shown(new)}" for name, new in change.items()
        )

    def expected(self, change: Values) -> float | None:
        """The predicted gain; None while no result speaks about these constants."""
        if not any(self._history.comparisons.get(name) for name in change):
            return None
        return float(f"{float(self._model.predict([change])[0][0]):.3g}")

    def reason(self, change: Values) -> str:
        parts = [self._of_one(name, value) for name, value in change.items()]
        if len(parts) > 1:
            return "two moves that look good by themselves, together: " + "; ".join(parts)
        return parts[0]

    def _of_one(self, name: str, value: Scalar) -> str:
        scale = self._space.scales[name]
        told = [
            (gain, comparison)
            for comparison in self._history.comparisons.get(name, ())
            if (gain := self._history.gain(comparison)) is not None
        ]
        if not told:
            return f"{name} has not been tried yet; it is one of the {scale.family.label}"
        gain, comparison = max(told, key=lambda one: one[0])
        move = f"{name} {_shown(comparison.old)} -> {_shown(comparison.new)}"
        evidence = f"{move} {_gained(gain)} in #{comparison.experiment}"
        if gain > _CLEAR * self._model.noise or len(told) == 1:
            return f"{evidence}; {_direction(scale, comparison, value)}"
        return f"of {len(told)} moves of {name} so far none was clearly better, at best: {evidence}"


def _direction(scale: Scale, comparison: Comparison, value: Scalar) -> str:
    """Where a value lies, seen from a move that was made."""
    if not isinstance(scale, Ordered):
        return "tries another value"
    old, new, there = (scale.place(one) or 0.0 for one in (comparison.old, comparison.new, value))
    if there * (new - old) < 0:
        return "tries the other direction"
    return "goes further that way" if (there - new) * (new - old) > 0 else "goes part of that way"


def _gained(gain: float) -> str:
    return f"gained {gain:+.2g}" if gain > 0 else f"cost {-gain:.2g}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
