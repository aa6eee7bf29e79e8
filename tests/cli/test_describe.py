"""Sentences about a study, as every command prints them."""

from typing import Any

import pytest

from arf.cli.describe import claim_text, gain_text

PROVEN = {"experiment": 37, "text": "proven: better than the baseline by 0.3 (+12 %)"}


def told(claims: list[dict[str, Any] | None], final: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"study": "s", "claims": [{"result": result} for result in claims], "final": final}


def test_a_claim_of_what_is_no_longer_the_best_is_told_with_how_to_measure_the_best() -> None:
    said = claim_text(told([PROVEN, None]))
    assert said == (
        "#37: proven: better than the baseline by 0.3 (+12 %); the best is newer: `arf claim s` measures it"
    )


def test_a_claim_of_the_best_is_its_gain() -> None:
    summary = told([PROVEN], final=PROVEN)
    assert claim_text(summary) is None
    assert gain_text(summary) == PROVEN["text"]


@pytest.mark.parametrize("claims", [[], [None]])
def test_nothing_is_said_of_a_claim_that_was_not_made(claims: list[dict[str, Any] | None]) -> None:
    assert claim_text(told(claims)) is None
