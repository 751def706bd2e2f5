"""What a replay came to is in the log for good, and is held against the log by whoever verifies or reviews it."""

from __future__ import annotations

import attrs
import pytest
from suites.stories import command, object_of, text_of

from agentledger import BadInput, Log, Runtime
from cli.commands.prove import verify
from cli.commands.report import review
from ledger_core.events.ledger import STREAM, ReplayCertified
from ledger_core.log.record import Draft
from ledger_core.runtime.target import load
from projections.replayed import Replayed, digest, listed
from replay import many
from replay.certificates import certify, check

AGENT = """
from agentledger import agent, tool

@tool
def look(number: int) -> int:
    return number

@agent(tools=[look])
def looks(ctx, state):
    for number in range(state["calls"]):
        ctx.call_tool("look", number=number)
    return state["calls"]
"""


@pytest.fixture
def root(tmp_path):
    """A ledger with three runs of agent.py."""
    (tmp_path / "agent.py").write_text(AGENT, encoding="utf-8")
    run(tmp_path / "ledger", "a", "b", "c")
    return tmp_path / "ledger"


def run(root, *names, calls=2):
    with Runtime.local(root) as runtime:
        spec = load(f"{root.parent / 'agent.py'}:looks")
        for name in names:
            assert runtime.run(spec, run_id=name, initial_state={"calls": calls}).ok


def certified(root, *names):
    outcomes = list(many.replay_many(root, names or ("a", "b", "c"), jobs=2))
    with Log.open(root) as log:
        return certify(log, outcomes, mode="strict")


def held(root):
    with Log.open(root, readonly=True) as log:
        return check(log)


def test_a_certificate_says_what_was_replayed(root):
    """It counts the runs by what came of them, and names the log's head, the code, and each run's last event."""
    with Log.open(root, readonly=True) as log:
        head = log.head()
        ends = {name: log.stream_head(f"run/{name}").hash for name in "abc"}
    event = certified(root)
    said = event.body
    assert (event.type, event.stream, event.seq) == ("replay_certified", STREAM, head.seq + 1)
    assert (said.mode, said.runs, said.same, said.diverged, said.skipped, said.failed) == ("strict", 3, 3, 0, 0, 0)
    assert (said.seq, said.head) == (head.seq, head.hash)
    assert said.replayed == [[name, ends[name], "same", []] for name in "abc"]
    found = held(root)
    assert (found.findings, found.newer, found.left_out, found.events) == ((), 0, 0, 0)
    assert found.words() == f"replay certified at seq {event.seq}: 3 runs, 0 diverged"


def test_the_code_is_one_digest_whatever_the_order(root):
    """Two certificates of the same runs have the same digests of code and outcomes; other code has another."""
    first, second = certified(root).body, certified(root, "c", "b", "a").body
    assert (first.code, first.outcomes) == (second.code, second.outcomes)
    file = root.parent / "agent.py"
    file.write_text(file.read_text() + "# changed\n")
    third = certified(root).body
    assert third.code != first.code
    assert third.outcomes == first.outcomes


def test_runs_that_came_since_are_newer_and_others_left_out(root):
    """Runs created since, and those that went on, are counted as newer; those that nobody replayed as left out."""
    (root.parent / "wait.py").write_text(
        "from agentledger import agent\n@agent\ndef waits(ctx):\n    return ctx.wait_signal('go')\n"
    )
    with Runtime.local(root) as runtime:
        runtime.run(load(f"{root.parent / 'wait.py'}:waits"), run_id="w")
    event = certified(root, "a", "b", "w")
    run(root, "d")
    with Runtime.local(root) as runtime:
        runtime.signal("w", "go")
    found = held(root)
    assert (found.findings, found.newer, found.left_out) == ((), 2, 1)
    assert found.events > 5
    words = "3 runs, 0 diverged; 2 runs are newer; 1 run not among them"
    assert found.words() == f"replay certified at seq {event.seq}: {words}"


def test_what_diverged_is_certified_as_that(root, capsys):
    """A divergence is in the certificate with its code, and is no finding of verify: the log is as it was."""
    file = root.parent / "agent.py"
    file.write_text(file.read_text().replace("return state", "return -1 + state"))
    certified(root)
    found = held(root)
    assert (found.said.diverged, found.findings) == (3, ())
    assert {tuple(one.codes) for one in found.runs.values()} == {("AL108",)}
    assert "3 runs, 3 diverged" in text_of(capsys, verify, root)


def test_the_newest_certificate_counts(root):
    """Of two certificates the later one is held against the log."""
    certified(root)
    second = certified(root, "a")
    assert held(root).seq == second.seq
    assert held(root).left_out == 2


def test_nothing_is_certified_of_no_run_and_of_others_runs(root):
    """No outcome, or one of a run that this ledger has not, is refused, and nothing is written."""
    outcomes = list(many.replay_many(root, ["a"]))
    with Log.open(root) as log:
        before = log.head()
        with pytest.raises(BadInput, match="No run was replayed"):
            certify(log, [], mode="strict")
        with pytest.raises(BadInput, match="no run 'x'"):
            certify(log, [attrs.evolve(outcomes[0], run_id="x")], mode="strict")
        assert log.head() == before


def test_verify_prints_it(root, capsys):
    """`verify` tells the newest certificate, in JSON with what it says, and null where there is none."""
    assert object_of(capsys, verify, root)["replay_certificate"] is None
    assert "certified" not in text_of(capsys, verify, root)
    event = certified(root)
    run(root, "d")
    found = object_of(capsys, verify, root)
    assert found["ok"]
    certificate = found["replay_certificate"]
    assert (certificate["seq"], certificate["runs"], certificate["newer"], certificate["ok"]) == (event.seq, 3, 1, True)
    assert f"replay certified at seq {event.seq}: 3 runs, 0 diverged; 1 run is newer" in text_of(capsys, verify, root)
    assert "replay_certificate" not in object_of(capsys, verify, root, "a")


def forged(root, change):
    """The newest certificate again, with something changed."""
    with Log.open(root) as log:
        said = [event.body for event in log.stream(STREAM) if isinstance(event.body, ReplayCertified)][-1]
        return log.append(Draft(stream=STREAM, body=change(said)))[0].seq


def other_list(said, rows):
    return attrs.evolve(said, replayed=rows, outcomes=digest(rows))


FORGERIES = [
    (lambda said: attrs.evolve(said, head=bytes(32)), "that is not the log's"),
    (lambda said: attrs.evolve(said, seq=said.seq + 1_000_000), "that is not the log's"),
    (lambda said: attrs.evolve(said, seq=0), "that is not the log's"),
    (lambda said: attrs.evolve(said, outcomes=bytes(32)), "not the one that its digest names"),
    (lambda said: attrs.evolve(said, replayed=said.replayed[:2]), "not the one that its digest names"),
    (lambda said: attrs.evolve(said, same=2, diverged=1), "same, diverged"),
    (lambda said: attrs.evolve(said, runs=4), "are not those of its list: runs"),
    (lambda said: other_list(said, said.replayed[::-1]), "another form"),
    (lambda said: other_list(said, "nothing"), "another form"),
    (lambda said: other_list(said, [["a"]]), "another form"),
    (lambda said: other_list(said, [["a", bytes(32), "same", []], *said.replayed[1:]]), "up to an event that is not"),
    (lambda said: other_list(said, [["zz", bytes(32), "same", []], *said.replayed[1:]][::-1]), "another form"),
    (lambda said: other_list(said, [["a", said.replayed[0][1], "well", []], *said.replayed[1:]]), "same, well"),
]


@pytest.mark.parametrize("change, why", FORGERIES)
def test_a_certificate_that_does_not_fit_is_a_finding(root, capsys, change, why):
    """A certificate whose head, list or numbers do not fit the log is found by `verify`, 3, and blocks a review."""
    certified(root)
    seq = forged(root, change)
    found = object_of(capsys, verify, root, code=3)
    (finding,) = {one["detail"]: one for one in found["findings"] if why in one["detail"]}.values()
    assert (finding["kind"], finding["seq"]) == ("replay_certificate", seq)
    assert not found["replay_certificate"]["ok"]
    assert why in text_of(capsys, verify, root, code=3)
    checks = object_of(capsys, review, root, "checklist", "--fail-on-risk", "--no-replay", code=1)["checks"]
    (one,) = [one for one in checks if one["id"] == "replay_certified"]
    assert one["outcome"] == "risk"
    assert any(why in piece.get("why", "") for piece in one["evidence"])


@pytest.mark.parametrize("keys", ["elsewhere", "cut short", "others"])
def test_a_list_that_cannot_be_opened_is_said_and_no_finding(root, capsys, keys):
    """Where the keys are elsewhere or damaged, the head is still held against the log, and what was not opened said."""
    certified(root)
    for page in (root / "keys").iterdir():
        data = page.read_bytes()
        page.write_bytes(data[:1000] if keys == "cut short" else data[:32] + b"k" * (len(data) - 32))
        if keys == "elsewhere":
            page.unlink()
    found = held(root)
    assert (found.runs, found.findings) == (None, ())
    assert "its list cannot be opened here" in text_of(capsys, verify, root)
    assert not object_of(capsys, verify, root)["replay_certificate"]["opened"]


def test_a_damaged_log_is_not_read_for_certificates(root, capsys):
    """Where verification finds damage, that is what is told: no certificate is held against a damaged log."""
    certified(root)
    data = root / "agentledger.lmdb" / "data.mdb"
    raw = data.read_bytes()
    data.write_bytes(raw.replace(b"worker_", b"Worker_"))
    found = object_of(capsys, verify, root, code=3)
    assert found["replay_certificate"] is None
    assert {one["kind"] for one in found["findings"]} != {"replay_certificate"}


def reviewed(capsys, root, *words):
    checks = object_of(capsys, review, root, "checklist", *words)["checks"]
    return next(one for one in checks if one["id"] == "replay_certified")


def test_a_review_relies_on_it_where_nothing_is_replayed(root, capsys):
    """Without replaying, the certificate passes for the runs that it covers, and is not checked for all others."""
    assert reviewed(capsys, root, "--no-replay")["outcome"] == "not_checked"
    assert reviewed(capsys, root)["outcome"] == "pass"
    certified(root)
    assert reviewed(capsys, root, "--no-replay")["outcome"] == "pass"
    assert "covers to their last event: 3" in reviewed(capsys, root, "--no-replay")["detail"]
    run(root, "d")
    assert reviewed(capsys, root, "--no-replay")["outcome"] == "not_checked"
    assert reviewed(capsys, root, "a", "--no-replay")["outcome"] == "pass"
    assert reviewed(capsys, root)["outcome"] == "pass"
    assert command(review, root, "checklist", "a", "--no-replay", "--fail-on-risk") == 6  # nobody replayed it today


def test_a_review_is_blocked_by_a_divergence_that_is_certified(root, capsys):
    """A run that diverged by the newest certificate is a risk, with its code; certifying anew takes it away."""
    file = root.parent / "agent.py"
    good = file.read_text()
    file.write_text(good.replace("return state", "return -1 + state"))
    event = certified(root, "a")
    one = reviewed(capsys, root, "--no-replay")
    assert (one["outcome"], one["evidence"]) == (
        "risk",
        [{"run_id": "a", "log_seq": event.seq, "why": "diverged: AL108"}],
    )
    file.write_text(good)
    certified(root)
    assert reviewed(capsys, root, "--no-replay")["outcome"] == "pass"


def test_the_list_has_one_form():
    """What is listed is sorted by run, and the codes of each by name."""
    runs = {"b": Replayed(hash=b"2", status="same"), "a": Replayed(hash=b"1", status="diverged", codes=("AL2", "AL1"))}
    assert listed(runs) == [["a", b"1", "diverged", ["AL1", "AL2"]], ["b", b"2", "same", []]]
    assert digest(listed(runs)) == digest(listed(dict(reversed(runs.items()))))
