import re

from arf.interfaces import Agent, Brief
from arf.types import Answer, Ask, AskKind, Draft


class Scale(Agent):
    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        value = self._value(brief)
        if value is None or ask.kind is AskKind.FACTORS:
            return Answer(exhausted=True, note=f"there is no number {self.options.constant}")
        known = {idea.constants.get(self.options.constant) for idea in brief.study.ideas.values()}
        new = [by for by in self.options.by if value * by not in known]
        drafts = [
            Draft(title=f"{self.options.constant} x {by:g}", constants={self.options.constant: value * by})
            for by in new[: ask.n]
        ]
        return Answer(ideas=tuple(drafts), exhausted=len(new) <= ask.n)

    def _value(self, brief: Brief) -> float | None:
        pattern = re.compile(rf"^{re.escape(self.options.constant)} *= *([-+.\de]+)", re.MULTILINE)
        for text in brief.files.values():
            if (match := pattern.search(text)) is not None:
                return float(match[1])
        return None
