"""Labels in a plot that cover neither the line, nor each other, nor, where it can be helped, the dots."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Pixels = NDArray[np.float64]
"""Places in the picture: an x and a y in each row."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""

COLOUR = "#1a7a3a"


class Labels:
    """Places one label after the other, each where it costs least; so the important ones come first."""

    def __init__(self, axes: Axes, corners: Pixels, dots: Pixels, *, colour: str = COLOUR) -> None:
        """`corners` are those of the step line, with its end; the figure has been drawn once."""
        self._axes = axes
        self._colour = colour
        self._line = _line_boxes(corners)
        self._dots = dots
        self._boxes: list[Box] = []
        self._ways: list[Pixels] = []
        frame = axes.get_window_extent()
        self._frame: Box = (frame.x0 + 2, frame.y0 + 14, frame.x1 - 2, frame.y1 - 2)

    def add(self, title: str, data: tuple[float, float], at: Pixels) -> None:
        """Label the point `data`, which is at `at` in the picture; leave it out if there is no room."""
        text = self._axes.annotate(
            title,
            data,
            xytext=(0, 0),
            textcoords="offset pixels",
            fontsize=8.5,
            color=self._colour,
            parse_math=False,
            zorder=6,
            path_effects=[effects.withStroke(linewidth=2.5, foreground="white", alpha=0.85)],
            arrowprops={
                "arrowstyle": "-",
                "color": self._colour,
                "alpha": 0.35,
                "linewidth": 0.7,
                "shrinkB": 4,
            },
        )
        extent = text.get_window_extent()
        costs: list[tuple[float, float, float]] = []
        for dx, dy in _offsets(extent.width, extent.height):
            box = _box(at, dx, dy, extent.width, extent.height)
            if (cost := self._cost(at, box)) is not None:
                costs.append((cost, dx, dy))
        if not costs:
            text.remove()
            return
        _, dx, dy = min(costs)
        text.set_position((dx, dy))
        box = _box(at, dx, dy, extent.width, extent.height)
        self._boxes.append(box)
        self._ways.append(_way(at, box))

    def _cost(self, at: Pixels, box: Box) -> float | None:
        """None where a label cannot be."""
        frame = self._frame
        if box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]:
            return None
        if any(_overlap(box, other) for other in (*self._line, *self._boxes)):
            return None
        way = _way(at, box)
        crossings = sum(_inside(way, other) > 0 for other in self._boxes)
        crossings += sum(_inside(other, box) > 0 for other in self._ways)
        distance = float(np.hypot(*(way[-1] - at)))
        return distance / 12 + 8.0 * _inside(self._dots, box) + 25.0 * crossings


def _line_boxes(corners: Pixels) -> list[Box]:
    """The steps, and the dots on them."""
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        boxes.append((x0, y0 - 2, x1, y0 + 2))
        boxes.append((x1 - 2, min(y0, y1), x1 + 2, max(y0, y1)))
    return boxes + [(x - 6, y - 6, x + 6, y + 6) for x, y in corners]


def _offsets(width: float, height: float) -> Iterable[tuple[float, float]]:
    """Where the lower left corner of a label can be, seen from its point."""
    for lift in (0.3, 1.0, 2.0, 3.2, 4.5, 6.0, 8.0, 10.5, 13.5):
        for dy in (-(lift + 1) * height, lift * height):
            for dx in (-width - 8, 10.0, -width / 2, -width * 0.8, -width * 0.2):
                yield dx, dy


def _box(at: Pixels, dx: float, dy: float, width: float, height: float) -> Box:
    """The room of a label, with a margin."""
    x, y = float(at[0]) + dx, float(at[1]) + dy
    return x - 3, y - 2, x + width + 3, y + height + 2


def _way(at: Pixels, box: Box) -> Pixels:
    """Places along the line from a point to the middle of its label."""
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    return at + np.linspace(0.0, 1.0, 24)[:, None] * (middle - at)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(places: Pixels, box: Box) -> int:
    """How many of the places are in a box."""
    x, y = places[:, 0], places[:, 1]
    return int(np.count_nonzero((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])))
