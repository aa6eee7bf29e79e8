import click
from arf_example import show_best

from arf.testing.suites import CommandSuite


class TestExample(CommandSuite):
    reads_studies = True

    def make(self) -> click.Command:
        return show_best
