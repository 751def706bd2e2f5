"""Mutants of agents: one small change each to the syntax tree of an agent's function, all of them, in one order.

Rules: pure but for `report`, which a child process calls. A mutant is source text, so that it is loaded, named and
shown as any agent is. What a captured function gives is the world's answer, and not the agent's doing: nothing inside
one is changed. Some mutants are made to differ in nothing (`control`); whether any other differs is not known here.
"""

from __future__ import annotations

import ast
import copy
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from agentledger import Clock, Runtime
from ledger_core.errors import LedgerError
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.recorded import stream_of
from ledger_core.runtime.target import load
from projections import course
from replay import replaying

CHANGES = Path(__file__).resolve().parents[2] / "fixtures" / "agents" / "changes"
ORIGINALS = {
    "triage": {"ticket": 7},
    "triage_in_a_row": {"ticket": 7},
    "errands": {"errands": [2, 12, 0, 3, 5]},
}
"""Agents, by the names of their files, and what each begins with."""
SECONDS = 8
"""For one execution of a mutant that may never end; longer than the longest `asyncio.timeout` of the originals."""
_COMPARED: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Lt: [ast.GtE, ast.LtE],
    ast.LtE: [ast.Gt, ast.Lt],
    ast.Gt: [ast.LtE, ast.GtE],
    ast.GtE: [ast.Lt, ast.Gt],
}
_COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Mod: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}


class Mutant(NamedTuple):
    """One changed program."""

    kind: str
    line: int
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of the agent in a file's text, in the order of the program."""
    tree = ast.parse(source)
    body = next(node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    seen = {ast.unparse(tree)}
    for place in range(len(list(_nodes(body)))):
        for kind, change in _changes(list(_nodes(body))[place]):
            changed = copy.deepcopy(tree)
            function = next(node for node in changed.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
            node = list(_nodes(function))[place]
            change(node)
            text = ast.unparse(ast.fix_missing_locations(changed))
            if text not in seen:
                seen.add(text)
                yield Mutant(kind, getattr(node, "lineno", 0), text)


def _nodes(function: Any) -> Iterator[Any]:
    """The nodes of a function's body; not those of what `capture` is given."""
    waiting = [function]
    while waiting:
        node = waiting.pop(0)
        yield node
        captures = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "capture"
        inner = [*node.args[:1]] if captures else ast.iter_child_nodes(node)
        if node is function:
            inner = node.body
        waiting = [*(one for one in inner if not isinstance(one, ast.arguments)), *waiting]


Change = tuple[str, Callable[[Any], None]]


def _changes(node: Any) -> Iterator[Change]:
    """What can be changed at a node, and how."""
    if isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Compare):
        for other in _COMPARED.get(type(node.ops[0]), ()):
            yield "comparison", lambda one, other=other: one.ops.__setitem__(0, other())
    elif isinstance(node, ast.BoolOp):
        yield "and or", lambda one: setattr(one, "op", ast.And() if isinstance(one.op, ast.Or) else ast.Or())
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _COUNTED:
        yield "operator", lambda one: setattr(one, "op", _COUNTED[type(one.op)]())
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield "negated", lambda one: setattr(one, "test", ast.UnaryOp(op=ast.Not(), operand=one.test))
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Dict) and len(node.keys) > 1:
        yield "entry dropped", lambda one: (one.keys.pop(0), one.values.pop(0))
        yield "control: entries in another order", lambda one: (one.keys.reverse(), one.values.reverse())
    elif isinstance(node, ast.Return):
        yield "nothing returned", lambda one: setattr(one, "value", ast.Constant(None))
    for name in ("body", "orelse", "finalbody"):
        if isinstance(getattr(node, name, None), list):
            yield from _statements(node, name)


def _constants(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", lambda one: setattr(one, "value", not one.value)
    elif isinstance(value, int):
        yield "constant", lambda one: setattr(one, "value", one.value + 1)
        yield "constant", lambda one: setattr(one, "value", -one.value)
    elif isinstance(value, str):
        yield "text", lambda one: setattr(one, "value", one.value + "x")
        yield "text", lambda one: setattr(one, "value", one.value.swapcase())
        yield "text", lambda one: setattr(one, "value", "")


def _calls(node: ast.Call) -> Iterator[Change]:
    if len(node.args) > 1:
        yield "arguments reordered", lambda one: one.args.reverse()
        yield "argument dropped", lambda one: one.args.pop()
    if len(node.keywords) > 1:
        yield "control: keywords in another order", lambda one: one.keywords.reverse()
    for place, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield "keyword dropped", lambda one, place=place: one.keywords.pop(place)
            yield "keyword renamed", lambda one, place=place: setattr(one.keywords[place], "arg", "renamed")
    if isinstance(node.func, ast.Name) and len(node.args) == 1:
        yield "another call", _another_call


def _another_call(node: ast.Call) -> None:
    node.func = ast.Name("list" if getattr(node.func, "id", "") == "sorted" else "repr", ast.Load())


def _statements(node: Any, name: str) -> Iterator[Change]:
    body = getattr(node, name)
    for place, statement in enumerate(body):
        yield "statement deleted", lambda one, place=place: getattr(one, name).__setitem__(place, ast.Pass())
        if isinstance(statement, (ast.Expr, ast.Assign, ast.AugAssign)):
            yield (
                "statement repeated",
                lambda one, place=place: getattr(one, name).insert(place, getattr(one, name)[place]),
            )
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Await):
            yield (
                "not awaited",
                lambda one, place=place: setattr(
                    getattr(one, name)[place], "value", getattr(one, name)[place].value.value
                ),
            )
        if place + 1 < len(body):
            yield "statements swapped", lambda one, place=place: _swap(getattr(one, name), place)
        yield (
            "control: a local value",
            lambda one, place=place: getattr(one, name).insert(
                place, ast.parse("_unused = sorted({'a', 'b', 'c'})").body[0]
            ),
        )


def _swap(body: list[Any], place: int) -> None:
    body[place], body[place + 1] = body[place + 1], body[place]


# Executing them: in child processes, each with its own seed of hashes


class TooLong(BaseException):
    """An execution that does not end."""


def _late(*_: Any) -> None:
    raise TooLong


def clock() -> Clock:
    """The system's time, and random bytes that are the same for every ledger that begins with it."""
    numbers = count()

    def random(size: int) -> bytes:
        found = b""
        while len(found) < size:
            found += blake2b(str(next(numbers)).encode()).digest()
        return found[:size]

    return Clock(random=random)


def own_course(spec: AgentSpec, state: dict[str, Any]) -> str:
    """The digest of the course that an agent takes by itself, on a ledger of its own; or how it comes to none."""
    with Runtime.in_memory(clock=clock()) as runtime:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            runtime.run(spec, run_id="r", initial_state=state)
        except TooLong:
            return "no end"
        except LedgerError as refused:  # a tool that nobody knows: the run stops there
            return f"refused: {refused}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return course.of_events(runtime.log.stream(stream_of("r")), "its own").digest.hex()


def replayed(runtime: Runtime, spec: AgentSpec) -> str:
    """What a replay says of an agent: the code of its divergence, empty for none; `refused`, or `no end`."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found = replaying.replay(runtime, "r", spec)
    except TooLong:
        return "no end"
    except LedgerError as refused:
        return f"refused: {refused}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "" if found.divergence is None else found.divergence.kind.code


def specs(name: str, work: Path, batch: int, batches: int) -> Iterator[tuple[Mutant, AgentSpec | None]]:
    """A part of an original's mutants, loaded from files; None for one that is no program."""
    for number, mutant in enumerate(mutants((CHANGES / f"{name}.py").read_text())):
        if number % batches == batch:
            file = work / f"{name}_{number}.py"
            file.write_text(mutant.source)
            try:
                yield mutant, load(f"{file}:{name.removesuffix('_in_a_row')}")
            except LedgerError:
                yield mutant, None


def report(name: str, work: str, batch: int, batches: int) -> None:
    """Print, for a part of an original's mutants, what each does by itself and what replay says of it."""
    warnings.simplefilter("ignore")  # a coroutine that a mutant does not await
    signal.signal(signal.SIGALRM, _late)
    sys.path.insert(0, str(CHANGES))
    state, original = ORIGINALS[name], load(f"{CHANGES / name}.py:{name.removesuffix('_in_a_row')}")
    ordinary = own_course(original, state)
    with Runtime.in_memory(clock=clock()) as runtime:
        runtime.run(original, run_id="r", initial_state=state)
        found = []
        for mutant, spec in specs(name, Path(work), batch, batches):
            if spec is not None:
                own, said = own_course(spec, state), replayed(runtime, spec)
                found.append([mutant.kind, mutant.line, mutant.source, own, said])
        json.dump([ordinary, replayed(runtime, original), found], sys.stdout)
