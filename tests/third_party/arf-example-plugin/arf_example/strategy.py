from collections.abc import Mapping, Sequence

from arf.interfaces import Strategy
from arf.study import Study
from arf.types import Ask, Plan


class InOrder(Strategy):
    def decide(self, study: Study, free: Mapping[str, int]) -> Sequence[Plan | Ask]:
        base = study.incumbent_commit
        room = self.options.at_once - study.running_count
        wanted: list[Plan | Ask] = []
        for idea in study.untried:
            if len(wanted) >= room:
                break
            if (base, (idea,)) not in study.refusals:
                wanted.append(Plan(parent=base, ideas=(idea,)))
        if study.untried_count <= room and not study.open_asks and not study.exhausted(base):
            wanted.append(Ask(n=self.options.at_once, base=base))
        return wanted
