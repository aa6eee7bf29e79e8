"""The one file that runs on nodes: the package `on_node`, as a zip that Python runs."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

NAME = "worker.pyz"
_PACKAGE = "arf_worker"
_MAIN = f"import sys\nfrom {_PACKAGE}.main import main\nsys.exit(main(sys.argv[1:]))\n"


def sources() -> list[Path]:
    """The modules that it is made of."""
    return sorted(Path(__file__).with_name("on_node").glob("*.py"))


@cache
def program() -> bytes:
    """Its content; the same for the same modules."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        texts = {f"{_PACKAGE}/{path.name}": path.read_text("utf-8") for path in sources()}
        for name, text in {"__main__.py": _MAIN, **texts}.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return memory.getvalue()
