"""The plugin guide names every hook and argument, and its code is the example's."""

import inspect
import re
from pathlib import Path

import pytest
from attrs import fields

from arf import hooks
from arf.cli.new_plugin import write_plugin
from arf.hooks import Declaration
from arf.plugins.registry import HOOKS, REGISTER
from arf.testing import suites

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize(("file", "code"), re.findall(r"```\w+\n# (\w+/[\w.]+)\n(.*?)```", GUIDE, re.DOTALL))
def test_the_code_in_the_guide_is_what_arf_writes(file: str, code: str, tmp_path: Path) -> None:
    kind, _, name = file.partition("/")
    write_plugin("in-order", kind, tmp_path)
    assert (tmp_path / name).read_text(encoding="utf-8") == code
    if name == "arf_in_order.py":
        assert sum(1 for line in code.splitlines() if line.strip()) <= 18
