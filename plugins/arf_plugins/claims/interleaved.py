"""Claims: a patch is pruned, then measured against the baseline by pairs of fresh runs in random order.

What is compared is the difference within a pair, whose two runs start one after the other and have the same
seed, so that whatever drifts slower than a pair cancels, and noise that differs between the two is in the
scatter of the differences. Which of the two comes first is drawn at random for each pair (Fisher, The Design
of Experiments, 1935): where the patch does nothing, each difference is as likely positive as negative,
whatever the noise is like, and that is what is tested. docs/statistics.md has the measured error rates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

from arf.interfaces import ClaimRule, Recommendation
from arf.sdk.statistics import deciding_order, ignores_seed, t_critical, t_tail
from arf.study import Study
from arf.types import Claim, ClaimPlan, Experiment, Plan, Role
from arf_plugins.claims import Options

if TYPE_CHECKING:
    from arf.sdk.speed import Adjusted

FAILURES = 2
"""Failed runs or pairs of one kind that are made up for."""
EXACT = 12
"""Up to so many pairs all assignments of signs are looked at; beyond, `DRAWS` of them."""
DRAWS = 20_000
LEAST_PAIRS = 6
"""Fewer can prove nothing at 2.5 %: of 2 ** 5 assignments of signs the best has 3.1 %."""
CHECK_PAIRS = 4
"""Pairs of the patch and of the pruned one."""
WORTH = 1.0
"""Standard errors that a change must be worth to stay."""
LONGER = 1.1
"""A patch whose runs take so many times as long, or do so many times the steps, is noted."""


class Interleaved(ClaimRule):
    """Prunes by leaving each change out, checks what is left, then compares pairs of fresh runs."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or Options())

    @property
    def every_s(self) -> float | None:
        every: float | None = self.options.every
        return every

    @property
    def share(self) -> float:
        share: float = self.options.share
        return share

    def runs(self, study: Study) -> int:
        ideas = changes(study, study.lineage(study.incumbent_commit))
        return self._pruning_wanted(len(ideas)) + 2 * int(self.options.pairs)

    def begin(self, study: Study, patch: Recommendation, runs: int, why: str) -> ClaimPlan | None:
        number = len(study.claim_plans) + 1
        parent, ideas = patch.parent, patch.ideas
        if parent == study.base and not ideas:
            return None
        tier = study.tier(deciding_order(study)[0])
        idle = 2 * (tier.slots - 1)  # slots wait for the end of each of two stages
        most = min(int(self.options.pairs), runs // 2)
        if most < 2:
            return None
        pruning = self._pruning_wanted(len(ideas))
        short = pruning and runs < pruning + idle + 2 * most
        pairs = min(most, max(LEAST_PAIRS, runs // 4)) if short else most
        spare = runs - 2 * pairs - idle
        each, questioned = self._pruning(patch, spare)
        return ClaimPlan(
            number=number,
            parent=parent,
            ideas=ideas,
            questioned=questioned,
            tier=tier.name,
            runs_each=each,
            check_pairs=CHECK_PAIRS if questioned else 0,
            pairs=pairs,
            alpha=study.rule.alpha / 2 * share_of_claim(number),
            why=why,
        )

    def _pruning_wanted(self, changes: int) -> int:
        each: int = self.options.leave_one_out
        return _pruning_runs(changes, each) + 2 * CHECK_PAIRS if changes > 1 and each else 0

    def _pruning(self, patch: Recommendation, runs: int) -> tuple[int, tuple[int, ...]]:
        """Runs of each, and which ideas are questioned: all, or as many as the runs suffice for, those that
        are worth least first."""
        ideas = patch.ideas
        if len(ideas) < 2:
            return 0, ()
        doubtful = sorted(ideas, key=lambda idea: (patch.worth.get(idea, 0.0), -idea))
        for each in range(int(self.options.leave_one_out), 1, -1):
            if _pruning_runs(len(ideas), each) + 2 * CHECK_PAIRS <= runs:
                return each, ideas
        each = min(2, int(self.options.leave_one_out))
        while doubtful and _pruning_runs(len(doubtful), each) + 2 * CHECK_PAIRS > runs:
            doubtful.pop()
        return (each, tuple(sorted(doubtful))) if doubtful and each else (0, ())

    def plans(self, study: Study, plan: ClaimPlan) -> Sequence[Plan]:
        for stage in (_leaving_out, _check, _pairs):
            missing = [p for p in stage(study, plan) if (p.parent, p.ideas) not in study.refusals]
            if missing:
                return missing
            if _is_running(study, plan):
                return ()
        return ()

    def result(self, study: Study, plan: ClaimPlan, *, closing: bool = False) -> Claim | None:
        if not closing and (_is_running(study, plan) or self.plans(study, plan)):
            return None
        return _claim(study, plan)


def share_of_claim(number: int) -> float:
    """The share of alpha of a study's claim number so many, which add up to 2 over any number of them.

    The first has all of it, one-sided, which is what its 95 % interval says; all further ones share as much
    again: 1/(1 x 2), 1/(2 x 3), ... So a study in which nothing is better calls something proven with a
    chance of at most `noise.alpha` (Bonferroni), and of half of that with one claim.
    """
    return 1.0 if number == 1 else 1.0 / ((number - 1) * number)


def changes(study: Study, ideas: Sequence[int]) -> set[int | str]:
    """What ideas change together: each change of code by its number, each constant by its name."""
    found: set[int | str] = set()
    for idea in ideas:
        found.update(study.ideas[idea].constants or (idea,))
    return found


# ---- Pruning ------------------------------------------------------------------------------------


def _pruning_runs(changes: int, each: int) -> int:
    """The runs of the patch as a whole are in all comparisons, so there are more of them: the square root of
    the number of comparisons times as many (Dunnett, JASA 50, 1955)."""
    return each * (changes + math.isqrt(changes - 1) + 1) if changes else 0


def _leaving_out(study: Study, plan: ClaimPlan) -> Iterator[Plan]:
    """Block by block, each with the patch and every reduced one of it, in random order."""
    label = f"claim/{plan.number}/leave-one-out"
    there = _counted(study, label)
    for block in range(plan.runs_each if plan.questioned else 0):
        copies = math.isqrt(len(plan.questioned) - 1) + 1
        variants = [plan.ideas] * copies + [_without(plan.ideas, {idea}) for idea in plan.questioned]
        random.Random(f"{study.seed}/{label}/{block}").shuffle(variants)
        for ideas in variants:
            if there.get(ideas, 0) > 0:
                there[ideas] -= 1
                continue
            yield _plan(plan, ideas, label, None)


def _counted(study: Study, label: str) -> dict[tuple[int, ...], int]:
    """Runs of a round by their ideas; failed ones are made up for, twice at most."""
    there: dict[tuple[int, ...], int] = {}
    failed: dict[tuple[int, ...], int] = {}
    for number in study.by_round(label):
        run = study.experiments[number]
        there[run.ideas] = there.get(run.ideas, 0) + 1
        if _has_failed(run):
            failed[run.ideas] = failed.get(run.ideas, 0) + 1
    return {ideas: n - min(FAILURES, failed.get(ideas, 0)) for ideas, n in there.items()}


def worth(study: Study, plan: ClaimPlan) -> dict[int, tuple[float, float]]:
    """(what it is worth, standard error) of each questioned idea, in units of the objective.

    The patch is compared with itself without the idea. The error is from the scatter of the runs within each
    variant, pooled. An idea without which nothing runs, or merges, is worth more than can be told.
    """
    values: dict[tuple[int, ...], list[float]] = {}
    for number in study.by_round(f"claim/{plan.number}/leave-one-out"):
        run = study.experiments[number]
        if run.value is not None:
            values.setdefault(run.ideas, []).append(run.value)
    whole = values.get(plan.ideas, [])
    df = sum(len(some) - 1 for some in values.values())
    if not whole or df < 1:
        return {}
    squares = math.fsum((v - _mean(some)) ** 2 for some in values.values() for v in some)
    sigma = math.sqrt(squares / df)
    found = {}
    for idea in plan.questioned:
        without = values.get(_without(plan.ideas, {idea}), [])
        if without:
            gain = study.objective.gain(_mean(without), _mean(whole))
            found[idea] = gain, sigma * math.sqrt(1 / len(without) + 1 / len(whole))
    return found


def dropped(study: Study, plan: ClaimPlan) -> tuple[int, ...]:
    """What is taken back: ideas that read less than a standard error, unless the check says otherwise."""
    doubtful = {i for i, (gain, error) in worth(study, plan).items() if gain < WORTH * error}
    if not doubtful or (plan.parent, _without(plan.ideas, doubtful)) in study.refusals:
        return ()
    differences = _differences(study, f"claim/{plan.number}/check", plan.ideas)
    if len(differences) > 1:
        error = _deviation(differences) / math.sqrt(len(differences))
        if _mean(differences) < -WORTH * error:
            return ()
    return tuple(sorted(doubtful))


def _check(study: Study, plan: ClaimPlan) -> Iterator[Plan]:
    """Pairs of runs with and without what is doubtful: many small changes may be worth something together."""
    doubtful = {i for i, (gain, error) in worth(study, plan).items() if gain < WORTH * error}
    if doubtful and plan.check_pairs:
        label = f"claim/{plan.number}/check"
        yield from _paired(study, plan, label, plan.check_pairs, _without(plan.ideas, doubtful), plan.ideas)


# ---- The pairs ----------------------------------------------------------------------------------


def _pairs(study: Study, plan: ClaimPlan) -> Iterator[Plan]:
    patch = _without(plan.ideas, set(dropped(study, plan)))
    if patch or plan.parent != study.base:
        yield from _paired(study, plan, f"claim/{plan.number}/pairs", plan.pairs, patch, None)


def _paired(
    study: Study,
    plan: ClaimPlan,
    label: str,
    pairs: int,
    new: tuple[int, ...],
    old: tuple[int, ...] | None,
) -> Iterator[Plan]:
    """The runs that pairs still lack; `old` None is the baseline. Both runs of a pair have one seed."""
    there: dict[int, list[Experiment]] = {}
    for number in study.by_round(label):
        run = study.experiments[number]
        there.setdefault(run.seed, []).append(run)
    failed = sum(any(_has_failed(run) for run in runs) for runs in there.values())
    for index in range(pairs + min(failed, FAILURES)):
        seed, new_first = order(f"{study.seed}/{label}", index)
        sides = [_plan(plan, new, label, seed), _plan(plan, old, label, seed, base=study.base)]
        if not new_first:
            sides.reverse()
        held = [(run.parent, run.ideas) for run in there.get(seed, [])]
        yield from (side for side in sides if (side.parent, side.ideas) not in held)


def order(label: str, index: int) -> tuple[int, bool]:
    """The seed of the runs of a pair, and whether that of the patch comes first: drawn by lot."""
    chance = random.Random(f"{label}/{index}")
    return chance.randrange(2**31), chance.random() < 0.5


def _plan(
    plan: ClaimPlan, ideas: tuple[int, ...] | None, label: str, seed: int | None, *, base: str = ""
) -> Plan:
    is_base = ideas is None
    what = "the baseline" if is_base else f"{len(ideas or ())} changes of {len(plan.ideas)}"
    return Plan(
        parent=base if is_base else plan.parent,
        ideas=ideas or (),
        role=Role.CLAIM,
        tier=plan.tier,
        seed=seed,
        round=label,
        title=f"claim {plan.number}: {what}",
    )


def _differences(study: Study, label: str, old: tuple[int, ...] | None) -> list[float]:
    """The gains within the complete pairs of a round, in the order of their first runs."""
    halves: dict[int, dict[bool, float]] = {}
    for number in study.by_round(label):
        run = study.experiments[number]
        if run.value is not None:
            is_old = _is_base(study, run) if old is None else run.ideas == old
            halves.setdefault(run.seed, {})[is_old] = run.value
    return [study.objective.gain(two[True], two[False]) for two in halves.values() if len(two) == 2]


def _claim(study: Study, plan: ClaimPlan) -> Claim | None:
    label = f"claim/{plan.number}/pairs"
    gains = _differences(study, label, None)
    runs = [study.experiments[number] for number in study.by_round(label)]
    new = [run for run in runs if not _is_base(study, run)]
    old = [run for run in runs if _is_base(study, run)]
    paired = {run.seed for run in new if run.value is not None} & {r.seed for r in old if r.value is not None}
    if not gains:
        return None
    best = _mean([run.value for run in new if run.value is not None and run.seed in paired])
    base = _mean([run.value for run in old if run.value is not None and run.seed in paired])
    gain, n = _mean(gains), len(gains)
    df, error = n - 1, _deviation(gains) / math.sqrt(n) if n > 1 else math.inf
    p = chance_without_effect(gains, f"{study.seed}/{label}") if n > 1 else None
    speed = _as_on_average_machines(study, old, new, paired, error) if n > 1 and error else None
    if speed is not None:
        base, best, df, error = speed.old, speed.new, speed.df, speed.error
        gain = study.objective.gain(base, best)
        p = t_tail(gain / error, df)
    margin = t_critical(0.025, df) * error if n > 1 else math.inf
    low, high = (gain - margin, gain + margin) if n > 1 else (None, None)
    percent = 100 * gain / abs(base) if base else None
    is_unseeded = ignores_seed(study, plan.tier)
    proven = p is not None and p <= plan.alpha and not is_unseeded
    notes = ["the script ignores its seed, so chance cannot be told from gain"] if is_unseeded else []
    notes.append(_fairness([r for r in new if r.value is not None], [r for r in old if r.value is not None]))
    note = "; ".join(filter(None, notes))
    return Claim(
        number=plan.number,
        proven=proven,
        gain=gain,
        low=low,
        high=high,
        p=p,
        alpha=plan.alpha,
        percent=percent,
        best=best,
        baseline=base,
        best_runs=n,
        baseline_runs=n,
        tier=plan.tier,
        experiment=new[0].id,
        ideas=new[0].ideas,
        dropped=dropped(study, plan),
        note=note,
        speed=speed.text if speed else "",
        why=plan.why,
        text=_text(proven, gain, percent, low, high, n, note)
        + ("; as on machines of average speed" if speed else ""),
    )


def chance_without_effect(gains: Sequence[float], seed: str) -> float:
    """The chance of such a mean gain, or more, if each pair's sign were chance; one-sided.

    The larger of two: Student's for the mean of the differences, which is the sharper with few pairs; and the
    share of all assignments of signs that give as much (Fisher 1935, section 21; Pitman 1937), which supposes
    nothing of the noise.
    """
    n, mean = len(gains), _mean(gains)
    deviation = _deviation(gains)
    student = t_tail(mean / (deviation / math.sqrt(n)), n - 1) if deviation else float(mean <= 0)
    total = math.fsum(gains) - 1e-12 * math.fsum(map(abs, gains))
    sizes = [abs(gain) for gain in gains]
    if n <= EXACT:
        sums = [math.fsum(s * size for s, size in zip(signs, sizes, strict=True)) for signs in _signs(n)]
        signs_p = sum(value >= total for value in sums) / len(sums)
    else:
        chance = random.Random(seed)
        more = sum(
            math.fsum(size if chance.getrandbits(1) else -size for size in sizes) >= total
            for _ in range(DRAWS)
        )
        signs_p = (more + 1) / (DRAWS + 1)
    return max(student, signs_p)


def _signs(n: int) -> Iterator[tuple[int, ...]]:
    return product((1, -1), repeat=n)


def _as_on_average_machines(
    study: Study, old: Sequence[Experiment], new: Sequence[Experiment], paired: set[int], error: float
) -> Adjusted | None:
    """Both sides adjusted for the speed of machines, where that is surer than the differences are."""
    from arf.sdk.speed import adjusted  # linear algebra, which a start need not wait for

    before, after = ([run for run in side if run.seed in paired] for side in (old, new))
    return adjusted(study, before, after, error)


def _fairness(new: Sequence[Experiment], old: Sequence[Experiment]) -> str:
    """A note where the patch has more compute than the baseline: that is no gain by itself."""
    told = []
    for what, measure in (("take", _seconds), ("do", _steps)):
        mine = [value for run in new if (value := measure(run)) > 0]
        theirs = [value for run in old if (value := measure(run)) > 0]
        if mine and theirs and (ratio := _mean(mine) / _mean(theirs)) >= LONGER:
            told.append(f"{what} {ratio:.2f} times the {'time' if what == 'take' else 'steps'}")
    return f"its runs {' and '.join(told)} of the baseline's" if told else ""


def _seconds(run: Experiment) -> float:
    return run.slot_s


def _steps(run: Experiment) -> float:
    return float(run.curve[-1][0]) if run.curve else 0.0


def _text(
    proven: bool,
    gain: float,
    percent: float | None,
    low: float | None,
    high: float | None,
    n: int,
    note: str,
) -> str:
    share = "" if percent is None else f" ({percent:+.2f} %)"
    interval = "" if low is None else f", 95 % interval {low:.4g} to {high:.4g}"
    how = f"{n} fresh run{'s' * (n != 1)} of each, in pairs"
    more = f"; {note}" if note else ""
    if proven:
        return f"proven: better than the baseline by {gain:.4g}{share}{interval}; {how}{more}"
    return f"not proven: gain {gain:.4g}{share}{interval}; {how}{more}"


# ---- Small things -------------------------------------------------------------------------------


def _is_running(study: Study, plan: ClaimPlan) -> bool:
    prefix = f"claim/{plan.number}/"
    return any(study.experiments[number].round.startswith(prefix) for number in study.running)


def _is_base(study: Study, run: Experiment) -> bool:
    return run.parent == study.base and not run.ideas


def _has_failed(run: Experiment) -> bool:
    return run.verdict is not None and run.value is None


def _without(ideas: tuple[int, ...], out: set[int]) -> tuple[int, ...]:
    return tuple(idea for idea in ideas if idea not in out)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
