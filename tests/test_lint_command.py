"""`lint boundary`, in a process of its own: what it walks, prints, refuses, and exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

COMMAND = """
import sys
from cli import main
from cli.commands import lint
main.cli.add_command(lint.lint)
main.main(["lint", "boundary", *sys.argv[1:]])
"""
ROUND = "import time\ndef a(ctx):\n    time.time()\n"


@pytest.fixture
def boundary(tmp_path):
    """`lint boundary` in a process of its own, in an empty folder."""

    def run(*words, code=0):
        ran = subprocess.run(
            [sys.executable, "-c", COMMAND, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == code, f"{words} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
        assert "Traceback" not in ran.stderr and "defect" not in ran.stderr
        return json.loads(ran.stdout) if "--json" in words else ran.stdout, ran.stderr

    run.folder = tmp_path
    return run


def test_the_command_prints_findings_in_order_and_exits_with_1(boundary):
    """Findings are printed sorted, with what was looked at and that it is no proof; nothing of the code is run."""
    (boundary.folder / "b.py").write_text(ROUND)
    (boundary.folder / "a").mkdir()
    (boundary.folder / "a" / "z.py").write_text(f"open('ran', 'w')\nraise SystemExit\n{ROUND}")
    out, err = boundary(".", code=1)

    assert [line.split(" ")[:2] for line in out.splitlines()] == [["a/z.py:5:5", "AB1"], ["b.py:3:5", "AB1"]]
    assert "2 findings; looked at 2 files, 2 agent functions" in err and "no proof" in err
    assert not (boundary.folder / "ran").exists()


def test_the_command_prints_one_object(boundary):
    """`--json` prints what was found, what was looked at, and what was not."""
    (boundary.folder / "a.py").write_text(ROUND)
    (boundary.folder / "b.py").write_text("def")
    value, _ = boundary("a.py", "b.py", "--json", code=1)

    assert list(value) == ["ok", "findings", "not_looked_at", "looked_at", "note"]
    assert list(value["findings"][0]) == [
        "file", "line", "column", "code", "call", "message", "instead", "function"
    ]  # fmt: skip
    assert value["looked_at"] == {"files": 1, "agent_functions": ["a.py:a"], "other_functions": []}
    assert value["not_looked_at"] == [{"file": "b.py", "message": value["not_looked_at"][0]["message"]}]


def test_a_clean_file_exits_with_0(boundary):
    """Without findings the command exits with 0; without agents it says that there were none."""
    (boundary.folder / "a.py").write_text("def a(ctx):\n    return ctx.now()\n")
    (boundary.folder / "b.py").write_text("import time\ntime.time()\n")

    assert boundary("a.py")[0] == ""
    assert "no agent" in boundary("b.py")[1]
    assert boundary("--all", "b.py", code=1)[0].startswith("b.py:2:1 AB1 time.time")


def test_rules_from_files(boundary):
    """`--rules` reads YAML, TOML and JSON, with the line of a mistake."""
    (boundary.folder / "a.py").write_text("import acme\ndef a(ctx):\n    acme.pay()\n")
    (boundary.folder / "r.yaml").write_text("rules:\n- {code: X1, calls: [acme.*], message: m, instead: i}\n")
    (boundary.folder / "r.toml").write_text(
        '[[rules]]\ncode = "X1"\ncalls = ["acme.*"]\nmessage = "m"\ninstead = "i"\n'
    )
    (boundary.folder / "r.json").write_text(
        '{"rules": [{"code": "X1", "calls": "acme.*", "message": "m", "instead": "i"}]}'
    )
    for kind in ("yaml", "toml", "json"):
        assert boundary("a.py", "--rules", f"r.{kind}", code=1)[0].startswith("a.py:3:5 X1 acme.pay: m; instead: i")

    (boundary.folder / "bad.yaml").write_text("rules:\n- code: X1\n  cals: [a]\n")
    assert "line 3" in boundary("a.py", "--rules", "bad.yaml", code=1)[1]
    boundary("a.py", "--rules", "none.yaml", code=1)


def test_what_cannot_be_looked_at_is_said_and_is_no_success(boundary):
    """Files that are no Python, no text, too large, no file or not there are each one sentence, and exit with 6."""
    folder = boundary.folder
    (folder / "syntax.py").write_text("def")
    (folder / "binary.py").write_bytes(b"\x7fELF\0\0")
    (folder / "latin.py").write_bytes(b"x = '\xe9'")
    (folder / "coding.py").write_bytes(b"# coding: klingon\n")
    (folder / "huge.py").write_bytes(b"#" * (2 * 1024 * 1024 + 1))
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe.py")
    os.symlink("loop.py", folder / "loop.py")
    names = ["syntax.py", "binary.py", "latin.py", "coding.py", "huge.py", "empty", "pipe.py", "loop.py", "none.py"]
    for name in names:
        out, err = boundary(name, code=6)
        lines = [line for line in out.splitlines() if line.startswith("not looked at: ")]
        assert len(lines) == 1 and name in lines[0], (name, out, err)
    assert len(boundary(*names, "--json", code=6)[0]["not_looked_at"]) == len(names)


def test_files_are_read_in_the_encoding_they_declare(boundary):
    """A byte order mark, a declared encoding, other line ends and form feeds change no place of a finding."""
    for name, raw in (
        ("bom.py", b"\xef\xbb\xbf" + ROUND.encode()),
        ("latin.py", b"# coding: latin-1\n" + ROUND.encode().replace(b"time.time()", b"time.time(), '\xe9'")),
        ("crlf.py", ROUND.replace("\n", "\r\n").encode()),
        ("feed.py", b"\x0c" + ROUND.encode()),
        ("bare.py", ROUND.rstrip("\n").encode()),
    ):
        (boundary.folder / name).write_bytes(raw)
        line = 4 if name == "latin.py" else 3
        assert boundary(name, code=1)[0].startswith(f"{name}:{line}:5 AB1")


def test_directories_are_walked_once(boundary):
    """Links to directories are not followed, a file is looked at once, environments and hidden folders are left out."""
    folder = boundary.folder
    for name in ("src", "src/.hidden", "src/__pycache__", "venv", "src/pkg.py"):
        (folder / name).mkdir()
        (folder / name / "a.py").write_text(ROUND)
    (folder / "venv" / "pyvenv.cfg").write_text("")
    os.symlink(folder / "src", folder / "src" / "again")
    os.symlink(folder / "src" / "a.py", folder / "src" / "link.py")

    value, _ = boundary(".", "src", "src/a.py", "--json", code=1)
    assert [one["file"] for one in value["findings"]] == ["src/a.py", "src/pkg.py/a.py"]
