"""What studies cost, by hand: agents' asks, machines, ideas and kept gains."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from arf.cli.describe import cost_text, tier_costs_text
from arf.status import costs
from arf.store.database import Store
from arf.study import Study
from arf.types import Ask, Experiment, ExperimentState, Idea, Role, Tier, Usage, Verdict

AT = datetime(2026, 1, 1, tzinfo=UTC)
TIERS = (Tier(name="h100", slots=2, usd_per_hour=2.0), Tier(name="h200", slots=1, usd_per_hour=4.0))


@pytest.fixture
def study() -> Study:
    return Study(name="s", base="b", base_tree="t", tiers=TIERS)


@pytest.fixture
def store(study: Study, tmp_path: Path) -> Store:
    return Store.create(tmp_path, study, {})


def ask(store: Store, number: int, ideas: tuple[int, ...], usd: float, tokens: int) -> None:
    with store.transaction():
        store.open_ask(number, Ask(base="b"), number, AT)
        for idea in ideas:
            store.add_idea(Idea(id=idea, title=f"i{idea}", base="b", commit=f"c{idea}", ask=number), idea)
        store.close_ask(number, Usage(usd=usd, input_tokens=tokens), False, number, AT)


def ran(store: Store, number: int, tier: str, hours: float, **fields: Any) -> Experiment:
    experiment = Experiment(
        **{
            "id": number,
            "role": Role.CANDIDATE,
            "parent": "b",
            "commit": "c",
            "tree": "x",
            "tier": tier,
            "seed": 1,
            "accepted_at": AT,
            **fields,
        }
    )
    ended = {
        "state": ExperimentState.ENDED,
        "started_at": AT,
        "ended_at": AT + timedelta(hours=hours),
        "verdict": Verdict.DISCARD,
    }
    with store.transaction():
        store.insert_experiment(experiment, number)
        done = Experiment(**{**{f: getattr(experiment, f) for f in _FIELDS}, **ended})
        store.update_experiment(done, number)
    return done


_FIELDS = ("id", "role", "parent", "commit", "tree", "tier", "seed", "accepted_at", "ideas")


def test_what_a_study_cost_is_told_by_whom_and_for_what(store: Store, study: Study) -> None:
    ask(store, 1, (1, 2, 3, 4), usd=2.0, tokens=1000)
    first = ran(store, 1, "h100", 1.5, ideas=(1,))
    with store.transaction():
        costs.note_keep(store, study, first)
    ask(store, 2, (5,), usd=1.0, tokens=500)
    second = ran(store, 2, "h200", 0.5, ideas=(2, 5))
    with store.transaction():
        costs.note_keep(store, study, second)
    told = costs.account(store, study, store.totals())
    assert told["agent_usd"] == 3.0
    assert told["machines_usd"] == pytest.approx(1.5 * 2 + 0.5 * 4)
    assert told["usd"] == pytest.approx(8.0)
    assert told["tokens"] == 1500
    assert told["by_tier"]["h200"] == {"slot_hours": 0.5, "usd": 2.0}
    assert told["an_idea"] == {"usd": pytest.approx(0.6), "tokens": 300}
    assert [(keep["experiment"], keep["usd"]) for keep in told["keeps"]] == [(1, 5.0), (2, 3.0)]
    assert told["a_keep"]["usd"] == pytest.approx(4.0)
    assert told["since_keep"]["usd"] == 0
    ran(store, 3, "h100", 1.0)
    told = costs.account(store, study, store.totals())
    assert told["since_keep"]["usd"] == told["since_keep"]["machines_usd"] == pytest.approx(2.0)
    assert cost_text({"money": told}) == (
        "$10.00 (agent $3.00, machines $7.00), 1,500 tokens, $0.6 an idea, $5 a kept gain ($2 since the last)"
    )
    assert tier_costs_text({"money": told}) == "h100 $5.00 for 2h30m, h200 $2.00 for 30m00s"


def test_an_experiment_has_its_share_of_the_asks_that_gave_its_ideas(store: Store, study: Study) -> None:
    ask(store, 1, (1, 2, 3, 4), usd=2.0, tokens=1000)
    ask(store, 2, (5,), usd=1.0, tokens=500)
    cost = costs.of_experiment(store, study, ran(store, 1, "h200", 0.5, ideas=(2, 5)))
    assert cost == costs.Cost(slot_hours=0.5, machines_usd=2.0, agent_usd=1.5, tokens=750)


def test_nothing_spent_is_nothing_told(store: Store, study: Study) -> None:
    told = costs.account(store, study, store.totals())
    assert (told["usd"], told["an_idea"], told["a_keep"], told["keeps"]) == (0, None, None, [])
    assert cost_text({"money": told}) is None
    assert tier_costs_text({"money": told}) is None
