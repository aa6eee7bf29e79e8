"""Data in the user's home that scripts name."""

from __future__ import annotations

import pytest

from arf.sandbox.named_data import named_data


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ('X = os.path.join(os.path.expanduser("~"), ".cache", "autoresearch")', ("~/.cache/autoresearch",)),
        ('X = os.path.join(os.path.expanduser("~"), ".cache", "a", name)', ("~/.cache/a",)),
        ('X = os.path.expanduser("~/data/fineweb")', ("~/data/fineweb",)),
        ('X = Path.home() / ".cache" / "x" / "y"', ("~/.cache/x/y", "~/.cache/x")),
        ('X = os.environ.get("DATA", "~/data")', ("~/data",)),
        ('X = os.path.expanduser("~/.ssh/id_rsa")', ()),
        ('X = os.path.expanduser("~/.config/x")', ()),
        ('X = os.path.join(os.path.expanduser("~"), ".cache", name)', ()),
        ('X = os.path.expanduser("~/../other")', ()),
        ('X = os.path.expanduser("~")', ()),
        ("not python at all", ()),
    ],
)
def test_what_a_script_names_below_the_home_is_found_and_secrets_are_not(
    source: str, paths: tuple[str, ...]
) -> None:
    assert named_data([source]) == paths
