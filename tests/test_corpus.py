"""A golden corpus holds what a replay needs, notices every change of code and files, and never changes by itself."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.stories import command, object_of, text_of

from agentledger import BadInput, Damaged, Diverged, LedgerError, Log, Refused, Runtime, agent
from cli.commands.gates import corpus
from ledger_core.runtime.target import load
from projections.evidence import bundle
from replay import corpus as golden
from replay.seeds import Candidate, cover
from replay.unpacked import ledger_of

AGENTS = """
from agentledger import agent, tool

def ask(request):
    return {"content": f"{len(request['messages'])} messages", "usage": {"input_tokens": 5, "output_tokens": 2}}

@tool
def look(number: int) -> int:
    return number

@tool(side_effect="external_write")
def post(text: str) -> dict:
    return {"posted": text}

@agent(tools=[look, post], models=ask)
def busy(ctx, state):
    messages = []
    for number in range(state["calls"]):
        ctx.call_tool("look", number=number)
        messages.append({"role": "user", "content": f"message {number} " * state.get("size", 1)})
    if messages:
        ctx.call_model({"model": "m", "messages": messages})
        messages.append({"role": "user", "content": "and one more"})
        ctx.call_model({"model": "m", "messages": messages})
    ctx.write_state_patch("random", ctx.random())
    ctx.call_tool("post", text="done" * state.get("size", 1))
    return state["calls"]

@agent
async def kid(ctx):
    return str(ctx.now())

@agent
async def parent(ctx):
    child = await ctx.spawn(kid)
    return await child.join()

@agent
def fails(ctx):
    raise ValueError("on purpose")

@agent
def waits(ctx):
    return ctx.wait_signal("go")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project with code/agents.py and a ledger, as the working directory."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "agents.py").write_text(AGENTS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(place, run_id, name="busy", **state):
    with Runtime.local(place / "ledger") as runtime:
        result = runtime.run(load(f"{place / 'code' / 'agents.py'}:{name}"), run_id=run_id, initial_state=state)
    assert result.status == {"fails": "failed", "waits": "waiting"}.get(name, "completed"), result


def add(place, run_id, *words):
    return command(corpus, place / "ledger", "add", run_id, *words)


def changed(place, before, after):
    file = place / "code" / "agents.py"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))


def files(place):
    return {path.name: path.read_bytes() for path in (place / "corpus").iterdir()}


# Adding and checking


def test_a_run_is_added_and_replayed_without_its_ledger(place, capsys):
    """What was added is the same in another checkout, where neither the ledger nor the old place is."""
    run(place, "a", calls=3)
    found = object_of(capsys, corpus, place / "ledger", "add", "a", "--name", "three", "--note", "three calls")
    assert (found["added"], found["name"], found["file"]) == (True, "three", "corpus/three.json")
    assert (found["target"], found["status"]) == ("../code/agents.py:busy", "completed")
    assert stat.S_IMODE((place / "corpus" / "three.json").stat().st_mode) == 0o600
    (place / "elsewhere").mkdir()
    shutil.move(place / "code", place / "elsewhere" / "code")
    shutil.move(place / "corpus", place / "elsewhere" / "corpus")
    shutil.rmtree(place / "ledger")
    where = str(place / "elsewhere" / "corpus")
    checked = object_of(capsys, corpus, place / "ledger", "check", "--dir", where)
    assert checked["ok"]
    (one,) = checked["runs"]
    assert (one["verdict"], one["replay"]["effects"], one["replay"]["complete"]) == ("same", 7, True)
    assert not (place / "ledger").exists()
    assert "ok  three: 7 effects, the same to its end" in text_of(capsys, corpus, place, "check", "--dir", where)
    (listed,) = object_of(capsys, corpus, place, "list", "--dir", where)["runs"]
    assert (listed["name"], listed["note"]) == ("three", "three calls")


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("busy", {"calls": 0}),
        ("busy", {"calls": 300}),  # more events than one waypoint, more messages than facts can list
        ("busy", {"calls": 3, "size": 30_000}),  # blobs of several chunks
        ("parent", {}),
        ("fails", {}),
        ("waits", {}),
    ],
)
def test_every_kind_of_run_comes_out_of_its_file(place, name, state):
    """Long runs, large messages, children, failures, runs that wait: each is in its file as it is in the ledger."""
    run(place, "r", name, **state)
    assert add(place, "r") == 0
    (one,) = golden.check(place / "corpus")
    assert one.verdict == "same", one.why
    with Log.open(place / "ledger", readonly=True) as log, ledger_of(bundle(log, "r")) as held:
        assert list(held.stream("run/r")) == list(log.stream("run/r"))
        assert (held.stream_head("run/r"), held.id) == (log.stream_head("run/r"), log.id)
        assert held.tagger("run/r")(b"x") == log.tagger("run/r")(b"x")


def test_a_run_of_attached_code_is_kept(place):
    """A run that other programs drove has no code to replay; its record is read, and is the same."""
    with Runtime.local(place / "ledger") as runtime, runtime.attach("x") as ctx:
        ctx.now()
    assert add(place, "x") == 0
    (one,) = golden.check(place / "corpus")
    assert (one.verdict, one.entry.target) == ("same", None)


def test_adding_again_changes_nothing(place, capsys):
    """A run that is there, with the same note and name, is left byte for byte as it is."""
    run(place, "a", calls=1)
    assert add(place, "a", "--note", "first") == 0
    before = files(place)
    for words in ((), ("--note", "first"), ("--name", "busy-a")):
        assert object_of(capsys, corpus, place / "ledger", "add", "a", *words)["added"] is False
    assert files(place) == before
    assert add(place, "a", "--note", "second") == 0
    assert golden.entries(place / "corpus")["busy-a"].note == "second"


def test_a_run_that_went_on_is_added_anew(place):
    """What came after a run was added takes the place of what was there, under the same name."""
    run(place, "w", "waits")
    assert add(place, "w", "--name", "w", "--note", "kept") == 0
    with Runtime.local(place / "ledger") as runtime:
        runtime.signal("w", "go")
        runtime.resume("w", load(f"{place / 'code' / 'agents.py'}:waits"))
    assert add(place, "w") == 0
    (one,) = golden.check(place / "corpus")
    assert (one.entry.status, one.entry.note, one.verdict) == ("completed", "kept", "same")


def test_names_are_unique_and_safe(place):
    """A name that another run has is refused, also where only a file system takes them for one; so is a path."""
    run(place, "a", calls=0)
    run(place, "b", calls=0)
    assert add(place, "a", "--name", "x") == 0
    for name in ("x", "X"):
        with pytest.raises(BadInput, match="has run a as x"):
            add(place, "b", "--name", name)
    with pytest.raises(BadInput, match="has run a as x"):
        add(place, "a", "--name", "y")
    for name in ("../x", "", ".x", "a/b", "index", "INDEX", "x" * 101, "ü", "a b", "x\n"):
        with pytest.raises(BadInput, match="cannot be the name"):
            add(place, "b", "--name", name)
    with pytest.raises(BadInput, match="letters; it may have"):
        add(place, "b", "--note", "n" * 1001)
    assert sorted(files(place)) == ["index.json", "x.json"]
    assert add(place, "b", "--name", "X", "--replace") == 0
    assert [one.run_id for one in golden.entries(place / "corpus").values()] == ["b"]
    assert sorted(files(place)) == ["X.json", "index.json"]


def test_an_odd_agent_has_a_safe_name(place):
    """A name is made of an agent's and a run's, whatever letters they have."""
    (place / "code" / "agents.py").write_text(
        "from agentledger import agent\n@agent(name='ümläut /../ agent')\ndef busy(ctx):\n    return 1\n"
    )
    run(place, "r:1@x")
    assert add(place, "r:1@x") == 0
    (name,) = golden.entries(place / "corpus")
    assert name == "ml-ut-..-agent-r-1-x"


# What is refused


def test_what_cannot_be_replayed_from_a_file_is_refused(place):
    """A forgotten run, a run without its code, code that is gone: each in a sentence, and nothing is written."""
    run(place, "a", calls=0)
    run(place, "b", calls=0)
    with Runtime.local(place / "ledger") as runtime:
        runtime.log.forget("run/a")
    with pytest.raises(Refused, match="forgotten"):
        add(place, "a")
    (place / "code" / "agents.py").rename(place / "code" / "moved.py")
    with pytest.raises(BadInput, match="There is no file"):
        add(place, "b")
    assert sorted(files(place)) == []
    assert add(place, "b", "--target", "code/moved.py:busy") == 0
    assert golden.entries(place / "corpus")["busy-b"].target == "../code/moved.py:busy"


def test_a_secret_is_not_written(place):
    """A run that said what this process keeps secret is refused, as its evidence with the key is."""
    run(place, "a", calls=0, word="hunter2-hunter2")
    script = """
import sys
from pathlib import Path
from agentledger import Log, Secret
from replay.corpus import add
Secret("word", "hunter2-hunter2")
with Log.open(sys.argv[1], readonly=True) as log:
    add(log, "a", Path("corpus"))
"""
    done = subprocess.run([sys.executable, "-c", script, place / "ledger"], capture_output=True, text=True, check=False)
    assert "Refused: Run a said something that is kept secret here" in done.stderr
    assert not list((place).glob("corpus/*"))


def test_the_ledger_s_own_directory_is_refused(place):
    """A corpus is never made inside the ledger."""
    run(place, "a", calls=0)
    with pytest.raises(BadInput, match="ledger's own directory"):
        add(place, "a", "--dir", "ledger/corpus")


def test_a_run_that_diverges_today_is_refused_unless_that_is_expected(place, capsys):
    """A corpus holds what holds: a run of other code is refused, 4, or added with what is expected of it."""
    run(place, "a", calls=2)
    changed(place, 'return state["calls"]', "return -1")
    with pytest.raises(Diverged, match="AL108") as caught:
        add(place, "a")
    assert (caught.value.exit_code, "--allow AL108" in caught.value.hint) == (4, True)
    assert sorted(files(place)) == []
    with pytest.raises(BadInput, match="no code of a divergence"):
        add(place, "a", "--allow", "AL999")
    assert add(place, "a", "--allow", "AL108") == 0
    assert object_of(capsys, corpus, place, "check")["runs"][0]["verdict"] == "allowed"
    changed(place, 'ctx.call_tool("post", text="done"', 'ctx.call_tool("post", text="other"')
    checked = object_of(capsys, corpus, place, "check", code=4)["runs"][0]
    assert checked["verdict"] == "diverged"


# What a check finds


def test_changed_code_is_found(place, capsys):
    """Code that does something else than the corpus has is found, 4, run by run; a name checks that one alone."""
    run(place, "a", calls=1)
    run(place, "b", calls=2)
    for name in ("a", "b"):
        assert add(place, name, "--name", name) == 0
    changed(place, 'range(state["calls"])', 'range(min(1, state["calls"]))')
    found = object_of(capsys, corpus, place, "check", "--jobs", "2", code=4)
    assert {one["name"]: one["verdict"] for one in found["runs"]} == {"a": "same", "b": "diverged"}
    assert object_of(capsys, corpus, place, "check", "a")["ok"]
    shown = text_of(capsys, corpus, place, "check", code=4)
    assert "BAD b: diverged: AL10" in shown
    assert "2 runs: 1 as expected" in shown


def test_code_that_kills_its_process_is_found(place, capsys):
    """A run whose code ends the process fails, 1, and the others are checked."""
    run(place, "a", calls=1)
    run(place, "b", "fails")
    assert add(place, "a") == add(place, "b") == 0
    changed(place, 'raise ValueError("on purpose")', "import os; os._exit(3)")
    found = object_of(capsys, corpus, place, "check", code=1)
    assert {one["run_id"]: one["verdict"] for one in found["runs"]} == {"a": "same", "b": "failed"}


def test_every_byte_of_a_file_counts(place):
    """A file that was cut, edited, or exchanged for another's is damaged, 3, and is not replayed."""
    run(place, "a", calls=1)
    run(place, "b", calls=1)
    assert add(place, "a", "--name", "a") == add(place, "b", "--name", "b") == 0
    file = place / "corpus" / "a.json"
    good = file.read_bytes()
    edited = json.loads(good)
    edited["records"][3]["sealed"] = edited["records"][4]["sealed"]
    lies = {**json.loads(good), "summary": {}}
    bad = {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "no json": b"\xff\xfe",
        "a list": b"[]",
        "edited": json.dumps(edited).encode(),
        "lies": json.dumps(lies).encode(),
        "another's": (place / "corpus" / "b.json").read_bytes(),
    }
    for what, data in bad.items():
        file.write_bytes(data)
        found = {one.entry.name: one for one in golden.check(place / "corpus")}
        assert (found["a"].verdict, found["b"].verdict) == ("damaged", "same"), what
        assert found["a"].outcome is None
        assert golden.exit_code(found.values()) == 3
    file.unlink()
    assert {one.verdict for one in golden.check(place / "corpus")} == {"same", "damaged"}
    file.mkdir()
    assert {one.verdict for one in golden.check(place / "corpus")} == {"same", "damaged"}
    file.rmdir()
    file.write_bytes(good)
    assert {one.verdict for one in golden.check(place / "corpus")} == {"same"}


def test_line_ends_of_another_system_are_no_damage(place):
    """A checkout that writes other line ends, in the files or the index, has the same corpus."""
    run(place, "a", calls=1)
    assert add(place, "a") == 0
    for path in (place / "corpus").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert [one.verdict for one in golden.check(place / "corpus")] == ["same"]
    assert add(place, "a") == 0
    assert b"\r\n" in (place / "corpus" / "index.json").read_bytes()  # nothing was written


def test_an_export_that_is_newer_than_the_index_is_damage(place):
    """A whole bundle of the same run that is not the one that the index names is damage: somebody exchanged it."""
    run(place, "a", calls=1)
    assert add(place, "a", "--name", "a") == 0
    with Log.open(place / "ledger", readonly=True) as log:
        made = bundle(log, "a")
    from projections.evidence_files import write_file

    write_file(made, place / "corpus" / "a.json")
    (one,) = golden.check(place / "corpus")
    assert (one.verdict, one.why) == ("damaged", "The file is not the one that the index names.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": "agentledger.corpus.v1"}',
        '{"schema": "other", "runs": {}}',
        '{"schema": "agentledger.corpus.v1", "runs": {"../x": {}}}',
        '{"schema": "agentledger.corpus.v1", "runs": {"x": {}}}',
        '{"schema": "agentledger.corpus.v1", "runs": {"x": []}}',
        '{"schema": "agentledger.corpus.v1", "runs": []}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_broken_index_is_damage(place, text):
    """An index that is no index, or names a file outside, is damage: 3."""
    (place / "corpus").mkdir()
    (place / "corpus" / "index.json").write_text(text, errors="surrogateescape")
    with pytest.raises(Damaged, match=r"no index of a corpus"):
        golden.entries(place / "corpus")


def test_wrong_types_in_an_index_are_damage(place):
    """Each field of an entry is of its own type."""
    run(place, "a", calls=0)
    assert add(place, "a", "--name", "a") == 0
    path = place / "corpus" / "index.json"
    good = json.loads(path.read_text())
    assert golden.entries(place / "corpus")
    for name in good["runs"]["a"]:
        for wrong in (7, {}, [7]):
            bad = json.loads(path.read_text())
            bad["runs"]["a"][name] = wrong
            (place / "bad").mkdir(exist_ok=True)
            (place / "bad" / "index.json").write_text(json.dumps(bad))
            if (name, wrong) in (("types", {}), ("allow", {})):
                continue  # nothing listed is nothing listed
            with pytest.raises(Damaged):
                golden.entries(place / "bad")


def test_what_does_not_belong_is_said(place, capsys):
    """A file that the index does not name is said, and was not looked at: 6. Hidden files and words are nobody's."""
    run(place, "a", calls=0)
    assert add(place, "a") == 0
    (place / "corpus" / "stray.json").write_text("{}")
    (place / "corpus" / "README.md").write_text("words")
    (place / "corpus" / ".hidden.json").write_text("{}")
    assert object_of(capsys, corpus, place, "check", code=6)["strangers"] == ["stray.json"]
    assert object_of(capsys, corpus, place, "list")["strangers"] == ["stray.json"]
    assert object_of(capsys, corpus, place, "check", "busy-a")["strangers"] == []


def test_no_corpus_and_no_such_name_are_said(place, capsys):
    """Where there is no corpus, nothing passes: what is not there is said in a sentence."""
    with pytest.raises(LookupError, match="no corpus in corpus"):
        command(corpus, place, "check")
    assert object_of(capsys, corpus, place, "list")["runs"] == []
    run(place, "a", calls=0)
    assert add(place, "a") == 0
    with pytest.raises(LookupError, match="has no run 'b'"):
        command(corpus, place, "check", "b")


def test_nothing_is_half_written(place):
    """Adders that are killed in the middle leave a corpus that is whole, and two at once lose nothing."""
    names = [f"r{number}" for number in range(6)]
    for name in names:
        run(place, name, calls=1)
    script = """
import sys
from pathlib import Path
from agentledger import Log
from replay.corpus import add
with Log.open(sys.argv[1], readonly=True) as log:
    for name in sys.argv[2:]:
        add(log, name, Path("corpus"), name=name)
"""
    command_ = [sys.executable, "-c", script, str(place / "ledger")]
    children = [subprocess.Popen([*command_, *part]) for part in (names[:3], names[3:])]
    assert [child.wait(120) for child in children] == [0, 0]
    assert sorted(golden.entries(place / "corpus")) == names
    assert {one.verdict for one in golden.check(place / "corpus", jobs=2)} == {"same"}
    shutil.rmtree(place / "corpus")
    child = subprocess.Popen([*command_, *names])
    while not golden.entries(place / "corpus"):
        assert child.poll() is None
    child.kill()
    child.wait()
    found = golden.check(place / "corpus")
    assert {one.verdict for one in found} == {"same"}


# Choosing runs


def test_a_seed_shows_every_agent_ending_and_type(place, capsys):
    """Few runs are chosen, together they show all that ended runs show; a second seed adds nothing."""
    for number in range(4):
        run(place, f"busy{number}", calls=number)
    run(place, "family", "parent")
    run(place, "bad", "fails")
    run(place, "worse", "fails")
    run(place, "waiting", "waits")
    dry = object_of(capsys, corpus, place / "ledger", "seed", "--dry-run")
    assert not (place / "corpus").exists()
    found = object_of(capsys, corpus, place / "ledger", "seed", "--jobs", "2")
    assert found["chosen"] == dry["chosen"]
    assert found["left_out"] == {}
    assert {one["agent"] for one in found["added"]} == {"busy", "parent", "kid", "fails"}
    assert {one["status"] for one in found["added"]} == {"completed", "failed"}
    assert len(found["added"]) <= 5
    assert {"kind": "agent", "name": "waits"} in found["missing"]
    shown = set().union(*(one.types for one in golden.entries(place / "corpus").values()))
    missing = {one["name"] for one in found["missing"] if one["kind"] == "event"}
    with Log.open(place / "ledger", readonly=True) as log:
        occurring = {event.type for event in log.read(contents=False) if event.stream.startswith("run/")}
    assert shown | missing == occurring
    assert not shown & missing
    assert object_of(capsys, corpus, place, "check")["ok"]
    before = files(place)
    assert object_of(capsys, corpus, place / "ledger", "seed")["chosen"] == []
    assert files(place) == before


def test_a_seed_takes_what_holds_today(place, capsys):
    """A run that the code of today does otherwise is left out with why, and the next best is taken."""
    run(place, "old", calls=2)
    changed(place, '"message {number} "', '"changed {number} "')
    run(place, "new", calls=3)
    run(place, "bad", "fails")
    found = object_of(capsys, corpus, place / "ledger", "seed")
    assert {one["run_id"] for one in found["added"]} == {"new", "bad"}
    assert list(found["left_out"]) == ["old"]
    assert found["left_out"]["old"].startswith("AL105")


def test_a_seed_of_nothing(place, capsys):
    """A ledger without runs, and a limit, are kept to."""
    Log.open(place / "ledger").close()
    assert "nothing to add" in text_of(capsys, corpus, place / "ledger", "seed")
    run(place, "a", calls=0)
    run(place, "b", "fails")
    assert len(object_of(capsys, corpus, place / "ledger", "seed", "--limit", "1")["added"]) == 1


@given(
    st.lists(st.frozensets(st.tuples(st.sampled_from(["agent", "event"]), st.sampled_from("abcdefgh")), max_size=6)),
    st.frozensets(st.tuples(st.just("event"), st.sampled_from("abcdefgh"))),
)
def test_a_cover_covers_and_has_nothing_needless(traits, shown):
    """Whatever runs show: all of it is covered, and each that is chosen showed something that none before it did."""
    candidates = [Candidate(run_id=str(number), traits=one, events=number) for number, one in enumerate(traits)]
    picked = cover(candidates, shown)
    everything = frozenset().union(*traits) if traits else frozenset()
    assert shown.union(*(one.traits for one in picked)) >= everything
    for one in picked:
        assert one.traits - shown
        shown |= one.traits


def test_targets_find_their_way(place):
    """A file is named by its way from the corpus, from wherever it is looked at; a module by its name."""
    here = place / "corpus"
    assert golden.portable("code/agents.py:busy", here) == "../code/agents.py:busy"
    assert golden.portable(str(place / "code" / "agents.py"), here) == "../code/agents.py"
    assert golden.portable("package.module:agent", here) == "package.module:agent"
    for target in ("code/agents.py:busy", "code/agents.py"):
        found = golden.found_from(golden.portable(target, here), here)
        assert found == str(place / target)
    assert golden.found_from("package.module:agent", here) == "package.module:agent"


ODD = st.sampled_from([None, True, -1, 2**70, 1.5, "", "x", "00", "run/x", [], [None], {}, {"a": 1}, "AAAA", "\ud800"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bundle of a run with blobs and lists."""
    with Runtime.local(tmp_path_factory.mktemp("whole") / "ledger") as runtime:

        @agent(name="talks", models=lambda request: {"content": "yes"})
        def talks(ctx):
            for number in (3, 80):
                said = [{"role": "user", "content": f"{one} " * 400} for one in range(number)]
                ctx.call_model({"model": "m", "messages": said})

        assert runtime.run(talks, run_id="r").ok
        return bundle(runtime.log, "r")


@settings(max_examples=200)
@given(data=st.data())
def test_any_json_is_a_ledger_or_refused(whole, data):
    """Whatever somebody writes into a bundle: it is read as it is, or refused by a typed error, in a sentence."""
    made = json.loads(json.dumps(whole))
    where, deep = made, data.draw(st.integers(0, 6))
    while True:
        keys = sorted(where) if isinstance(where, dict) else range(len(where))
        key = keys[data.draw(st.integers(0, 10_000)) % len(keys)]
        if not deep or not isinstance(where[key], (dict, list)) or not where[key]:
            break
        where, deep = where[key], deep - 1
    where[key] = data.draw(ODD)
    try:
        with ledger_of(made) as log:
            list(log.stream("run/r"))
            log.head()
    except LedgerError as error:
        assert error.sentence
