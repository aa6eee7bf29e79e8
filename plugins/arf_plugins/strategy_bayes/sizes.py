"""How large each term of the model is, from the readings.

Maximum likelihood by the fixed-point iteration of Zhou, Hu, Zhou and Lange, "MM algorithms for variance
components models", Journal of Computational and Graphical Statistics 28 (2019): no step can overshoot, and
many terms cost little more than one. An inverse-gamma prior keeps terms from 0. Heavy tails: readings far off
are given less weight, as under Student's t (Lange, Little and Taylor, JASA 84, 1989).
"""

from __future__ import annotations

import numpy as np

from arf_plugins.strategy_bayes.axes import Levels, Vector
from arf_plugins.strategy_bayes.covariance import Covariance, Readings, Sizes

TAILS = 4.0
"""Degrees of freedom of the noise."""
ROUNDS = 12
PRIOR = 0.5
"""Weight of the prior of the size of a term."""
FITTED = 320
"""Readings that the sizes are estimated from, at most."""
PAIRED = 132
"""Features, at most, of the axes that take part in pairs: those that do so most, where there are many."""
LEAST = 1e-12


def estimate(covariance: Covariance, readings: Readings) -> Sizes:
    """The sizes that the readings speak for."""
    readings = readings.some(_rows(readings))
    sizes = _Estimate(covariance, readings).sizes
    order = np.argsort(-sizes.active, kind="stable")
    widths = np.array([len(columns) for columns in covariance.columns], dtype=np.intp)
    sizes.active[order[np.cumsum(widths[order]) > PAIRED]] = 0.0
    sizes.paired = np.flatnonzero(sizes.active[covariance.basis.owner] > 0)
    return sizes


def _rows(readings: Readings) -> Levels:
    """The last ones, and the best of those before."""
    n = len(readings)
    if n <= FITTED:
        return np.arange(n)
    half = FITTED // 2
    early = np.argsort(-readings.y[:-half], kind="stable")[:half]
    return np.concatenate([np.sort(early), np.arange(n - half, n)])


class _Estimate:
    def __init__(self, covariance: Covariance, readings: Readings) -> None:
        self._covariance = covariance
        self._readings = readings
        self._x = covariance.basis.of_points(readings.points)
        self._first = self.sizes = self._start()
        self._weights = np.ones(len(readings))
        for number in range(ROUNDS):
            self._improve(robust=number >= ROUNDS // 3)

    def _start(self) -> Sizes:
        y, points = self._readings.y, self._readings.points
        n = points.shape[1]
        scale = float(1.4826 * np.median(np.abs(y - np.median(y)))) or float(np.std(y)) or 1.0
        changed = np.count_nonzero(points, axis=1)
        each = 1.0 / max(1.0, float(changed[changed > 0].mean()) if changed.any() else 1.0)
        return Sizes(
            scale=scale,
            axes=np.full(n, each),
            active=np.ones(n),
            paired=np.arange(len(self._covariance.basis.owner)),
            pairs=0.1 * each,
            whole=0.3 if len(self._covariance.frequencies) else 0.0,
            elsewhere=0.05,
            drift=0.01,
            node=0.01,
            noise=0.5,
        )

    def _improve(self, *, robust: bool) -> None:
        """One round: each size moves by how much of its term the data show, over what chance would."""
        readings, sizes, first, x = self._readings, self.sizes, self._first, self._x
        parts = self._covariance.parts(readings, x, readings, x, sizes)
        v = sum(parts.values()) + np.diag(sizes.noise / self._weights)
        inverse: Vector = np.asarray(np.linalg.inv(v), dtype=np.float64)
        a = inverse @ (readings.y / sizes.scale)
        diagonal = np.diag(inverse)

        def moved(name: str, size: float, prior: float) -> float:
            if name not in parts:
                return size
            part = parts[name]
            return float(_moved(size, a @ part @ a * size, np.sum(inverse * part) / max(size, LEAST), prior))

        of_noise = float(np.sum(a * a / self._weights)), float(np.sum(diagonal / self._weights))
        self.sizes = Sizes(
            scale=sizes.scale,
            axes=self._axes(a, inverse),
            active=self._active(a, inverse),
            paired=sizes.paired,
            pairs=moved("pairs", sizes.pairs, first.pairs),
            whole=moved("whole", sizes.whole, first.whole),
            elsewhere=moved("elsewhere", sizes.elsewhere, first.elsewhere),
            drift=moved("drift", sizes.drift, first.drift),
            node=moved("node", sizes.node, first.node),
            noise=float(_moved(sizes.noise, of_noise[0] * sizes.noise**2, of_noise[1], first.noise)),
        )
        if robust:
            weights = student_weights(a / diagonal, 1 / diagonal)
            self._weights = weights / np.mean(weights)

    def _axes(self, a: Vector, inverse: Vector) -> Vector:
        sizes, x, owner = self.sizes, self._x, self._covariance.basis.owner
        n = len(sizes.axes)
        q = np.bincount(owner, (x.T @ a) ** 2, n) * sizes.axes**2
        t = np.bincount(owner, np.einsum("ij,ij->j", x, inverse @ x), n).astype(np.float64)
        return _moved(sizes.axes, q, t, self._first.axes)

    def _active(self, a: Vector, inverse: Vector) -> Vector:
        """How much each axis takes part in pairs, by all pairs that it is in."""
        sizes, x = self.sizes, self._x
        found = sizes.active.copy()
        together = (x * sizes.active[self._covariance.basis.owner]) @ x.T
        for i, mine in enumerate(self._covariance.columns):
            rows = np.flatnonzero(self._readings.points[:, i])
            if not len(rows):
                continue
            some = np.ix_(rows, rows)
            k = x[rows][:, mine] @ x[rows][:, mine].T
            c = k * (together[some] - sizes.active[i] * k)
            size = sizes.pairs * sizes.active[i]
            q, t = float(a[rows] @ c @ a[rows]), float(np.sum(inverse[some] * c))
            found[i] *= ((q * size + 2 * PRIOR) / (t * size + 2 * PRIOR)) ** 0.5
        return np.asarray(found / max(float(found.mean()), LEAST))


def student_weights(residuals: Vector, variances: Vector) -> Vector:
    """The weights of readings, by what each is off from what the others say."""
    return np.asarray((TAILS + 1) / (TAILS + residuals**2 / variances))


def _moved(size: Vector | float, q: Vector | float, t: Vector | float, prior: Vector | float) -> Vector:
    """The new size: it minimises the bound of the likelihood, and of the prior, at the old one.

    `q` is the quadratic form of the data with the term, times the size squared; `t` its trace; both as if
    the size were 1.
    """
    t = np.maximum(t, LEAST)
    b = 0.5 * np.asarray(q) + PRIOR * np.asarray(prior)
    return np.asarray((-PRIOR + np.sqrt(PRIOR**2 + 2 * t * b)) / t)
