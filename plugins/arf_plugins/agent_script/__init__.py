"""The `script` agent: ideas that somebody has written down, in order."""

from attrs import field, frozen

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class ScriptOptions:
    """What the `script` agent can be told."""

    path: str = field(
        default="",
        metadata={
            "help": "A folder of *.patch and *.diff files, or a list of ideas (.yaml, .json, .jsonl), "
            "relative to the workspace, else to the current directory. Required"
        },
    )


@hookimpl
def arf_register_agents() -> list[Declaration]:
    return [
        Declaration(
            name="script",
            summary="ideas from a file or a folder of patches, in order",
            implementation="arf_plugins.agent_script.agent:ScriptAgent",
            options=ScriptOptions,
        )
    ]
