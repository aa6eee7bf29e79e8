"""What `arf status` shows: a study in one dictionary, read from indexed rows so that size does not matter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import asdict

from arf.status import costs, held_resources, slot_usage, tier_stats
from arf.store.database import Store, lock_owner, study_from_json
from arf.study import Study
from arf.types import Claim, ClaimPlan, Experiment, Objective, Verdict


def summarize(store: Store, *, verdicts: int = 10) -> dict[str, Any]:
    """A study's state, ready for JSON. `verdicts` is how many of the last ones are told."""
    study = study_from_json(store.meta("study"))
    totals = store.totals()
    running = store.running()
    kept = store.kept()
    elapsed_s = float(store.meta("elapsed_s", 0.0))
    slot_s = {name.removeprefix("slot_s/"): v for name, v in totals.items() if name.startswith("slot_s/")}
    spent = costs.account(store, study, totals)
    owner = lock_owner(store.directory)
    return {
        "study": study.name,
        "state": _state(store, owner),
        "pid": owner,
        "created_at": store.meta("created_at"),
        "workspace": str(store.workspace),
        "strategy": store.meta("strategy"),
        "agent": store.meta("agent"),
        "backend": store.meta("backend"),
        "base": study.base,
        "objective": {"metric": study.objective.metric, "direction": str(study.objective.direction)},
        "tiers": [{"name": t.name, "slots": t.slots, "usd_per_hour": t.usd_per_hour} for t in study.tiers],
        "experiments": int(totals.get("experiments", 0)),
        "ended": int(totals.get("ended", 0)),
        "verdicts": {
            str(verdict): int(totals[f"verdict/{verdict}"])
            for verdict in Verdict
            if f"verdict/{verdict}" in totals
        },
        "running": [_running(experiment) for experiment in running],
        "last": [_judged(experiment) for experiment in store.last_judged(verdicts)],
        "noise": _noise(store),
        "hardware": [one.to_json() for one in tier_stats.measured_in(store, study, kept)],
        "nodes_aside": store.meta("nodes", {"aside": []})["aside"],
        **_best(store, study, kept),
        "budget": store.meta("budget", {}),
        "elapsed_s": elapsed_s,
        "slot_s": slot_s,
        "slot_hours": sum(slot_s.values()) / 3600,
        "time": _time(store),
        "utilisation": _utilisation(study, slot_s, elapsed_s, running if owner is not None else []),
        "usd": spent["usd"],
        "money": spent,
        "standing": _standing(store),
        "tokens": int(totals.get("tokens", 0)),
        "open_asks": store.open_asks(),
        "final": _final(store, kept),
        "claims": [_claimed(plan, claim) for plan, claim in store.claims()],
        "reason": store.meta("end_reason", ""),
        "notes": store.meta("notes", []),
        "suspects": store.meta("suspects", {}).get("open", []),
        "directory": str(store.directory),
    }


def _state(store: Store, owner: int | None) -> str:
    """*running*, *finished*, *stopped*, *failed*; *interrupted* where arf died without a word."""
    if owner is not None:
        return "running"
    state = str(store.meta("state", "stopped"))
    return "interrupted" if state == "running" else state


def _standing(store: Store) -> dict[str, Any] | None:
    """What the backend held when it was last looked at; None if it never held anything besides jobs."""
    noted = held_resources.told(store)
    return {**noted, "at": held_resources.at_of(noted).isoformat()} if noted["at"] else None


def _time(store: Store) -> dict[str, Any]:
    """Where the slots' time went up to the last turn: seconds by tier and use; shares of all; those idle."""
    used_s = store.meta("timesheet", {"used_s": {}})["used_s"]
    shares = slot_usage.shares(used_s)
    idle = {use: share for use, share in shares.items() if use in slot_usage.IDLE}
    return {"used_s": used_s, "shares": shares, "idle": idle}


def _noise(store: Store) -> dict[str, dict[str, float]]:
    """By tier: the pooled standard deviation of replicates and its degrees of freedom."""
    return {
        tier: {"sigma": math.sqrt(sum_squares / df), "df": df}
        for (tier, budget), (sum_squares, df) in store.spreads().items()
        if budget is None and df > 0
    }


def _best(store: Store, study: Study, kept: list[Experiment]) -> dict[str, Any]:
    """The baseline and the incumbent, by their means on the incumbent's tier.

    Where the incumbent has been confirmed, by the runs that confirm it and no others: every view then tells
    the gain measured on confirmation runs that were not used for selection.
    """
    if not kept:
        return {"baseline": None, "best": None, "kept": []}
    best = kept[-1]
    tier = best.tier
    base = _mean(store.replicates(study.base_tree, tier))
    mine = _mean(store.replicates(best.tree, tier))
    told: dict[str, Any] = {
        "baseline": base and {"mean": base[0], "n": base[1], "tier": tier},
        "best": mine
        and {
            "experiment": best.id,
            "commit": best.commit,
            "title": best.title,
            "mean": mine[0],
            "n": mine[1],
            "tier": tier,
            "gain": study.objective.gain(base[0], mine[0]) if base else None,
            "gain_percent": percent(study.objective, base[0], mine[0]) if base else None,
            "fresh": False,
        },
        "kept": [_judged(experiment) for experiment in kept],
    }
    final = _final(store, kept)
    if mine and final is not None and final["fresh"]:
        tier = final["tier"]
        told["baseline"] = {"mean": final["baseline"], "n": final["baseline_runs"], "tier": tier}
        told["best"] |= {
            "mean": final["best"],
            "n": final["best_runs"],
            "tier": tier,
            "gain": final["gain"],
            "gain_percent": final["percent"],
            "fresh": True,
        }
    return told


def _final(store: Store, kept: list[Experiment]) -> dict[str, Any] | None:
    """The last claim, if it is about the incumbent; else None."""
    claims = [claim for _, claim in store.claims() if claim is not None]
    if claims and kept:
        about = store.experiment(claims[-1].experiment)
        return asdict(claims[-1]) if about is not None and about.tree == kept[-1].tree else None
    final: dict[str, Any] | None = store.meta("final")  # as arf 0.1 wrote it
    return final if final is not None and kept and final["experiment"] == kept[-1].id else None


def _claimed(plan: ClaimPlan, claim: Claim | None) -> dict[str, Any]:
    """A claim: what it was begun for, and what came of it, if it is complete."""
    return {"number": plan.number, "why": plan.why, "result": None if claim is None else asdict(claim)}


def percent(objective: Objective, base: float, value: float) -> float | None:
    """The gain as a percentage of the baseline; None where that means nothing."""
    return 100 * objective.gain(base, value) / abs(base) if base else None


def _mean(experiments: list[Experiment]) -> tuple[float, int] | None:
    values = [experiment.value for experiment in experiments if experiment.value is not None]
    return (math.fsum(values) / len(values), len(values)) if values else None


def _utilisation(
    study: Study, slot_s: Mapping[str, float], elapsed_s: float, running: list[Experiment]
) -> float | None:
    """The share of slot time spent inside experiments; None before there is any.

    `elapsed_s` is as of the last turn, so what runs now counts from its start to that turn at most: it is
    left out, and so is its slot's time.
    """
    slots = sum(tier.slots for tier in study.tiers)
    now = datetime.now(UTC)
    under_way_s = sum((now - e.started_at).total_seconds() for e in running if e.started_at is not None)
    had_s = slots * elapsed_s
    if had_s <= 0:
        return None
    used_s = sum(slot_s.values())
    return min(1.0, used_s / max(used_s, had_s - under_way_s)) if used_s else None


def _running(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment": experiment.id,
        "title": experiment.title,
        "role": str(experiment.role),
        "tier": experiment.tier,
        "slot": experiment.slot,
        "started_at": experiment.started_at.isoformat() if experiment.started_at else None,
        "attempt": experiment.attempt,
    }


def _judged(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment": experiment.id,
        "commit": experiment.commit,
        "title": experiment.title,
        "role": str(experiment.role),
        "verdict": str(experiment.verdict),
        "value": experiment.value,
        "reason": experiment.reason,
    }
