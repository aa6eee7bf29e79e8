"""What of a model's reply is its answer."""

import pytest

from arf.errors import UsageError
from arf_plugins.llm.answers import entries, read_json

A, B = {"title": "a", "constants": [{"name": "LR", "value": 1}]}, {"title": "b", "constants": []}
JSON_A = '{"ideas": [{"title": "a", "constants": [{"name": "LR", "value": 1}]}]}'
JSON_B = '{"ideas": [{"title": "b", "constants": []}]}'


@pytest.mark.parametrize(
    ("text", "ideas"),
    [
        (JSON_A, [A]),
        (f"```json\n{JSON_A}\n```", [A]),
        (f"<think>Perhaps {JSON_A}? No.</think>\n{JSON_B}", [B]),
        (f"Perhaps {JSON_A}? No.\n</think>\n\n{JSON_B}", [B]),
        (f"<THINK>one</THINK>{JSON_A}<think>still {JSON_B}", [A]),
        (f"First {JSON_A}, or better:\n{JSON_B}\nsee [1] and {{x}}", [B]),
        (f'{JSON_A[:-2]}, {{"title": "b", "constants": []}}, {{"title": "c", "cons', [A, B]),
        (f"{JSON_A}\nand in full: {JSON_B[:-6]}", [A]),
        ('[{"title": "b", "constants": []}]', [B]),
        ('{"title": "b", "constants": []}', [B]),
        ('{"ideas": []}', []),
    ],
    ids=["bare", "fence", "thought", "unopened", "unclosed", "last", "cut", "whole", "list", "idea", "empty"],
)
def test_the_answer_is_the_last_complete_one_that_is_not_a_thought(text: str, ideas: list[object]) -> None:
    assert entries(read_json(text, "ideas"), "ideas") == ideas


@pytest.mark.parametrize(
    "text", ["", "no", f"<think>{JSON_A}", f"<think>{JSON_A}</think>", '{"ideas": [{"ti', "[1]"]
)
def test_what_holds_no_answer_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no JSON object"):
        read_json(text, "ideas")
