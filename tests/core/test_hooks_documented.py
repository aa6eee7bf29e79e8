"""The plugin guide names every hook and argument, and its code is the example's."""

import inspect
import re
from pathlib import Path

import pytest
from attrs import fields

from arf import hooks
from arf.hooks import Declaration
from arf.plugins.registry import HOOKS, REGISTER
from arf.testing import suites

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "tests" / "third_party" / "arf-example-plugin"


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_a_hook_is_documented_with_its_arguments(name: str) -> None:
    hook = getattr(hooks, name)
    signature = f"`{name}({', '.join(inspect.signature(hook).parameters)})`"
    assert signature in GUIDE
    doc = inspect.getdoc(hook) or ""
    assert len(doc.splitlines()) > 1, "say when it is called, what to return, and what an error does"
    assert "raise" in doc


@pytest.mark.parametrize("name", sorted(HOOKS - REGISTER.keys()))
def test_the_arguments_of_an_event_have_types(name: str) -> None:
    for argument in inspect.signature(getattr(hooks, name)).parameters.values():
        assert argument.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize("name", [field.name for field in fields(Declaration)])
def test_a_field_of_a_declaration_is_documented(name: str) -> None:
    assert f"| `{name}` |" in GUIDE


@pytest.mark.parametrize("name", suites.__all__)
def test_a_suite_is_documented(name: str) -> None:
    assert f"| `{name}` |" in GUIDE


def test_the_guide_names_no_hook_that_is_not_there() -> None:
    assert set(re.findall(r"\barf_\w+\(", GUIDE)) <= {f"{name}(" for name in HOOKS}


@pytest.mark.parametrize(
    ("whole", "file", "code"),
    [
        (not part, file, code)
        for part, file, code in re.findall(r"```\w+\n# (from )?([\w./]+)\n(.*?)```", GUIDE, re.DOTALL)
    ],
)
def test_the_code_in_the_guide_is_the_examples(whole: bool, file: str, code: str) -> None:
    text = (EXAMPLE / file).read_text(encoding="utf-8")
    assert text == code if whole else code in text
