"""The `script` agent: ideas from files, in order, each once, and clear words where a file is wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from arf.errors import AgentError, UsageError
from arf.interfaces import Agent, Brief
from arf.plugins.registry import Plugins
from arf.study import Study
from arf.testing.suites import AgentSuite
from arf.types import Answer, Ask, AskKind, Draft, Edit, Idea, Tier
from arf_plugins.agent_script import ScriptOptions
from arf_plugins.agent_script.agent import ScriptAgent
from arf_plugins.agent_script.reading import read_ideas

BASE = "ba5e" * 10

LIST = """\
- title: deeper
  reason: depth pays
  constants: {DEPTH: 6}
- constants: {LEARNING_RATE: 1e-3, USE_BIAS: false}
- title: no dropout
  edits:
    - {path: train.py, old: "DROPOUT = 0.1", new: "DROPOUT = 0.0"}
- title: wider
  patch: |
    --- a/train.py
    +++ b/train.py
    @@ -6,3 +6,3 @@
     DEPTH = 4  # layers
    -WIDTH = 128  # a multiple of HEADS
    +WIDTH = 256  # a multiple of HEADS
     HEADS = 4
- title: deeper
  constants: {DEPTH: 8}
"""

PATCH = """\
--- a/train.py
+++ b/train.py
@@ -1 +1 @@
-A = {old}
+A = {new}
"""


def new_study() -> Study:
    return Study(name="s", base=BASE, base_tree="7" * 40, tiers=[Tier(name="cpu", slots=2)])


def make(path: Path | str) -> ScriptAgent:
    return ScriptAgent(ScriptOptions(path=str(path)))


def answer(agent: Agent, study: Study, n: int = 2, directory: Path | None = None, **ask: AskKind) -> Answer:
    """An answer, taken into the study."""
    given = asyncio.run(
        agent.answer(Ask(n=n, base=BASE, **ask), Brief(study=study, files={}, directory=directory))
    )
    for draft in given.ideas:
        number = len(study.ideas) + 1
        study.add_idea(Idea(id=number, title=draft.title, base=BASE, commit=f"{number:040x}", agent="script"))
    return given


def titles(given: Answer) -> list[str]:
    return [draft.title for draft in given.ideas]


class TestScript(AgentSuite):
    gives_factors = True

    def make(self) -> Agent:
        file = self.folder / "ideas.yaml"
        file.write_text(LIST)
        return make(file)


def test_is_found_by_its_name() -> None:
    declaration = Plugins.load().declaration("agent", "script")
    assert declaration.options is ScriptOptions


def test_reads_constants_edits_and_patches_from_a_list(tmp_path: Path) -> None:
    (tmp_path / "ideas.yaml").write_text(LIST)
    drafts = read_ideas(tmp_path / "ideas.yaml")
    assert drafts[0] == Draft(title="deeper", reason="depth pays", constants={"DEPTH": 6})
    assert drafts[1].constants == {"LEARNING_RATE": 1e-3, "USE_BIAS": False}
    assert drafts[1].title == "LEARNING_RATE = 0.001, USE_BIAS = False"
    assert drafts[2].edits == (Edit(path="train.py", old="DROPOUT = 0.1", new="DROPOUT = 0.0"),)
    assert drafts[3].patch.startswith("--- a/train.py")
    assert drafts[4].title == "deeper (2)"


def test_json_and_json_lines_say_the_same_as_yaml(tmp_path: Path) -> None:
    ideas = [{"title": "a", "constants": {"X": 1}}, {"title": "b", "constants": {"X": 2.5}, "expected": 0.01}]
    (tmp_path / "a.json").write_text(json.dumps({"ideas": ideas}))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ideas)) + "\n\n")
    (tmp_path / "a.yml").write_text(json.dumps(ideas))
    lists = [read_ideas(tmp_path / name) for name in ("a.json", "a.jsonl", "a.yml")]
    assert lists[0] == lists[1] == lists[2]
    assert lists[0][1].expected == 0.01


def test_a_folder_is_read_in_the_order_of_its_numbers_with_titles_from_the_patches(tmp_path: Path) -> None:
    patch = PATCH.format(old=1, new=2)
    (tmp_path / "10-last.diff").write_text(patch)
    (tmp_path / "2-mail.patch").write_text(
        "From 1234 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\n"
        "Subject: [PATCH 2/3] train: a title that\n is folded\n\nBecause it\nis better.\n---\n"
        " train.py | 2 +-\n\n" + patch
    )
    (tmp_path / "3-comment.patch").write_text("#\n# A comment says it\n# and why\n" + patch)
    (tmp_path / "1-utf8.patch").write_text("Subject: =?UTF-8?q?gr=C3=B6=C3=9Fer?=\n\n" + patch)
    (tmp_path / "README.md").write_text("no patch")
    (tmp_path / "._1.patch").write_text("what another system left there")
    drafts = read_ideas(tmp_path)
    assert [draft.title for draft in drafts] == [
        "größer",
        "train: a title that is folded",
        "A comment says it",
        "10-last",
    ]
    assert [draft.reason for draft in drafts] == ["", "Because it is better.", "and why", ""]


def test_gives_ideas_in_order_and_then_is_exhausted(tmp_path: Path) -> None:
    (tmp_path / "ideas.yaml").write_text(LIST)
    agent, study = make(tmp_path / "ideas.yaml"), new_study()
    answers = [answer(agent, study) for _ in range(4)]
    assert [titles(given) for given in answers] == [
        ["deeper", "LEARNING_RATE = 0.001, USE_BIAS = False"],
        ["no dropout", "wider"],
        ["deeper (2)"],
        [],
    ]
    assert [given.exhausted for given in answers] == [False, False, True, True]
    assert "all 5 ideas" in answers[3].note


def test_a_new_process_goes_on_where_the_study_is_and_takes_what_was_added(tmp_path: Path) -> None:
    file = tmp_path / "ideas.yaml"
    file.write_text(LIST)
    study = new_study()
    answer(make(file), study, n=4)
    file.write_text(LIST + "- {title: new, constants: {HEADS: 8}}\n")
    assert titles(answer(make(file), study, n=4)) == ["deeper (2)", "new"]


def test_an_idea_that_could_not_be_applied_is_not_given_twice_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "ideas.yaml").write_text(LIST)
    agent, study = make(tmp_path / "ideas.yaml"), new_study()
    brief = Brief(study=study, files={})
    given = [asyncio.run(agent.answer(Ask(n=3, base=BASE), brief)) for _ in range(2)]  # the study takes none
    assert [len(one.ideas) for one in given] == [3, 2]


def test_an_idea_is_a_factor_of_one_level(tmp_path: Path) -> None:
    (tmp_path / "ideas.yaml").write_text(LIST)
    given = answer(make(tmp_path / "ideas.yaml"), new_study(), n=2, kind=AskKind.FACTORS)
    assert next((factor.name, len(factor.levels)) for factor in given.factors) == ("deeper", 1)


def test_a_relative_path_is_one_in_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    directory = workspace / ".arf" / "studies" / "s" / "agent"
    directory.mkdir(parents=True)
    elsewhere.mkdir()
    (workspace / "ideas.yaml").write_text(LIST)
    monkeypatch.chdir(elsewhere)
    assert titles(answer(make("ideas.yaml"), new_study(), directory=directory))[0] == "deeper"
    (elsewhere / "ideas.yaml").write_text("- {title: other, constants: {A: 1}}")
    assert titles(answer(make("ideas.yaml"), new_study(), directory=directory))[0] == "deeper"
    assert titles(answer(make("ideas.yaml"), new_study()))[0] == "other"
    with pytest.raises(AgentError, match=r"there is no .*missing\.yaml"):
        answer(make("missing.yaml"), new_study(), directory=directory)
    with pytest.raises(UsageError, match="there is no"):
        make("missing.yaml").check(Brief(study=new_study(), files={}, directory=directory))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "", "expected a list of ideas, found nothing"),
        ("a.yaml", "[]", "has no ideas"),
        ("a.yaml", "- a\n- [b", r"a\.yaml:2: it is not YAML"),
        ("a.yaml", "x: 1", "expected a list of ideas, found keys"),
        ("a.yaml", "- 3", r"a\.yaml: idea 1: expected an idea .* found 3"),
        ("a.yaml", "- {titel: a, constants: {A: 1}}", "idea 1: unknown key 'titel'; did you mean 'title'"),
        ("a.yaml", "- {constants: {A: 1}}\n- {title: b}", r"idea 2 \('b'\): an idea has one of .* has none"),
        ("a.yaml", "- {constants: {A: 1}, patch: x}", "this one has constants and patch"),
        ("a.yaml", "- {constants: [1]}", r"constants: expected names with values, found a list; write it as"),
        ("a.yaml", "- {constants: {A: [1]}}", "A: expected a number"),
        ("a.yaml", "- {edits: [{path: a, old: b}]}", "edit 1: expected path, old and new"),
        ("a.yaml", "- {edits: [{path: a, old: b, new: c, odl: d}]}", "did you mean 'old'"),
        ("a.yaml", "- {patch: nothing}", "idea 1: the patch holds no change"),
        ("a.yaml", "- {constants: {A: 1}, expected: much}", "expected the gain as a number, found 'much'"),
        ("a.json", "[\n{]", r"a\.json:2: it is not JSON"),
        ("a.jsonl", '{"constants": {"A": 1}}\n{', r"a\.jsonl:2: it is not JSON"),
        ("a.jsonl", '{"constants": {"A": 1}}\n{"title": "b"}', r"a\.jsonl:2: an idea has one of"),
        ("a.patch", "hello", r"a\.patch: the patch holds no change"),
        ("a.txt", "hello", "ideas are read from a folder of patches or a file in .yaml"),
    ],
)
def test_what_is_wrong_is_told_with_its_file_and_entry(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        make(tmp_path / name)


def test_a_wrong_path_is_told_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"set agent\.path"):
        ScriptAgent()
    with pytest.raises(UsageError, match="there is no"):
        make(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"has no \*\.patch"):
        make(tmp_path)
    (tmp_path / "a.patch").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        make(tmp_path)
