"""The strategy that docs/strategies.md shows as an example is a whole one."""

import re
import sys
from pathlib import Path
from types import ModuleType

from arf.interfaces import Strategy
from arf.testing.laboratory import Laboratory
from arf.testing.suites import StrategySuite
from arf.types import Tier

GUIDE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")


def example() -> ModuleType:
    """The first Python block of the guide, as the module that it says it is."""
    found = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    assert found[1].count("\n") <= 30
    module = ModuleType("doubling")
    exec(compile(found[1], "doubling.py", "exec"), module.__dict__)
    return module


def strategy() -> Strategy:
    made = example().Doubling()
    assert isinstance(made, Strategy)
    return made


class TestTheExample(StrategySuite):
    def make(self) -> Strategy:
        return strategy()


def test_the_example_finds_what_is_there_to_be_found() -> None:
    laboratory = Laboratory(
        strategy(),
        ideas=30,
        tiers=[Tier(name="a", slots=4)],
        truth=lambda ideas: -5.0 * (7 in ideas) - 5.0 * (11 in ideas),
        max_experiments=150,
    )
    laboratory.run()
    assert laboratory.best == -10.0


def test_the_example_registers_what_it_has() -> None:
    module = example()
    [declared] = module.arf_register_strategies()
    assert declared.implementation == f"{module.__name__}:Doubling"
    assert f'{module.__name__} = "{module.__name__}"' in GUIDE
    assert module.__name__ not in sys.modules
