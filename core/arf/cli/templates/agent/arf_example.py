import re

from attrs import field, frozen

from arf.hooks import Declaration, hookimpl
from arf.interfaces import Agent, Brief
from arf.types import Answer, Ask, AskKind, Draft


class Example(Agent):
    """Scales one constant of the script"""

    @frozen(kw_only=True)
    class Options:
        constant: str = field(default="LEARNING_RATE", metadata={"help": "the number to scale"})
        by: tuple[float, ...] = field(default=(2.0, 0.5, 4.0, 0.25), metadata={"help": "the factors to try"})

    async def answer(self, ask: Ask, brief: Brief) -> Answer:
        name = self.options.constant
        pattern = re.compile(rf"^{re.escape(name)} *= *([-+.\de]+)", re.MULTILINE)
        values = [float(match[1]) for text in brief.files.values() for match in pattern.finditer(text)]
        if not values or ask.kind is not AskKind.IDEAS:
            return Answer(exhausted=True, note=f"there is no number {name}")
        tried = {idea.constants.get(name) for idea in brief.study.ideas.values()}
        new = [by for by in self.options.by if values[0] * by not in tried]
        drafts = [Draft(title=f"{name} x {by:g}", constants={name: values[0] * by}) for by in new[: ask.n]]
        return Answer(ideas=tuple(drafts), exhausted=len(new) <= ask.n)


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [Declaration(name="example", implementation=Example)]
