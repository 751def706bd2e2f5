"""Replay, cut and shadow: what a candidate would do, what is made again when it is asked for, and nothing outside.

The world here is real: a server on loopback that counts its requests, and a file that a tool writes. Whatever must not
be touched is looked at in a process without a network.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from click.testing import CliRunner

from agentledger import Secret, agent, tool
from cli.main import cli
from cli.output import Settings
from ledger_core.errors import BadInput, NotFound, Refused
from ledger_core.runtime.agent import agent_of
from ledger_core.runtime.runtime import Runtime
from ledger_core.runtime.target import load
from replay import replaying, shadow

AGENT = '''
import urllib.request
from pathlib import Path
from agentledger import agent, tool

HERE = Path(__file__).parent


def ask(path):
    with urllib.request.urlopen((HERE / "address").read_text() + path, timeout=5) as answer:
        return answer.read().decode()


@tool(side_effect="external_read")
def look(name: str) -> str:
    """Look something up."""
    return ask("look/" + name)


@tool(side_effect="external_write")
def file(text: str) -> str:
    """File something."""
    with open(HERE / "filed", "a") as filed:
        filed.write(text + "\\n")
    return ask("file/" + str(len(text)))


@agent(name="clerk", tools=[look, file], models=lambda request: {"content": ask("model")})
def clerk(ctx, state):
    found = ctx.call_tool("look", name="case")
    reply = ctx.call_model({"model": "m", "messages": [{"role": "user", "content": f"What of {found}?"}]})
    number = ctx.call_tool("file", text=reply["content"])
    ctx.write_state_patch("number", number)
    return [found, number]
'''
CANDIDATES = {
    "the same": [],
    "another prompt": [("What of", "And what of")],
    "another write": [('text=reply["content"]', 'text=reply["content"] + "!"')],
    "one write more": [("    ctx.write_state", '    ctx.call_tool("file", text="again")\n    ctx.write_state')],
    "no write": [('ctx.call_tool("file", text=reply["content"])', "0")],
}


class World:
    """A service on loopback, with what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        world = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                world.asked.append(self.path)
                body = f"answer {len(world.asked)}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"


@pytest.fixture
def world(tmp_path) -> Iterator[World]:
    made = World()
    (tmp_path / "address").write_text(made.address)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def recorded(world, tmp_path) -> Iterator[Runtime]:
    """A ledger with the run `r` of the clerk's, and files with candidates beside it."""
    for name, changes in CANDIDATES.items():
        text = AGENT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / f"{name.replace(' ', '_')}.py").write_text(text)
    with Runtime.local(tmp_path / "ledger") as runtime:
        assert runtime.run(load(str(tmp_path / "the_same.py")), run_id="r").ok
        yield runtime


def _candidate(tmp_path: Path, name: str) -> Any:
    return load(str(tmp_path / f"{name.replace(' ', '_')}.py"))


WITHOUT_NETWORK = """
    import json, socket, sys
    from pathlib import Path
    from agentledger import Runtime
    from ledger_core.log.log import Log
    from ledger_core.runtime.target import load
    from replay import replaying, shadow

    root, *files = sys.argv[1:]
    try:
        address = Path(files[0]).with_name("address").read_text()
        socket.create_connection(("127.0.0.1", int(address.rsplit(":")[-1][:-1])))
        raise SystemExit("there is a network")
    except OSError:
        pass
    with Log.open(root, readonly=True) as log, Runtime(log) as runtime:
        said = {}
        for file in files:
            found = replaying.replay(runtime, "r", load(file), mode="collect", keep=True)
            shown = shadow.shadow(runtime, "r", load(file))
            codes = [one.kind.code for one in found.divergences]
            said[Path(file).stem] = [codes, shown.compared.same, len(shown.blocked), len(shown.not_made)]
    print(json.dumps(said))
"""


@pytest.mark.invariant(8)
def test_without_a_network_replay_and_shadow_say_the_same(world, recorded, tmp_path, python):
    """In a process that has no network, replays and shadows of all candidates end, and tell what each does otherwise.

    The service counted nothing, the tool's file is as it was, and the log's head too.
    """
    needs.bubblewrap()
    asked, filed, head = list(world.asked), (tmp_path / "filed").read_bytes(), recorded.log.head()
    files = [tmp_path / f"{name.replace(' ', '_')}.py" for name in CANDIDATES]
    alone = ("bwrap", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-net")
    said = json.loads(python.run(WITHOUT_NETWORK, tmp_path / "ledger", *files, before=alone))
    assert said == {
        "the_same": [[], True, 0, 0],
        "another_prompt": [["AL105"], False, 0, 0],
        "another_write": [["AL105"], False, 1, 1],
        "one_write_more": [["AL102"], False, 1, 0],
        "no_write": [["AL101", "AL107", "AL108"], False, 0, 1],
    }
    assert (world.asked, (tmp_path / "filed").read_bytes(), recorded.log.head()) == (asked, filed, head)


def test_a_shadow_says_what_is_a_guess(recorded, tmp_path):
    """An answer that is not on record is assumed, and named; what is on record is answered from it."""
    found = shadow.shadow(recorded, "r", _candidate(tmp_path, "another prompt"))
    assert ([one.path for one in found.assumed], found.answered) == (["2"], 3)
    value = found.as_json()
    assert (value["first_assumed"], value["writes"], value["same"]) == ("2", {"blocked": [], "not_made": []}, False)
    assert [one["code"] for one in value["divergences"]] == ["AL105"]
    assert shadow.shadow(recorded, "r", _candidate(tmp_path, "the same")).as_json()["assumed"] == 0


def test_a_live_shadow_asks_for_what_is_not_on_record_and_writes_nothing(world, recorded, tmp_path):
    """With `live`, the model is asked anew for the new prompt; the write that follows from it is blocked."""
    asked, filed = len(world.asked), (tmp_path / "filed").read_bytes()
    found = shadow.shadow(recorded, "r", _candidate(tmp_path, "another prompt"), live=True)
    assert world.asked[asked:] == ["/model"]
    assert [(one.path, one.request["arguments"]) for one in found.blocked] == [("3", {"text": f"answer {asked + 1}"})]
    assert (tmp_path / "filed").read_bytes() == filed


def test_a_cut_makes_one_effect_and_tells_what_follows(world, recorded, tmp_path):
    """The effect at the point is made again, once; all others are answered; what follows from it is told."""
    asked, head = len(world.asked), recorded.log.head()
    found = replaying.cut(recorded, "r", _candidate(tmp_path, "the same"), "1", keep=True)
    assert world.asked[asked:] == ["/look/case"]
    assert found.live is not None
    assert (found.mode, found.live.value) == ("cut", f"answer {asked + 1}")
    assert [(one.kind.code, one.path) for one in found.divergences] == [
        ("AL108", "1"),
        ("AL105", "2"),
        ("AL108", "end"),
    ]
    assert found.course is not None
    assert recorded.log.head() == head
    again = replaying.cut(recorded, "r", _candidate(tmp_path, "another prompt"), "2")
    assert [one.kind.code for one in again.divergences[:1]] == ["AL105"]
    assert world.asked[-1] == "/model"


def test_a_call_with_a_secret_cannot_be_made_again():
    """What is on record of a secret is its name: nobody is asked with that."""
    given: list[str] = []

    @tool
    def look(key: str) -> int:
        given.append(key)
        return 1

    @agent(name="looks", tools=[look])
    def looks(ctx):
        return ctx.call_tool("look", key=Secret("shadowed", "a value that is hidden"))

    with Runtime.in_memory() as runtime:
        runtime.run(looks, run_id="r")
        with pytest.raises(BadInput, match="cannot be made again"):
            replaying.cut(runtime, "r", agent_of(looks), "1")
    assert given == ["a value that is hidden"]


def test_a_cut_keeps_a_streams_shape_and_its_place_in_the_order():
    """A stream is made again as a stream; an answer that is the same comes where the recorded one came."""

    @tool
    async def read(number: int, wait: float) -> int:
        await asyncio.sleep(wait)
        return number

    @agent(name="streams", models=lambda request: iter([{"delta": letter} for letter in "abc"]))
    def streams(ctx):
        return [chunk["delta"] for chunk in ctx.stream_model({"model": "m", "messages": []})]

    @agent(name="beside", tools=[read])
    async def beside(ctx):
        found = []

        async def one(number: int, wait: float) -> None:
            found.append(await ctx.call_tool("read", number=number, wait=wait))

        await asyncio.gather(one(1, 0.0), one(2, 0.03))
        return found

    with Runtime.in_memory() as runtime:
        for spec, point in ((streams, "1"), (beside, "one.2/1")):
            runtime.run(spec, run_id=spec.__name__)
            made = replaying.cut(runtime, spec.__name__, agent_of(spec), point)
            assert made.ok, [one.sentence() for one in made.divergences]


@pytest.mark.parametrize("point", ["3", "4", "9", "", "end"])
def test_what_cannot_be_made_again_is_refused(world, recorded, tmp_path, point):
    """An outside write, a patch, and what is not there are no points to cut at; nothing is asked of anybody."""
    asked = list(world.asked)
    with pytest.raises(BadInput):
        replaying.cut(recorded, "r", _candidate(tmp_path, "the same"), point)
    assert world.asked == asked


def test_a_policy_holds_for_what_is_made_again(world, recorded, tmp_path):
    """What the policy forbids is not made again: the code is told of the refusal."""
    asked = list(world.asked)
    strict = Runtime(
        recorded.log, policy={"version": 1, "rules": [{"name": "no looking", "verdict": "deny", "tools": ["look"]}]}
    )
    found = replaying.cut(strict, "r", _candidate(tmp_path, "the same"), "1")
    assert found.live is not None
    assert (found.live.error_type, world.asked) == ("PermissionDenied", asked)


def test_attached_forgotten_and_unknown_runs(recorded, tmp_path):
    """Runs that no code can take the place of are refused in a sentence."""
    with recorded.attach("outside") as ctx:
        ctx.capture("one", lambda: 1)
    recorded.run(_candidate(tmp_path, "the same"), run_id="gone")
    recorded.log.forget("run/gone")
    for run_id, error in (("outside", Refused), ("gone", Refused), ("none", NotFound)):
        with pytest.raises(error):
            shadow.shadow(recorded, run_id, _candidate(tmp_path, "the same"))


def test_the_commands_say_it(recorded, tmp_path, monkeypatch):
    """`shadow`, `replay --cut`, `--mode collect` and `--save` print what they found, and exit with what it means."""
    monkeypatch.chdir(tmp_path)

    def al(*words: str) -> Any:
        return CliRunner().invoke(cli, words, obj=Settings(root=tmp_path / "ledger"), standalone_mode=False)

    shown = al("shadow", "r", "--agent", "another_write.py")
    assert "would write, blocked: file" in shown.stdout
    assert "would not write: file" in shown.stdout
    assert shown.return_value == 0
    assert al("shadow", "r", "--agent", "another_write.py", "--fail-on-divergence").return_value == 4
    assert json.loads(al("shadow", "r", "--agent", "the_same.py", "--json").stdout)["same"] is True
    assert "made again" in al("replay", "r", "--agent", "the_same.py", "--cut", "1").stdout
    saved = al("replay", "r", "--agent", "no_write.py", "--mode", "collect", "--save", "kept.json", "--json")
    assert (saved.return_value, json.loads(saved.stdout)["saved"]) == (4, "kept.json")
    assert (tmp_path / "kept.json").stat().st_mode & 0o077 == 0
    compared = json.loads(al("diff", "r", "kept.json", "--json").stdout)
    assert [one["code"] for one in compared["divergences"]] == ["AL101", "AL107", "AL108"]
    assert al("divergence", "r", "kept.json", "--fail-on-divergence").return_value == 4
    same = al("replay", "r", "--agent", "the_same.py", "--save", "same.json")
    assert same.return_value == 0
    assert al("divergence", "r", "same.json", "--fail-on-divergence").return_value == 0
    assert isinstance(al("replay", "--all", "--cut", "1").exception, BadInput)


def test_a_candidate_that_never_ends_is_stopped_and_said_so(recorded, tmp_path):
    """Code that asks for ever is stopped at a limit, and the shadow says that it was."""
    (tmp_path / "endless.py").write_text(
        "from agentledger import agent\n@agent(name='clerk')\ndef clerk(ctx):\n    while True:\n        ctx.now()\n"
    )
    found = shadow.shadow(recorded, "r", load(str(tmp_path / "endless.py")))
    assert found.as_json()["stopped"] is True
    assert shadow.shadow(recorded, "r", _candidate(tmp_path, "the same")).stopped is False
