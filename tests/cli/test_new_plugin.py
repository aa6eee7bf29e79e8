"""`arf plugins new`; `tests/third_party` installs and uses what it writes."""

from pathlib import Path

import pytest

from arf.cli.new_plugin import KINDS, write_plugin
from arf.errors import UsageError


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_template_is_left(kind: str, tmp_path: Path) -> None:
    write_plugin("very-own", kind, tmp_path)
    for file in tmp_path.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "arf_example" not in text + file.name
        assert "Example" not in text
        if file.suffix == ".py":
            compile(text, file.name, "exec")
    assert "class TestVeryOwn" in (tmp_path / "test_arf_very_own.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Mine", "my_plugin", "../x", "", "9"])
def test_a_name_that_no_distribution_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a plugin"):
        write_plugin(name, "agent", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        write_plugin("mine", "agent", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
