"""Workspaces in git: the files of a commit, commits made of ideas, and work trees to run them in."""

from arf.workspace.detection import detect
from arf.workspace.work_trees import WorkTree
from arf.workspace.workspace import Composed, Workspace

__all__ = ["Composed", "WorkTree", "Workspace", "detect"]
