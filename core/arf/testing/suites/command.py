"""What every command must do: say what it is for, refuse what it does not know, and fail in one line."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner, Result

from arf.errors import ArfError

SUMMARY_LENGTH = 100
"""Characters of the first line of the help, which lists of commands show."""


class CommandSuite(ABC):
    """Subclass it, implement `make`, and name it `Test…`."""

    reads_studies: ClassVar[bool] = False
    """Whether the command takes a study as its argument: it is then called with one, and where none is."""
    arguments: ClassVar[tuple[str, ...]] = ()
    """What a call needs besides a study."""

    @abstractmethod
    def make(self) -> click.Command:
        """The command."""

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = tmp_path
        monkeypatch.chdir(tmp_path)

    def call(self, *arguments: str) -> Result:
        """Call the command as `arf` does, in an empty folder."""
        return CliRunner().invoke(self.make(), arguments, standalone_mode=True)

    def test_its_help_says_what_it_is_for(self) -> None:
        result = self.call("--help")
        assert result.exit_code == 0
        first = self.make().get_short_help_str(limit=10 * SUMMARY_LENGTH)
        assert first, "it has no help: write a docstring"
        assert len(first) <= SUMMARY_LENGTH, "the first line of its help is too long for a list of commands"

    def test_every_option_has_help(self) -> None:
        options = [p for p in self.make().params if isinstance(p, click.Option)]
        assert not [option.name for option in options if not option.help]

    def test_an_option_that_it_does_not_know_is_refused(self) -> None:
        assert self.call("--no-such-option-of-anybody").exit_code == 2

    def test_where_there_is_no_study_it_says_so_in_one_line(self) -> None:
        if not self.reads_studies:
            return
        result = self.call(*self.arguments)
        assert isinstance(result.exception, ArfError | click.ClickException), result.exc_info
        assert len(str(result.exception).splitlines()) == 1

    def test_it_reads_a_study_and_changes_nothing_of_its_record(self, arf_workspace: Path) -> None:
        if not self.reads_studies:
            return
        from arf.testing.studies import run_study

        _, store = run_study(arf_workspace, {"budget.max_experiments": 3, "noise.replicates": 2})
        before, home = store.sequence(), store.directory
        result = self.call(str(home), *self.arguments)
        assert result.exit_code == 0, result.exc_info
        assert store.sequence() == before
        store.close()
        if any("--json" in parameter.opts for parameter in self.make().params):
            json.loads(self.call(str(home), *self.arguments, "--json").stdout)
        shutil.rmtree(home)
