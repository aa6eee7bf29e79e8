"""Whole studies in the test's own process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arf.store.database import Store


def run_study(
    workspace: Path, flags: Mapping[str, object], *, name: str = "s", disable: Collection[str] = ()
) -> tuple[dict[str, Any], Store]:
    """Run a study of a workspace with an `arf.yaml` to its end; its summary, and its database, opened.

    `flags` are settings by their dotted names, such as `{"agent.name": "mine"}`; `disable` names plugins that
    are left out, such as `report`. Raises the ArfError that ended the study, if one did.
    """
    import asyncio

    from arf.config.schema import load
    from arf.launch import create, study_directory
    from arf.plugins.registry import Plugins
    from arf.store.database import Store

    plugins = Plugins.load(disable)

    async def main() -> dict[str, Any]:
        config = load(workspace_file=workspace / "arf.yaml", flags=flags, options_class=plugins.options)
        engine, lock = await create(workspace, config, plugins, name)
        try:
            return await engine.run()
        finally:
            engine.store.close()
            lock.release()

    return asyncio.run(main()), Store.open(study_directory(workspace, name))
