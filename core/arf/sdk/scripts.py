"""Reading and changing scripts: constants, edits, patches and seeds, as arf itself understands them."""

from arf.workspace import constants
from arf.workspace.constants import Constant
from arf.workspace.patches import FilePatch, Hunk, apply_edit, apply_hunks, parse_patch
from arf.workspace.seeds import is_seed_name, same_but_for_seeds

__all__ = [
    "Constant",
    "FilePatch",
    "Hunk",
    "apply_edit",
    "apply_hunks",
    "constants",
    "is_seed_name",
    "parse_patch",
    "same_but_for_seeds",
]
