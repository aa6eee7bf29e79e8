"""Opening workspaces, and what arf assumes of a folder without `arf.yaml`."""

from arf.workspace import open_workspace
from arf.workspace.detection import detect

__all__ = ["detect", "open_workspace"]
