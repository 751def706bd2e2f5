"""Evidence: what a bundle holds, its forms as files, and the command that exports it."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from suites.evidence import as_read, kid_bundle, rich, rich_bundle, run_rich, signed

from agentledger import Secret, agent
from ledger_core.errors import BadInput, Damaged, NotFound, Refused
from ledger_core.events.ledger import STREAM, ContentForgotten
from ledger_core.log.log import Draft, Log
from ledger_core.runtime.runtime import Runtime
from ledger_core.secret import VAULT
from projections import evidence_files as files
from projections.evidence import PARTS, bundle
from projections.evidence_check import check
from projections.evidence_json import digest
from projections.evidence_place import outside
from projections.evidence_records import BEFORE, in_full
from projections.wire import event_json

ORDER = [
    "schema",
    "run_id",
    "ledger_id",
    "exported",
    "agentledger",
    "sealed",
    "stream",
    "head",
    "stream_head",
    *PARTS[:-1],
    "events",
    "frames",
    "records",
    "blobs",
    "bundle_digest",
]


def commands(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """The two commands in a process of their own, also before they are in everybody's list."""
    script = """
import sys
from cli.commands.evidence import evidence, evidence_check
from cli.main import cli, main
cli.add_command(evidence), cli.add_command(evidence_check)
main(sys.argv[1:])
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **more}
    env.pop("AGENTLEDGER_ROOT", None)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger on disk with the rich run, its child, and one that failed."""
    root = tmp_path_factory.mktemp("evidence") / "ledger"
    with Runtime.local(root, models=None) as runtime:
        run_rich(runtime)
    return root


# What it holds


def test_a_bundle_has_its_fields_in_order_and_its_own_digest(runtime: Runtime):
    """The contract's keys, in the contract's order; the digest is over all but itself."""
    run_rich(runtime)

    made = bundle(runtime.log, "r")

    assert list(made) == ORDER
    assert made["bundle_digest"] == digest(made) == digest(as_read(made))
    assert made["schema"] == "agentledger.evidence.v1"
    assert made["ledger_id"] == runtime.log.id.hex()
    assert made["head"] == {"seq": runtime.log.head().seq, "hash": runtime.log.head().hash.hex()}
    assert made == as_read(made)  # nothing in it that JSON would give back as something else


def test_the_records_and_blobs_are_those_of_the_log(runtime: Runtime):
    """Byte for byte, in the order of the stream, with every chunk of every blob."""
    run_rich(runtime)
    log = runtime.log
    made = bundle(log, "r")

    glued = [
        bytes.fromhex(one["hash"]) + base64.b64decode(one["sealed"]) + base64.b64decode(one["content"])
        for one in made["records"]
    ]
    assert glued == [data for _, data in log.records("run/r")]
    stored = {(row.id.hex(), row.chunk): row.data for row in log.blob_chunks("run/r") if row.chunk != 0xFFFFFFFF}
    held = {
        (blob, number): base64.b64decode(chunk)
        for blob, chunks in made["blobs"].items()
        for number, chunk in enumerate(chunks)
    }
    assert held == stored
    lists = [base64.b64decode(one["list"]) for one in made["records"] if "list" in one]
    assert lists == [row.data for row in log.blob_chunks("run/r") if row.chunk == 0xFFFFFFFF]
    assert len(lists) == 1


def test_what_is_shown_is_what_the_log_reads(runtime: Runtime):
    """With messages in full, an event of a bundle is the event that `log show` prints, but for raw bytes."""
    run_rich(runtime)
    made = bundle(runtime.log, "r")

    said = list(in_full(made["events"]))
    read = [event_json(event) for event in runtime.log.stream("run/r")]

    for mine, theirs in zip(said, read, strict=True):
        if mine["type"] == "artifact_created":
            del mine["content"]["data"], theirs["content"]["data"]
        assert mine == theirs
    data = [one["content"]["data"] for one in made["events"] if one["type"] == "artifact_created"]
    assert data == [b"few bytes".hex(), "<200,000 bytes>", "<80,000 bytes>", None, None]


def test_the_parts_say_what_happened(runtime: Runtime):
    """Summary, tool ledger, approvals, failures, costs, artifacts, children and final state of a run that had them."""
    run_rich(runtime)
    made = bundle(runtime.log, "r")
    summary = made["summary"]

    assert (summary["status"], summary["usd"], summary["failures"]) == ("completed", 0.25, {"tool": 1})
    assert summary["tool_statuses"] == {"SUCCEEDED": 2}
    assert summary["counts"] == dict(sorted((runtime.state("r").counts).items()))
    assert [(row["tool"], row["status"]) for row in made["tool_ledger"]] == [
        ("post", "SUCCEEDED"),
        ("sign", "SUCCEEDED"),
    ]
    assert made["tool_ledger"][0]["arguments"] == {"text": "x" * 2000}
    (approval,) = made["approvals"]
    assert (approval["status"], approval["by"], approval["reason"]) == ("approved", "Ada", "seen")
    (failure,) = made["failures"]
    assert (failure["kind"], failure["message"]) == ("tool", "cannot go on")
    assert [row["kind"] for row in made["cost_records"]].count("recorded") == 1
    assert [row["manifest"]["name"] for row in made["artifacts"]] == ["small", "large", "page"]
    assert [row["manifest"]["ref"] for row in made["media_artifacts"]] == ["s3://bucket/v.mp4"]
    assert [row["manifest"]["offset"] for row in made["stream_checkpoints"]] == [42]
    (child,) = made["children"]
    end = runtime.log.stream_head("run/kid")
    assert (child["child"], child["head"]) == ("kid", {"seq": end.seq, "hash": end.hash.hex()})
    assert made["final_state"] == {
        "version": 1,
        "state": {"seen": {"ünï": 1, "float": 0.1, "broken": True}, "raw": "00ff"},
        "output": {"signed": "signed a paper", "grown": "grown", "none": None},
        "status": "completed",
    }
    assert [frame["seq"] for frame in made["frames"]] == list(range(1, len(made["events"]) + 1))


def test_a_conversation_takes_what_it_takes_in_the_log(runtime: Runtime):
    """Messages that were said before are named by their place: twice the turns, about twice the bytes."""

    def bundled(turns: int) -> list[dict]:
        @agent(name="talks", models=lambda request: {"content": f"answer {len(request['messages'])}"})
        async def talks(ctx):
            said = []
            for number in range(turns):
                said.append({"role": "user", "content": f"{number}" * 100})
                reply = await ctx.call_model({"model": "m", "messages": said})
                said.append({"role": "assistant", "content": reply["content"]})

        runtime.run(talks, run_id=f"r{turns}")
        return as_read(bundle(runtime.log, f"r{turns}"))["events"]

    few, many = bundled(20), bundled(40)

    assert len(json.dumps(many)) < 2.2 * len(json.dumps(few))
    full = [one["content"]["messages"] for one in in_full(many) if one["type"] == "model_call_requested"]
    assert [len(one) for one in full] == list(range(1, 80, 2))
    assert full[-1][0] == {"role": "user", "content": "0" * 100}


def test_messages_that_look_like_places_or_come_in_another_order_are_told_apart(runtime: Runtime):
    """Whatever lists a run sends, they come back from the bundle as they were, and the bundle is intact."""
    trap = {BEFORE: {"seq": 1, "from": 0, "count": 9}, "role": "user"}
    lists = [
        [trap, "text", None, 1, 1.0, True, trap],
        [],
        [trap, trap, trap],
        [1, 1.0, True, None, "text", trap, {"role": "user"}],
        [{"role": "user"}, {BEFORE: None}, 1, 1.0] * 40,
        [{"role": "user"}] * 100,
    ]

    @agent(name="odd", models=lambda request: {"content": ""})
    async def odd(ctx):
        for one in lists:
            await ctx.call_model({"model": "m", "messages": one})

    runtime.run(odd, run_id="r")
    made = as_read(bundle(runtime.log, "r"))

    full = [one["content"]["messages"] for one in in_full(made["events"]) if one["type"] == "model_call_requested"]
    assert json.dumps(full) == json.dumps(lists)
    assert check(made, runtime.log).ok


def test_a_sealed_bundle_discloses_no_word(runtime: Runtime):
    """No key, and of contents only ciphertexts: no word that was said is anywhere in it."""
    run_rich(runtime)
    made = bundle(runtime.log, "r", sealed=True)

    text = json.dumps(made, ensure_ascii=False)
    for word in ("turn 3 of", "answer 70", "signed a paper", "cannot go on", "xxxxxxxx", "s3://", "ünï"):
        assert word in json.dumps(rich_bundle(), ensure_ascii=False)
        assert word not in text
    assert made["stream"]["key"] is None
    assert made["final_state"]["state"] == made["final_state"]["output"] == "<sealed>"
    assert {value for one in made["events"] for value in one["content"].values()} == {"<sealed>"}
    assert made["records"] == bundle(runtime.log, "r")["records"]


def test_a_forgotten_run_is_proved_without_its_words(runtime: Runtime):
    """Its key is gone: the bundle has no key, contents read `<forgotten>`, and all else is checked as before."""
    run_rich(runtime)
    log = runtime.log
    before = bundle(log, "r")
    log.forget("run/r")

    made = as_read(bundle(log, "r"))

    assert (made["sealed"], made["stream"]["key"]) == (False, None)
    assert made["final_state"]["state"] == "<forgotten>"
    assert made["records"] == before["records"]
    assert made["summary"]["usd"] == before["summary"]["usd"]
    report = check(made, log)
    assert report.ok, report
    assert report.checked["opened"] == 0
    assert any("forgotten" in text for text in report.not_checked)


def test_a_key_that_was_to_be_destroyed_is_not_handed_on(tmp_path: Path):
    """A crash came between the word that a run is forgotten and the end of its key: a bundle carries none."""
    root = tmp_path / "ledger"
    with Runtime.local(root) as runtime:
        runtime.run(agent(name="a")(lambda ctx: "said"), run_id="r")
        number, _ = runtime.log.key("run/r")
        runtime.log.append(Draft(stream=STREAM, body=ContentForgotten(stream=number, reason="asked")))
    with Log.open(root, readonly=True) as log:
        assert log.key("run/r") is None
        made = bundle(log, "r")
    assert made["stream"]["key"] is None
    assert made["final_state"]["output"] == "<forgotten>"


def test_what_is_secret_here_is_never_disclosed(runtime: Runtime):
    """A run that said what is a secret by now is exported sealed, or not at all."""
    value = "correct-horse-battery"

    @agent(name="a")
    def says(ctx):
        return {"deep": [value]}

    runtime.run(says, run_id="r")
    known = dict(VAULT._forms)
    try:
        Secret("stable", value)
        with pytest.raises(Refused, match="secret"):
            bundle(runtime.log, "r")
        sealed = bundle(runtime.log, "r", sealed=True)
    finally:
        VAULT._forms.clear()
        VAULT._forms.update(known)
        VAULT._search = ((), None)
        VAULT._sharpen()
    assert value not in json.dumps(sealed)
    assert check(as_read(sealed)).ok


def test_ciphertexts_are_not_searched_for_patterns(runtime: Runtime):
    """Base64 may look like anything, a pattern of what to hide too: what is sealed is exported as it is."""
    run_rich(runtime)
    chunk = bundle(runtime.log, "r")["records"][4]["content"]
    known = dict(VAULT._patterns)
    try:
        VAULT.look_for("unlucky", re.escape(chunk[:24]))
        made = bundle(runtime.log, "r")
        written = json.loads(b"".join(files.text(made)))
    finally:
        VAULT._patterns.clear()
        VAULT._patterns.update(known)
        VAULT._sharpen()
    assert written["records"][4]["content"] == chunk
    assert check(written, runtime.log).ok


def test_no_run_no_evidence(log: Log):
    """A run that is not there is not found."""
    for name in ("nobody", "", "x" * 5000, "ü"):
        with pytest.raises(NotFound):
            bundle(log, name)


def test_a_damaged_run_is_not_exported(runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    """A record that is not what was written is damage, and nobody is given it as evidence."""
    runtime.run(agent(name="a")(lambda ctx: "said"), run_id="r")
    rows = list(runtime.log.records("run/r"))
    seq, data = rows[2]
    rows[2] = (seq, data[:200] + bytes([data[200] ^ 1]) + data[201:])
    monkeypatch.setattr(runtime.log, "records", lambda _: iter(rows))

    with pytest.raises(Damaged, match=str(seq)):
        bundle(runtime.log, "r")


def test_a_run_that_goes_on_meanwhile_is_cut_at_one_event(runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    """What is appended behind the event at which an export began is not in it: no record, and no blob."""
    assert runtime.run(rich, run_id="r").status == "waiting"
    log = runtime.log
    then = log.head()
    early = bundle(log, "r")
    runtime.approve(next(iter(runtime.state("r").approvals)))
    assert runtime.run(rich, run_id="r").ok
    monkeypatch.setattr(log, "head", lambda: then)

    late = bundle(log, "r")

    assert {name for name in ORDER if early[name] != late[name]} <= {"exported", "bundle_digest"}
    report = check(as_read(late), log)
    assert (report.ok, report.since) == (True, len(list(log.stream("run/r"))) - len(late["events"]))


def test_unfinished_runs_have_evidence_too(runtime: Runtime):
    """A run in the middle of things: its bundle shows where it stands, and checks."""

    @agent(name="a")
    def waits(ctx):
        ctx.wait_signal("go")

    runtime.run(waits, run_id="r")
    made = as_read(bundle(runtime.log, "r"))

    assert made["summary"]["status"] == "waiting"
    assert made["final_state"]["output"] is None
    assert check(made, runtime.log).ok


# Files


def test_every_form_is_read_back(tmp_path: Path):
    """A file and a directory give the bundle that was written, in its order."""
    made = rich_bundle()
    files.write_file(made, tmp_path / "one.json")
    files.write_directory(made, tmp_path / "dir")

    for path in (tmp_path / "one.json", tmp_path / "dir"):
        again = files.read(path)
        assert again == made
        assert list(again) == list(made)
        assert files.beside(path, again) == ([], [])
    assert sorted(os.listdir(tmp_path / "dir")) == sorted(files.NAMES)
    assert sorted(os.listdir(tmp_path)) == ["dir", "one.json"]  # and nothing is left of how they were written


def test_a_page_is_read_back(tmp_path: Path):
    """The data of a page are the bundle that it was made of, and another page around them is found."""
    made = rich_bundle()
    files.write_page(made, tmp_path / "page.html")

    again = files.read(tmp_path / "page.html")

    assert again == made
    assert files.beside(tmp_path / "page.html", again) == ([], [])
    text = (tmp_path / "page.html").read_text()
    (tmp_path / "page.html").write_text(text.replace("</body>", "<p>All is well.</p></body>"))
    (finding,), _ = files.beside(tmp_path / "page.html", files.read(tmp_path / "page.html"))
    assert finding.kind == "page"


def test_a_page_with_two_bundles_or_none_is_refused(tmp_path: Path):
    """Nobody is shown one bundle while another one is checked."""
    block = '<script type="application/json" id="x">%s</script>'
    data = json.dumps(rich_bundle()).replace("<", "\\u003c")
    page = tmp_path / "p.html"

    page.write_text("<html>" + block % data + "</html>")
    assert files.read(page) == rich_bundle()
    for text in (block % data + block % data, "<p>nothing</p>", block % '{"agentledger.evidence.v1": 1}', block % "[1"):
        page.write_text("<html>" + text + "</html>")
        with pytest.raises(Damaged):
            files.read(page)


@pytest.mark.parametrize("name", sorted(files.NAMES - {files.BUNDLE}))
def test_an_edited_file_beside_the_bundle_is_found(tmp_path: Path, name: str):
    """Each file of a directory says what the bundle says, or is named; one that is missing too."""
    made = rich_bundle()
    path = tmp_path / "dir"
    files.write_directory(made, path)
    text = (path / name).read_text()

    (path / name).write_text(text.replace("r", "R", 1) if "r" in text else "[0]")
    findings, _ = files.beside(path, made)
    assert name in " ".join(one.detail for one in findings)
    (path / name).unlink()
    findings, _ = files.beside(path, made)
    assert name in " ".join(one.detail for one in findings)
    (path / "more.txt").write_text("trust me")
    assert "more.txt" in files.beside(path, made)[1][0]


def test_a_page_of_another_version_is_not_taken_at_its_word(tmp_path: Path):
    """Only the version that made a page can make it anew: to another one, whatever it shows is incomplete."""
    made = signed({**kid_bundle(), "agentledger": "0.0.1"})
    page = tmp_path / "page.html"
    files.write_page(made, page)
    for shown in ("", "<h1>PAID 1,000,000</h1>"):
        page.write_text(page.read_text().replace("</body>", f"{shown}</body>"))
        done = commands("evidence-check", page, "--json", cwd=tmp_path)
        (report,) = json.loads(done.stdout)["bundles"]
        assert (done.returncode, report["ok"], report["findings"]) == (6, False, []), done.stderr
        assert "0.0.1" in report["incomplete"][0]
        assert "kid: incomplete: " in commands("evidence-check", page, cwd=tmp_path).stdout


def test_files_that_nobody_can_compare_are_incomplete(tmp_path: Path):
    """What lies in a directory of evidence or of a family, and belongs to no bundle is named (exit code 6)."""
    files.write_directory(kid_bundle(), tmp_path / "d")
    files.write_family([rich_bundle(), kid_bundle()], tmp_path / "f")
    for path, name in (("d", "failures.json"), ("f", "READ-THIS.txt"), ("f", "0003-more")):
        assert commands("evidence-check", path, cwd=tmp_path).returncode == 0
        place = tmp_path / path / name
        if "." in name:
            place.write_text("[]")
        else:
            place.mkdir()
        done = commands("evidence-check", path, cwd=tmp_path)
        assert done.returncode == 6, done.stdout + done.stderr
        assert f"incomplete: files that do not belong to the bundle: {name}" in done.stdout
        if "." in name:
            place.unlink()


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n", "\n"])
def test_words_with_any_line_break_are_honest_evidence(runtime: Runtime, tmp_path: Path, mark: str):
    """A directory whose run said something with a line break of any kind in it says what its bundle says."""
    assert runtime.run(agent(name="a")(lambda ctx: f"a line{mark}another"), run_id="r").ok
    made = bundle(runtime.log, "r")
    files.write_directory(made, tmp_path / "d")
    files.write_page(made, tmp_path / "p.html")
    for path in (tmp_path / "d", tmp_path / "p.html"):
        assert files.beside(path, files.read(path)) == ([], [])


def test_events_beside_a_bundle_are_a_line_each(tmp_path: Path):
    """Two events on a line, an empty file and a line more are found."""
    files.write_directory(kid_bundle(), tmp_path / "d")
    events = tmp_path / "d" / files.EVENTS
    text = events.read_text()
    for other in (text.replace("\n", "\u2028", 1), "", text + "\n", text.replace("\n", " ")):
        events.write_text(other)
        details = [one.detail for one in files.beside(tmp_path / "d", kid_bundle())[0]]
        assert f"{files.EVENTS} does not say what the bundle says" in details


def test_what_is_no_bundle_is_said_so(tmp_path: Path):
    """Cut short, not UTF-8, not JSON, JSON of something else, a name twice, numbers that are none, too deep."""
    whole = b"".join(files.text(rich_bundle()))
    path = tmp_path / "b.json"
    wrong = [whole[:-100], b"", b"\xff\xfe", b"[]", b"{}", b"null", b'"x"', b'{"schema":"other"}', b"[" * 200_000]
    wrong += [whole.replace(b'"run_id"', b'"schema"', 1), b'{"schema":NaN}', b'{"a":' + b"9" * 5000 + b"}"]
    for data in wrong:
        path.write_bytes(data)
        with pytest.raises(Damaged):
            files.read(path)
    with pytest.raises(NotFound):
        files.read(tmp_path / "nothing.json")
    with pytest.raises(NotFound):
        files.read(tmp_path)


def test_what_carries_a_key_is_its_owners(tmp_path: Path):
    """Files with a key are readable by nobody else; sealed ones as any other file."""
    umask = os.umask(0o022)
    try:
        files.write_file(rich_bundle(), tmp_path / "open.json")
        files.write_file(rich_bundle(sealed=True), tmp_path / "sealed.json")
        files.write_directory(rich_bundle(), tmp_path / "dir")
    finally:
        os.umask(umask)

    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in os.listdir(tmp_path)}
    assert modes == {"open.json": 0o600, "sealed.json": 0o644, "dir": 0o700}
    assert {stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "dir").iterdir()} == {0o600}


def test_nothing_that_is_somebodys_is_replaced(tmp_path: Path):
    """A directory takes the place of evidence or of nothing; a file that does not belong keeps it all."""
    made = rich_bundle()
    path = tmp_path / "dir"
    path.mkdir()
    files.write_directory(made, path)  # an empty one
    files.write_directory(rich_bundle(sealed=True), path)  # one of ours
    assert files.read(path)["sealed"]
    (path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="evidence only"):
        files.write_directory(made, path)
    assert (path / "notes.txt").read_text() == "mine"
    assert files.read(path)["sealed"]

    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"schema": "something"}')
    (tmp_path / "file").write_text("mine")
    for place in (other, tmp_path / "file", Path("/")):
        with pytest.raises(BadInput):
            files.write_directory(made, place)
    assert sorted(os.listdir(tmp_path)) == ["dir", "file", "other"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path):
    """Half a file never takes the place of a whole one, and nothing is left beside it."""
    path = tmp_path / "b.json"
    files.write_file(rich_bundle(), path)
    before = path.read_bytes()

    with pytest.raises(TypeError):
        files.write_file({**rich_bundle(), "blobs": object()}, path)
    with pytest.raises(KeyError):
        files.write_directory({name: value for name, value in rich_bundle().items() if name != "steps"}, tmp_path / "d")
    with pytest.raises(BadInput, match="cannot be written"):
        files.write_file(rich_bundle(), tmp_path / "missing" / "b.json")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["b.json"]


def test_devices_and_links_are_written_through(tmp_path: Path):
    """A pipe stays a pipe, and a link to a file stays a link."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    reader = subprocess.Popen(["sh", "-c", "cat pipe > copy"], cwd=tmp_path)
    files.write_file(rich_bundle(), tmp_path / "pipe")
    assert reader.wait(timeout=20) == 0
    files.write_file(rich_bundle(), tmp_path / "link.json")

    assert files.read(tmp_path / "copy") == rich_bundle()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link.json").is_symlink()
    assert files.read(tmp_path / "real.json") == rich_bundle()


def test_the_ledgers_own_directory_is_refused(tmp_path: Path):
    """Also by way of a link or of `..`."""
    root = tmp_path / "ledger"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    for path in (root, root / "e.json", tmp_path / "link" / "e", tmp_path / "x" / ".." / "ledger" / "e"):
        with pytest.raises(BadInput, match="own directory"):
            outside(path, root)
    assert outside(tmp_path / "e.json", root) == tmp_path / "e.json"


def test_a_family_is_read_back_and_replaced(tmp_path: Path):
    """A run and its children, each in a directory; another family takes its place, and nothing else does."""
    path = tmp_path / "family"
    for _ in range(2):
        assert list(files.write_family([rich_bundle(), kid_bundle()], path)) == ["r", "kid"]
    found = files.read_family(path)
    assert found == {"r": rich_bundle(), "kid": kid_bundle()}
    assert files.read(path) == rich_bundle()

    index = json.loads((path / "index.json").read_text())
    for directory in ("../family/0001-r", "nothing", 7, None):
        index["bundles"]["r"]["directory"] = directory
        (path / "index.json").write_text(json.dumps(index))
        with pytest.raises(Damaged):
            files.read_family(path)
    index["bundles"]["r"]["directory"] = "0002-kid"
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(Damaged, match="is not the evidence of run r"):
        files.read_family(path)


# Commands


def test_the_command_prints_a_bundle(ledger: Path, tmp_path: Path):
    """Without a place it goes to stdout, whole, and nothing else does."""
    for arguments in (["r"], ["r", "--out", "-"], ["r", "--json"], ["r", "--sealed"]):
        done = commands("--root", ledger, "evidence", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        assert list(made) == ORDER
        assert made["sealed"] == ("--sealed" in arguments)
    assert os.listdir(tmp_path) == []


def test_the_command_writes_files(ledger: Path, tmp_path: Path):
    """Files are named with the digest, and that they carry a key is said."""
    done = commands("--root", ledger, "evidence", "r", "--out", "a.json", "--dir", "d", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = files.read(tmp_path / "a.json")
    assert made["bundle_digest"] in done.stdout
    assert "key" in done.stderr
    assert files.read(tmp_path / "d") == made

    done = commands("--root", ledger, "evidence", "s", "--html", "p.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, code in (("p.html", 0), ("d", 6), ("a.json", 6)):
        assert commands("evidence-check", name, cwd=tmp_path).returncode == code
    (tmp_path / "d" / "summary.json").write_text("{}")
    assert commands("evidence-check", "d", cwd=tmp_path).returncode == 3

    done = commands("--root", ledger, "evidence", "r", "--sealed", "--out", "s.json", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert (said["out"], said["key"], said["sealed"], said["events"]) == ("s.json", False, True, len(made["events"]))
    assert said["bundle_digest"] == files.read(tmp_path / "s.json")["bundle_digest"]


def test_the_command_refuses_what_it_should(ledger: Path, tmp_path: Path):
    """A place in the ledger, a directory that is not evidence, children without a directory, a run that is not."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("x")
    for arguments, words in (
        (["r", "--out", ledger / "x.json"], "own directory"),
        (["r", "--dir", ledger], "own directory"),
        (["r", "--dir", "mine"], "evidence only"),
        (["r", "--with-children"], "--dir"),
        (["r", "--with-children", "--out", "x.json", "--dir", "d"], "directory"),
        (["nobody"], "no run"),
    ):
        done = commands("--root", ledger, "evidence", *arguments, cwd=tmp_path)
        assert done.returncode == 1, arguments
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["mine"]


def test_children_are_exported_with_their_run(ledger: Path, tmp_path: Path):
    """One directory each, an index that names them, and a check that looks from one to the other."""
    done = commands("--root", ledger, "evidence", "r", "--with-children", "--dir", "d", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["bundles"]) == ["r", "kid"]
    done = commands("evidence-check", "d", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"], [one["run_id"] for one in said["bundles"]]) == (0, True, ["r", "kid"])


def test_a_machine_without_the_ledger_checks_a_file(ledger: Path, tmp_path: Path):
    """In an empty folder, with nothing but the file: well, changed, without its child, and with the ledger again."""
    commands("--root", ledger, "evidence", "kid", "--out", tmp_path / "kid.json", cwd=tmp_path)
    commands("--root", ledger, "evidence", "r", "--out", tmp_path / "r.json", cwd=tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()

    done = commands("evidence-check", "../kid.json", cwd=alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "intact" in done.stdout
    assert "not checked: that the ledger has this id" in done.stdout
    assert commands("evidence-check", "../r.json", cwd=alone).returncode == 6  # its child's evidence is not here
    assert commands("evidence-check", "../kid.json", "--ledger", cwd=alone).returncode == 1  # and there is no ledger

    text = (tmp_path / "kid.json").read_text()
    (tmp_path / "kid.json").write_text(text.replace('"grown"', '"green"'))
    done = commands("evidence-check", "../kid.json", "--json", cwd=alone)
    assert done.returncode == 3
    assert not json.loads(done.stdout)["ok"]
    (tmp_path / "kid.json").write_text(text[:-500])
    assert commands("evidence-check", "../kid.json", cwd=alone).returncode == 3
    assert os.listdir(alone) == []

    for what in ("r", tmp_path / "r.json"):
        done = commands("--root", ledger, "evidence-check", what, cwd=alone)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "records in the ledger" in done.stdout
    assert commands("--root", ledger, "evidence-check", tmp_path / "r.json", "--no-ledger", cwd=alone).returncode == 6
    assert commands("--root", ledger, "evidence-check", "../no.json", cwd=alone).returncode == 1


def test_another_ledger_is_not_asked_unless_somebody_says_so(ledger: Path, tmp_path: Path):
    """A bundle of another ledger than the one that is here is checked alone; with --ledger that is a finding."""
    commands("--root", ledger, "evidence", "s", "--out", tmp_path / "s.json", cwd=tmp_path)
    Runtime.local(tmp_path / ".agentledger").close()

    assert commands("evidence-check", "s.json", cwd=tmp_path).returncode == 0
    done = commands("evidence-check", "s.json", "--ledger", cwd=tmp_path)
    assert done.returncode == 3
    assert "another ledger" in done.stdout
    said = commands("evidence-check", "s.json", cwd=tmp_path).stdout
    assert "is another one, and has not this run" in said
    assert "not checked: that the ledger has this id" in said


def test_a_bundle_under_another_ledgers_name_is_found_by_its_own(ledger: Path, tmp_path: Path):
    """Beside the ledger that holds its records, a bundle that names another one does not pass."""
    commands("--root", ledger, "evidence", "s", "--out", tmp_path / "s.json", cwd=tmp_path)
    files.write_file(signed({**files.read(tmp_path / "s.json"), "ledger_id": "ab" * 16}), tmp_path / "forged.json")

    assert commands("--root", ledger, "evidence-check", "s.json", cwd=tmp_path).returncode == 0
    done = commands("--root", ledger, "evidence-check", "forged.json", cwd=tmp_path)
    assert done.returncode == 3, done.stdout
    assert "its records are in this one" in done.stdout
