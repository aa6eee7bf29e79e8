from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from arf.errors import UsageError
from arf.types import Edit
from arf.workspace.patches import apply_edit, apply_hunks, merge, parse_patch

TEXT = "import a\n\nx = 1\ny = 2\nz = 3\n\ndef f():\n    return x\n"


def patched(text: str, patch: str) -> str:
    (file,) = parse_patch(patch)
    return apply_hunks(text, file.hunks, "f.py")


def edited(text: str, old: str, new: str) -> str:
    return apply_edit(text, Edit(path="f.py", old=old, new=new))


# ---- edits


def test_an_edit_replaces_the_one_occurrence() -> None:
    assert edited(TEXT, "y = 2\n", "y = 5\nw = 1\n") == TEXT.replace("y = 2\n", "y = 5\nw = 1\n")
    assert edited(TEXT, "y = 2\n", "") == TEXT.replace("y = 2\n", "")


def test_an_edit_says_how_often_its_text_is_there() -> None:
    with pytest.raises(UsageError, match=r"f.py: the text to replace is there 3 times: '='"):
        edited(TEXT, "=", ":=")
    with pytest.raises(UsageError, match=r"not there: 'def g\(\):'; the nearest line is 'def f\(\):'"):
        edited(TEXT, "def g():", "def h():")


def test_an_edit_of_a_file_with_crlf_keeps_them() -> None:
    text = TEXT.replace("\n", "\r\n")
    assert edited(text, "x = 1\ny = 2\n", "x = 0\ny = 0\n") == text.replace(
        "x = 1\r\ny = 2", "x = 0\r\ny = 0"
    )


# ---- patches

PATCH = """\
diff --git a/f.py b/f.py
index 1234567..89abcde 100644
--- a/f.py
+++ b/f.py
@@ -2,5 +2,6 @@ import a

 x = 1
-y = 2
+y = 5
+w = 6
 z = 3

"""
PATCHED = TEXT.replace("y = 2\n", "y = 5\nw = 6\n")


@pytest.mark.parametrize(
    "patch",
    [
        PATCH,
        PATCH.replace("a/f.py", "f.py").replace("b/f.py", "f.py"),
        PATCH.replace("@@ -2,5 +2,6 @@", "@@ -40,5 +40,6 @@"),
        PATCH.replace("@@ -2,5 +2,6 @@", "@@ -2,9 +2,1 @@"),
        PATCH.replace("@@ -2,5 +2,6 @@ import a", "@@ ... @@"),
        PATCH.replace("@@ -2,5 +2,6 @@ import a", "@@"),
        PATCH.rstrip("\n"),
        PATCH.replace("\n", "\r\n"),
        "Here is the change:\n```diff\n" + PATCH + "```\nIt should help.\n",
        PATCH + "-- \n2.39.5\n",
        PATCH.replace(" x = 1", " x = 1   "),
        PATCH.replace("\n\n x = 1", "\n import b\n x = 1"),
        "\n".join(PATCH.splitlines()[2:]) + "\n",
    ],
    ids=[
        *(
            "git",
            "no-prefix",
            "wrong-line",
            "wrong-counts",
            "dots",
            "bare",
            "no-newline",
            "crlf-patch",
            "fenced",
        ),
        *("mailed", "blanks-at-end", "lost-context", "no-git-header"),
    ],
)
def test_patches_as_people_and_models_write_them(patch: str) -> None:
    assert patched(TEXT, patch) == PATCHED


def test_a_patch_keeps_crlf_and_the_end_of_the_file() -> None:
    assert patched(TEXT.replace("\n", "\r\n"), PATCH) == PATCHED.replace("\n", "\r\n")
    assert patched(TEXT.rstrip("\n"), PATCH) == PATCHED.rstrip("\n")
    end = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n"
    assert patched("a", end) == "b\n"
    assert patched("a", end.replace("\n+b\n", "\n+b\n\\ No newline at end of file\n")) == "b"
    assert patched("a\n", "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n\\ No newline at end of file\n") == "b"


def test_a_place_that_is_not_clear_is_refused() -> None:
    text = "a\nx\nb\nx\nc\nx\nd\n"
    unclear = "--- f\n+++ f\n@@ @@\n-x\n+y\n"
    with pytest.raises(UsageError, match=r"f.py: hunk 1 of the patch fits 3 places: 'x'"):
        patched(text, unclear)
    assert patched(text, unclear.replace("@@ @@", "@@ -4 +4 @@")) == "a\nx\nb\ny\nc\nx\nd\n"
    with pytest.raises(UsageError, match="fits nowhere"):
        patched(text, unclear.replace("-x", "-q"))


def test_several_hunks_move_with_each_other() -> None:
    text = "".join(f"{k % 3}\n" for k in range(30))
    patch = "--- f\n+++ f\n@@ -2,1 +2,3 @@\n-1\n+a\n+b\n+c\n@@ -20,1 +22,1 @@\n-1\n+z\n"
    lines = text.splitlines()
    assert patched(text, patch).splitlines() == [lines[0], "a", "b", "c", *lines[2:19], "z", *lines[20:]]


def test_removed_lines_that_look_like_headers() -> None:
    text = "-- a\n++ b\nc\n"
    assert patched(text, "--- f\n+++ f\n@@ -1,3 +1,1 @@\n--- a\n-++ b\n c\n") == "c\n"


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("", "no change"),
        ("hello", "no change"),
        ("@@ -1 +1 @@\n-a\n+b\n", "before any file name"),
        ("--- f\n+++ f\n@@ -1,3 +1,3 @@\n-a\n+b\nwhat is this\n", "line 6 of the patch"),
        ("diff --git a/x b/x\nBinary files a/x and b/x differ\n", "binary"),
    ],
)
def test_what_is_no_patch(patch: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        patched("a\n", patch)


def test_names_of_new_deleted_renamed_and_quoted_files() -> None:
    patch = (
        "diff --git a/new b/new\nnew file mode 100755\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+x\n"
        "diff --git a/old b/old\ndeleted file mode 100644\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "diff --git a/from b/to\nsimilarity index 100%\nrename from from\nrename to to\n"
        '--- "a/caf\\303\\251"\t2024\n+++ "b/caf\\303\\251"\n@@ -1 +1 @@\n-x\n+y\n'
        "diff --git a/run b/run\nold mode 100644\nnew mode 100755\n"
    )
    files = [(file.old, file.new, file.mode) for file in parse_patch(patch)]
    assert files == [
        (None, "b/new", "100755"),
        ("a/old", None, ""),
        ("from", "to", ""),
        ("a/café", "b/café", ""),
        ("run", "run", "100755"),
    ]


# ---- merges


def test_adjacent_changes_merge() -> None:
    base = "A = 1\nB = 2\nC = 3\n"
    assert merge(base, "A = 9\nB = 2\nC = 3\n", "A = 1\nB = 8\nC = 7\n") == "A = 9\nB = 8\nC = 7\n"
    assert merge(base, "A = 9\nB = 2\nC = 3\n", "A = 1\nx\nB = 2\nC = 3\n") == "A = 9\nx\nB = 2\nC = 3\n"


def test_equal_changes_merge_and_different_ones_conflict() -> None:
    base = "a\nb\nc\n"
    assert merge(base, "a\nB\nc\n", "a\nB\nC\n") == "a\nB\nC\n"
    assert merge(base, "a\nB\nc\n", "a\nX\nc\n") is None
    assert merge(base, "a\nc\n", "a\nX\nc\n") is None
    assert merge(base, "a\nx\nb\nc\n", "a\ny\nb\nc\n") is None
    assert merge("a", "a\nb", "a\nc") is None


def test_a_merge_keeps_line_ends() -> None:
    assert merge("a\r\nb\r\nc", "A\r\nb\r\nc", "a\r\nb\r\nC") == "A\r\nb\r\nC"


def _random_text(rng: random.Random) -> list[str]:
    return [rng.choice("abcdefg") + str(rng.randrange(5)) for _ in range(rng.randint(0, 25))]


def _changed(lines: list[str], rng: random.Random) -> list[str]:
    lines = list(lines)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines) + 1)
        if rng.random() < 0.4 or at == len(lines):
            lines.insert(at, rng.choice("abcdefg") + "9")
        elif rng.random() < 0.5:
            del lines[at]
        else:
            lines[at] = rng.choice("abcdefg") + "8"
    return lines


def _joined(lines: list[str], rng: random.Random) -> str:
    return "\n".join(lines) + (rng.choice(["\n", "\n", ""]) if lines else "")


def test_agrees_with_diff_and_git_on_random_texts(tmp_path: Path) -> None:
    rng = random.Random(4)
    compared = 0
    diff = shutil.which("diff")
    for _ in range(60):
        lines = _random_text(rng)
        texts = {"base": _joined(lines, rng), "one": _joined(_changed(lines, rng), rng)}
        texts["two"] = _joined(_changed(lines, rng), rng)
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        if diff and texts["base"] != texts["one"]:
            patch = subprocess.run([diff, "-u", "base", "one"], cwd=tmp_path, capture_output=True, text=True)
            assert patched(texts["base"], patch.stdout) == texts["one"]
        git = subprocess.run(
            ["git", "merge-file", "-p", "one", "base", "two"], cwd=tmp_path, capture_output=True, text=True
        )
        if git.returncode == 0:
            compared += 1
            assert merge(texts["base"], texts["one"], texts["two"]) == git.stdout
    assert compared > 10
