"""`lint boundary`: what goes round the boundary is found in the text of a file, and what does not is left alone."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.boundary import lint, look
from cli.boundary_rules import KINDS, parse_rules
from ledger_core.errors import BadInput

ROOT = Path(__file__).parent.parent


def codes(source, rules=None, *, everywhere=False):
    """The codes that are found, in the order of lines."""
    return [one.code for one in lint(textwrap.dedent(source), "f.py", rules, everywhere=everywhere)]


def inside(*lines, before=""):
    """The codes that are found in an agent of these lines."""
    body = "\n".join(f"    {line}" for line in lines)
    return codes(f"{before}\nfrom agentledger import agent\n@agent\nasync def a(ctx, state):\n{body}\n")


_FOUND = [
    # clock
    ("import time", "time.time()", "AB1"),
    ("import time as t", "x = t.monotonic_ns()", "AB1"),
    ("from time import perf_counter as p", "p()", "AB1"),
    ("import time\nnow = time.time", "now()", "AB1"),
    ("import time\nnow = clock = time.time\nlater = now", "later()", "AB1"),
    ("import time", "getattr(time, 'time')()", "AB1"),
    ("import importlib", "importlib.import_module('time').time()", "AB1"),
    ("", "__import__('time').time()", "AB1"),
    ("import functools, time", "functools.partial(time.sleep, 5)()", "AB1 AB1"),
    ("from time import *", "sleep(5)", "AB1"),
    ("import datetime", "datetime.datetime.now(datetime.UTC)", "AB1"),
    ("from datetime import datetime as dt", "dt.utcnow()", "AB1"),
    ("from datetime import date", "date.today()", "AB1"),
    ("import time", "time.strftime('%Y')", "AB1"),
    ("import time", "time.gmtime()", "AB1"),
    ("import asyncio", "await asyncio.sleep(1)", "AB1"),
    ("import asyncio", "await asyncio.wait(tasks, timeout=1)", "AB1"),
    ("import asyncio", "asyncio.get_running_loop().time()", "AB1"),
    ("import time", "f = lambda: time.time()", "AB1"),
    ("import time", "x = [time.time() for _ in range(3)]", "AB1"),
    ("import time", "max(state, key=time.time)", "AB1"),
    ("import time", "print(f'{time.time()}')", "AB1"),
    ("import time", "(now := time.time)()", "AB1"),
    ("import time", "(time.time if state else time.monotonic)()", "AB1"),
    ("import time, math", "for f in (1,): now, g = time.time, math.sin; now()", "AB1"),
    # chance
    ("import random", "random.choice([1])", "AB2"),
    ("import random", "r = random.Random(); r.random()", "AB2 AB2"),
    ("import random", "random.Random(None)", "AB2"),
    ("import random", "random.SystemRandom().random()", "AB2 AB2"),
    ("import uuid", "uuid.uuid4()", "AB2"),
    ("import uuid", "dict(default_factory=uuid.uuid1)", "AB2"),
    ("import secrets", "secrets.token_hex()", "AB2"),
    ("import os", "os.urandom(8)", "AB2"),
    ("import numpy as np", "np.random.rand(3)", "AB2"),
    ("from numpy.random import default_rng", "default_rng().normal()", "AB2 AB2"),
    # network
    ("import requests", "requests.get('u')", "AB3"),
    ("import requests", "s = requests.Session(); s.get('u')", "AB3 AB3"),
    ("import httpx\nclient = httpx.Client()", "client.get('u')", "AB3"),
    ("import httpx", "async with httpx.AsyncClient() as c: await c.get('u')", "AB3 AB3"),
    ("import aiohttp", "aiohttp.ClientSession()", "AB3"),
    ("from urllib import request", "request.urlopen('u')", "AB3"),
    ("import urllib.request", "urllib.request.urlopen('u')", "AB3"),
    ("import socket", "socket.create_connection(('h', 1)).send(b'')", "AB3 AB3"),
    ("from openai import OpenAI\nllm = OpenAI()", "llm.chat.completions.create(model='m')", "AB3"),
    ("import anthropic", "anthropic.Anthropic()", "AB3"),
    ("import boto3\ns3 = boto3.client('s3')", "s3.put_object()", "AB3"),
    ("import grpc", "grpc.insecure_channel('h')", "AB3"),
    ("import asyncio", "await asyncio.open_connection('h', 1)", "AB3"),
    ("import asyncio, requests", "await asyncio.to_thread(requests.get, 'u')", "AB3"),
    ("import httpx", "ctx.capture('page', lambda: httpx.get('u').text)", "AB3"),
    # processes
    ("import subprocess as sp", "sp.run(['x'])", "AB4"),
    ("from subprocess import Popen", "with Popen(['x']) as p: pass", "AB4"),
    ("import os", "os.system('x')", "AB4"),
    ("import os", "os.execvp('x', [])", "AB4"),
    ("import os", "os.fork()", "AB4"),
    ("import asyncio", "await asyncio.create_subprocess_exec('x')", "AB4"),
    ("import multiprocessing", "multiprocessing.Process(target=print)", "AB4"),
    ("import pty", "pty.spawn('sh')", "AB4"),
    # files
    ("", "open('f', 'w')", "AB5"),
    ("", "open('f', mode='ab+')", "AB5"),
    ("", "open('f', state['mode'])", "AB5"),
    ("", "open(*state)", "AB5"),
    ("", "open('f', **state)", "AB5"),
    ("import gzip", "gzip.open('f', 'wt')", "AB5"),
    ("import zipfile", "zipfile.ZipFile('f', 'w')", "AB5"),
    ("import os", "os.open('f', os.O_RDWR)", "AB5"),
    ("from pathlib import Path", "Path('f').write_text('x')", "AB5"),
    ("from pathlib import Path", "(Path.home() / 'f').with_suffix('.x').touch()", "AB5"),
    ("import pathlib", "p = pathlib.Path('f'); q = p / 'x'; q.rename('y')", "AB5"),
    ("from pathlib import Path", "Path('f').open('w')", "AB5"),
    ("", "state.path.write_text('x')", "AB5"),
    ("", "state.path.open('a')", "AB5"),
    ("import os", "os.makedirs('d', exist_ok=True)", "AB5"),
    ("import shutil", "shutil.rmtree('d')", "AB5"),
    ("import tempfile", "tempfile.mkdtemp()", "AB5"),
    ("import os", "list(map(os.remove, state))", "AB5"),
    # order
    ("", "for x in {1, 2}: pass", "AB6"),
    ("", "for x in set(state): pass", "AB6"),
    ("", "x = [y for y in frozenset(state)]", "AB6"),
    ("", "seen = set(); seen |= {1}; x = list(seen)", "AB6"),
    ("", "x = set(state) - {1}; ','.join(x)", "AB6"),
    ("", "x = {y for y in state}; first, second = x", "AB6"),
    ("", "x = set(state); x.pop()", "AB6"),
    ("", "print(*{1, 2})", "AB6"),
    ("", "x = {y: 1 for y in set(state)}", "AB6"),
    ("import os", "for name in os.listdir('.'): pass", "AB6"),
    ("from glob import glob", "x = glob('*')", "AB6"),
    ("from pathlib import Path", "x = [p.name for p in Path('.').iterdir()]", "AB6"),
    ("", "x = hash('a')", "AB6"),
    ("", "x = id(state)", "AB6"),
    ("import asyncio", "done, left = await asyncio.wait([]); x = [t.result() for t in done]", "AB6"),
    # threads
    ("import threading", "threading.Thread(target=print).start()", "AB7 AB7"),
    ("from concurrent.futures import ThreadPoolExecutor", "with ThreadPoolExecutor() as p: pass", "AB7"),
    ("import asyncio", "await asyncio.get_event_loop().run_in_executor(None, print)", "AB7"),
    ("", "await state.loop.run_in_executor(None, print)", "AB7"),
    # the environment
    ("import os", "x = os.environ['X']", "AB8"),
    ("from os import environ as e", "x = e.get('X')", "AB8"),
    ("import os", "x = os.getenv('X')", "AB8"),
    ("import os", "x = dict(os.environ)", "AB8"),
    ("import os", "if 'X' in os.environ: pass", "AB8"),
]


@pytest.mark.parametrize(("before", "line", "expected"), _FOUND, ids=[one[1][:50] for one in _FOUND])
def test_what_is_found(before, line, expected):
    """Each way round the boundary has its code, through aliases, assignments, arguments and annotations."""
    assert inside(line, before=before) == expected.split()


_FINE = [
    ("", "await ctx.sleep(5); x = ctx.now(); y = ctx.random(); z = ctx.uuid()"),
    ("", "x = await ctx.call_tool('time.time')"),
    ("import time", "x = time.strftime('%Y', time.gmtime(5)); y = time.localtime(5)"),
    ("import time", "x = time; y = time.struct_time"),
    ("import time", "def f(time): return time.time()"),
    ("import datetime", "x = datetime.datetime(2024, 1, 1) + datetime.timedelta(days=1)"),
    ("from datetime import datetime", "x = datetime.fromtimestamp(5)"),
    (
        "import asyncio",
        "await asyncio.sleep(0); await asyncio.wait(tasks); await asyncio.gather(); await asyncio.to_thread(len, 'x')",
    ),
    ("import random", "r = random.Random(ctx.uuid()); r.shuffle(state)"),
    ("import random", "def f(r: random.Random): return r.random()"),
    ("import numpy as np", "r = np.random.default_rng(5); r.normal()"),
    ("import uuid", "x = uuid.uuid5(uuid.NAMESPACE_URL, 'x'); y = uuid.UUID(ctx.uuid())"),
    ("import secrets", "x = secrets.compare_digest('a', 'b')"),
    ("import requests", "try: pass\n    except requests.RequestException: raise requests.HTTPError('x')"),
    ("import requests", "x: requests.Response = state; y = isinstance(x, requests.Response)"),
    ("import urllib.parse", "x = urllib.parse.quote('x')"),
    ("import http", "x = http.HTTPStatus.OK"),
    ("import socket", "x = socket.AF_INET; y = socket.inet_aton('1.2.3.4')"),
    ("import subprocess", "x = subprocess.PIPE; y = isinstance(state, subprocess.CalledProcessError)"),
    ("", "x = open('f').read(); y = open('f', 'rb'); z = open('f', mode='r', encoding='utf-8')"),
    ("from pathlib import Path", "x = Path('f').read_text(); y = Path('f').open(); z = Path('f').exists()"),
    ("import os", "x = os.path.join('a', 'b'); y = os.open('f', os.O_RDONLY)"),
    ("import shutil", "x = shutil.which('x')"),
    ("", "x = 'a'.replace('a', 'b'); state.rename('x'); y = state.replace('a', 'b')"),
    ("", "for x in sorted({1, 2}): pass"),
    ("", "x = {1, 2}; y = len(x); z = sum(x) + max(x); w = 3 in x; v = x | {3}"),
    ("", "x = sorted(y for y in set(state)); z = {y for y in set(state)}; w = any(y for y in {1})"),
    ("", "x = sorted(list(set(state)))"),
    ("import os", "x = sorted(os.listdir('.')); y = sorted(n for n in os.listdir('.')); z = len(os.listdir('.'))"),
    ("from pathlib import Path", "x = sorted(p.name for p in Path('.').glob('*'))"),
    ("", "x = {'a': 1}; y = list(x); z = [k for k in x]; w = ','.join(x)"),
    ("", "x = hash(5)"),
    ("import asyncio", "done, left = await asyncio.wait([])\n    for task in left: task.cancel()"),
    ("import asyncio", "done, left = await asyncio.wait([]); await asyncio.gather(*left, return_exceptions=True)"),
    ("import asyncio", "done, left = await asyncio.wait([]); x = sorted(t.result() for t in done)"),
    ("import os, time", "x = ctx.capture('x', os.getenv, 'X'); y = ctx.capture('t', lambda: time.time())"),
    ("import threading", "lock = threading.Lock()"),
    ("import os", "x = os.cpu_count; y = os.sep"),
    ("def print(*a): pass\ndef open(*a): pass", "open('f', 'w')"),
    ("from .time import time", "time()"),
]


@pytest.mark.parametrize(("before", "line"), _FINE, ids=[one[1][:50] for one in _FINE])
def test_what_is_left_alone(before, line):
    """What is the same in every execution, reads, and goes through the context is no finding."""
    assert inside(*line.split("\n    "), before=before) == []


def test_every_code_is_found_somewhere():
    """The table of codes and the examples here name the same codes."""
    found = {code for _, _, each in _FOUND for code in each.split()}

    assert found | {"AB9"} == {kind.code for kind in KINDS}
    assert all(kind.message and kind.instead and kind.title for kind in KINDS)


# what is looked at

_CALL = (
    "import time\nfrom agentledger import agent, tool, ToolSpec, AgentContext, SyncContext\nimport agentledger as al\n"
)


@pytest.mark.parametrize(
    "source",
    [
        "@agent\ndef a(c): time.time()",
        "@agent(role='x')\nasync def a(c): time.time()",
        "@al.agent\ndef a(c): time.time()",
        "from agentledger import agent as x\n@x\ndef a(c): time.time()",
        "make = agent(name='x')\ndef a(c): time.time()\nb = agent(a)",
        "def a(c): time.time()\nb = agent(name='b')(a)",
        "def a(ctx): time.time()",
        "def a(c: AgentContext): time.time()",
        "def a(*, c: 'al.SyncContext | None' = None): time.time()",
        "class A:\n    async def run(self, ctx): time.time()",
        "def outer():\n    @agent\n    def a(c): time.time()",
        "if True:\n    @agent\n    def a(c): time.time()",
    ],
)
def test_what_an_agent_is(source):
    """A function is an agent's by its decorator however it is called, by being given to it, or by its context."""
    assert codes(_CALL + source) == ["AB1"]


@pytest.mark.parametrize(
    "source",
    [
        "def a(x): time.time()",
        "time.time()",
        "@tool\ndef a(ctx): time.time()",
        "@al.tool(name='x')\ndef a(ctx): time.time()",
        "@runtime.tool\ndef a(ctx): time.time()",
        "def a(ctx): time.time()\nb = ToolSpec(name='b', function=a)",
        "def a(ctx): time.time()\nb = tool(a)",
        "def a(ctx): time.time()\n@agent(tools=[a])\ndef b(ctx): pass",
        "def a(ctx): time.time()\nTOOLS = [a]\n@agent(tools=[*TOOLS])\ndef b(ctx): pass",
        "def a(ctx): time.time()\nTOOLS = (a,)\n@agent(tools=TOOLS)\ndef b(ctx): pass",
        "def a(ctx): time.time()\n@tool(verify=a)\ndef b(): pass",
        "def a(ctx): time.time()\n@agent(models={'m': a})\ndef b(ctx): pass",
        "import click\n@click.command()\n@click.pass_context\ndef a(ctx): time.time()",
        "def a(ctx: int): time.time()",
    ],
)
def test_what_is_no_agent(source):
    """Other functions, tools and their hooks, providers of models, and other people's contexts are not looked at."""
    assert codes(_CALL + source) == []


def test_what_agents_lead_to_is_looked_at():
    """Helpers, methods, properties, bases, constructors and functions that are passed on; in whatever order."""
    source = """
        import time, httpx, asyncio
        from agentledger import agent
        @agent
        async def a(ctx):
            one(); asyncio.create_task(two()); list(map(three, [])); shop = Shop(); shop.buy(); Shop.sell(); shop.price
            with Door() as door: door.open_it()
            four = five
            four()
        def one(): time.time(); deep()
        def deep(): time.time(); one()
        async def two(): time.time()
        def three(x): return time.time()
        def five(): time.time()
        def never(): time.time()
        class Base:
            def below(self): time.time()
        class Shop(Base):
            def __init__(self): self.client = httpx.Client()
            def buy(self): self.client.get("u"); self.below()
            @classmethod
            def sell(cls): time.time()
            @property
            def price(self): return time.time()
            def unused(self): time.time()
        class Door:
            def __enter__(self): time.time(); return self
            def __exit__(self, *_): pass
            def open_it(self): time.time()
    """
    found = lint(textwrap.dedent(source), "f.py")

    assert sorted(one.function for one in found) == sorted([
        "one", "deep", "two", "three", "five", "Base.below", "Shop.__init__", "Shop.buy", "Shop.sell", "Shop.price",
        "Door.__enter__", "Door.open_it",
    ])  # fmt: skip


def test_a_tool_called_as_a_function_is_found():
    """The tools of the file are reached through the context: called by their names they are AB9."""
    source = _CALL + "@tool\ndef t(): time.time()\n@agent(tools=[t])\ndef a(ctx):\n    ctx.call_tool('t')\n    t()\n"
    (found,) = lint(source, "f.py")

    assert (found.code, found.call, found.line, found.column) == ("AB9", "t", 9, 5)


def test_what_a_capture_records_is_fine():
    """A function that is only given to `ctx.capture` may look at the clock; what it sends out is still a finding."""
    source = """
        import time, requests
        from agentledger import agent
        def stamp(): return time.time()
        def page(): return requests.get("u")
        @agent
        def a(ctx): return ctx.capture("s", stamp), ctx.capture("p", page)
    """
    assert codes(source) == ["AB3"]
    assert codes(source + "\n        @agent\n        def b(ctx): return stamp()\n") == ["AB1", "AB3"]


def test_threads_with_a_scope_are_fine():
    """A sync agent whose threads enter `ctx.scope` has places that can be repeated; an async one cannot have them."""
    body = (
        "def a(ctx):\n    def work():\n        with ctx.scope('w'): pass\n    threading.Thread(target=work).start()\n"
    )

    assert codes("import threading\n" + body) == []
    assert codes("import threading\nasync " + body) == ["AB7", "AB7"]


def test_everywhere():
    """`--all` looks at the whole file, module level and classes included, but never at tools."""
    source = _CALL + (
        "START = time.time()\n"
        "def f(x=time.time()): time.time()\n"
        "class C:\n    at = time.time()\n    def m(self): time.time()\n"
        "@tool\ndef t(): time.time()\n"
        "@agent(models=lambda request: time.time())\ndef a(ctx): pass\n"
    )
    assert codes(source) == []
    assert [one.line for one in lint(source, "f.py", everywhere=True)] == [4, 5, 5, 7, 8]


def test_a_finding_says_where_and_what_instead():
    """A finding has its place, from line and column 1, its function, and a way that is better."""
    looked = look("def a(ctx):\n    import time\n\n    x = (1,\n      time.time())\n", "dir/f.py")
    (found,) = looked.findings

    assert (found.file, found.line, found.column, found.call, found.function) == ("dir/f.py", 5, 7, "time.time", "a")
    assert "ctx.now()" in found.instead and looked.agents == [".a"] and looked.others == []


# comments


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# boundary: allow AB1 because the tour shows the time", []),
        ("#boundary:allow AB1 because x", []),
        ("# boundary: allow AB1, AB3 because x", ["AB0"]),
        ("# boundary: allow AB1", ["AB0", "AB1"]),
        ("# boundary: allow AB1 because", ["AB0", "AB1"]),
        ("# boundary: allow because I may", ["AB0", "AB1"]),
        ("# boundary: allow AB77 because x", ["AB0", "AB1"]),
        ("# boundary: allow AB0 because x", ["AB0", "AB1"]),
        ("# boundary: allow AB3 because x", ["AB0", "AB1"]),
        ("# boundary: ignore", ["AB0", "AB1"]),
        ("# boundary:", ["AB0", "AB1"]),
        ("# the boundary: allow AB1 because x", ["AB1"]),
        ("'# boundary: allow AB1 because x'", ["AB1"]),
    ],
)
def test_comments_that_allow(comment, expected):
    """A comment allows a code on its line, with a reason; anything else that looks like one is a finding."""
    line = "time.time(), " + comment if comment[0] == "'" else "time.time()  " + comment

    assert sorted(inside(line, before="import time")) == expected


def test_a_comment_that_allows_nothing_is_a_finding():
    """On a line without the finding, in a tool, or above its line a comment is unused; elsewhere `--all` decides."""
    before = "import time\nfrom agentledger import tool\n"
    unused = "# boundary: allow AB1 because x"
    assert codes(f"{before}def a(ctx):\n    {unused}\n    time.time()\n") == ["AB0", "AB1"]
    assert codes(f"{before}@tool\ndef t():\n    time.time()  {unused}\n") == ["AB0"]
    assert codes(f"{before}def f():\n    return 1  {unused}\n") == ["AB0"]
    assert codes(f"{before}def f():\n    time.time()  {unused}\n") == []
    assert codes(f"{before}def f():\n    time.time()  {unused}\n", everywhere=True) == []


def test_a_comment_stands_on_the_first_or_last_line():
    """A call over several lines is allowed on the first or the last of them."""
    for call in (
        "time.sleep(  # boundary: allow AB1 because x\n        1\n    )",
        "time.sleep(\n        1\n    )  # boundary: allow AB1 because x",
    ):
        assert codes(f"import time\ndef a(ctx):\n    {call}\n") == []


# rules of one's own


def test_rules_of_ones_own():
    """A project adds codes and calls, and allows codes and calls."""
    rules = parse_rules(
        {
            "rules": [
                {"code": "ACME1", "calls": ["acme.sdk.*"], "message": "billing is outside", "instead": "a tool"},
                {"code": "AB3", "calls": "legacy.fetch"},
            ],
            "allow": ["AB8", "time.monotonic", "helper"],
        }
    )
    source = """
        import os, time, legacy, random
        from acme import sdk
        from agentledger import tool
        @tool
        def helper(): pass
        def a(ctx):
            client = sdk.Client()
            client.charge(5)
            legacy.fetch()
            os.environ["X"]
            time.monotonic()
            helper()
            random.random()  # boundary: allow AB2 because it is a game
    """
    assert codes(source, rules) == ["ACME1", "ACME1", "AB3"]
    assert lint(textwrap.dedent(source), "f.py", rules)[0].message == "billing is outside"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "a list of 0"),
        ({"rule": []}, "Did you mean rules"),
        ({"rules": {}}, "rules is"),
        ({"rules": [5]}, r"rules\[0\] is 5"),
        ({"rules": [{"calls": ["x"]}]}, "code is nothing"),
        ({"rules": [{"code": "AB0", "calls": ["x"]}]}, "AB0"),
        ({"rules": [{"code": "lower1", "calls": ["x"]}]}, "lower1"),
        ({"rules": [{"code": "X1", "calls": []}]}, "names no calls"),
        ({"rules": [{"code": "X1", "calls": [5]}]}, "calls is"),
        ({"rules": [{"code": "X1", "calls": ["x"]}]}, "message"),
        ({"rules": [{"code": "AB3", "calls": ["x"], "mesage": "y"}]}, "Did you mean message"),
        ({"allow": ["AB77"]}, "no code"),
        ({"allow": 5}, "allow is 5"),
    ],
)
def test_rules_that_are_refused(document, said):
    """A mistake in a file of rules is said with its place."""
    with pytest.raises(BadInput, match=said):
        parse_rules(document)


# text of every kind

_BAD = [
    "def",
    "print 'x'",
    "\x00",
    "def a(ctx):\n  x\n y",
    "é = '",
    "\ud800 = 1",
    "(" * 300,
    "0777",
    "'" + "\\N{x}'",
    "if x:\n",
]


@pytest.mark.parametrize("source", _BAD, ids=lambda text: repr(text)[:30])
def test_what_is_no_python_is_refused(source):
    """Text that Python would not read is refused in one sentence with its file."""
    with pytest.raises(BadInput, match=r"^f\.py"):
        lint(source, "f.py")


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "-" * 3_000 + "1",
        "x = " + "+".join(["1"] * 30_000),
        "a" + ".b" * 30_000,
        "a" + "()" * 30_000,
        "def a(ctx):\n" + "".join(" " * n + "if x:\n" for n in range(1, 99)) + " " * 99 + "y\n",
        "x = " + "lambda: " * 900 + "1",
    ],
    ids=["minus", "plus", "attributes", "calls", "indents", "lambdas"],
)
def test_deep_code_is_looked_at_or_refused(source):
    """Code of any depth is looked at, or refused in one sentence; nothing else comes of it."""
    try:
        assert lint(source + "\ndef a(ctx): pass\n", "f.py", everywhere=True) == []
    except BadInput as error:
        assert str(error).startswith("f.py") and "\n" not in str(error)


def test_names_that_are_defined_by_each_other_come_to_an_end():
    """Assignments that double, and names that are made of each other, are looked at in full and end."""
    double = "import time\na0 = time.time\n" + "".join(f"a{n} = a{n - 1} or a{n - 1}\n" for n in range(1, 60))
    assert codes(double + "def a(ctx): a59()\n") == ["AB1"]

    again = "import pathlib\ndef a(ctx):\n    x = pathlib.Path()\n" + "    x = x.parent.joinpath('a')\n" * 200
    assert codes(again + "    x.unlink()\n") == ["AB5"]

    names = [f"n{n}" for n in range(25)]
    around = "import time\nn0 = time.time\n" + "".join(f"{one} = {' or '.join(names)}\n" for one in names)
    assert codes(around + "def a(ctx): n7()\n") == ["AB1"]
    assert codes("class A(B): pass\nclass B(A): pass\ndef a(ctx): A().x(); B.y()\n") == []
    assert codes("def a(ctx): a(ctx); b()\ndef b(): a(1)\n") == []


_WORDS = """
time|time.time()|ctx|def f(ctx):|import time|\\n|    |(|)|for x in {1}:|lambda:|# boundary: allow AB1 because x|class C:
self.x = |async |await |with open('f', 'w') as f:|global x|x| = |match x:|case [*y]:|@agent|return|{**x}|*|import *|\\t
from . import y|:|nonlocal x|try:|except* E as x:|del x|x: 'y\\|'|[x := 1]|'''|yield from|else:|elif x:|"|f"{x!r:>{y}}"
"""
_PIECES = [one.replace("\\n", "\n").replace("\\t", "\t") for one in _WORDS.replace("\n", "|").split("|")]


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text_is_looked_at_or_refused(source):
    """Whatever a file holds, it yields findings, or `BadInput` in one sentence."""
    for everywhere in (False, True):
        try:
            for one in lint(source, "f.py", everywhere=everywhere):
                assert 1 <= one.line <= source.count("\n") + 1 + source.count("\r") and one.column >= 1
        except BadInput as error:
            assert str(error).startswith("f.py")


def _functions(node, above):
    """The dotted names of all functions below a node."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{above}.{one.name}"
        named = isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        yield from _functions(one, f"{above}.{one.name}" if named else above)


@pytest.mark.parametrize("package", ["ast.py", "asyncio", "json", "typing.py", "test/test_grammar.py", "tkinter"])
def test_other_peoples_code_is_looked_at(package):
    """Files of the standard library, which use every part of the language, are looked at to their end."""
    root = Path(ast.__file__).parent / package
    files = sorted(root.glob("*.py")) if root.is_dir() else [root]
    if not files or not files[0].exists():
        pytest.skip("this Python comes without it")
    for path in files:
        source = path.read_text(encoding="utf-8")
        looked = look(source, str(path), everywhere=True)
        assert {*looked.agents, *looked.others} == set(_functions(ast.parse(source), ""))
        assert all(1 <= one.line <= len(source.splitlines()) for one in looked.findings)


def test_our_own_examples_go_through_the_boundary():
    """The agents of the README and of the tour have no findings."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in readme.split("```python\n")[1:]]
    sources = [*blocks, (ROOT / "cli" / "tour" / "agent.py").read_text(encoding="utf-8")]

    looked = [look(source, f"example {place}") for place, source in enumerate(sources)]
    assert all(one.agents for one in looked)
    assert [found for one in looked for found in one.findings] == []
