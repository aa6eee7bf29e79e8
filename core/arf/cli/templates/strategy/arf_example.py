from collections.abc import Mapping, Sequence

from arf.hooks import Declaration, hookimpl
from arf.interfaces import Strategy
from arf.study import Study
from arf.types import Ask, Plan


class Example(Strategy):
    """Tries every idea once, in the order in which they came"""

    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        base = study.incumbent_commit
        ideas = [idea for idea in study.untried if (base, (idea,)) not in study.refusals]
        if not ideas and not study.open_asks and not study.exhausted(base):
            return [Ask(n=4, base=base)]
        return [Plan(parent=base, ideas=(idea,)) for idea in ideas[: sum(free.values())]]


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [Declaration(name="example", implementation=Example)]
