"""`lint boundary`: finds code of agents that goes round the boundary, in the text of a file alone.

Rules: pure; nothing is imported or run. Looked at are agents (functions decorated with @agent, or with a context as a
parameter) and, from there, the functions and methods of the same file that they name; tools never, for they are the
boundary. A finding is allowed on its line by `# boundary: allow CODE because …`: without a reason, or where nothing is
found, that comment is a finding itself. This is a lint and no proof: it does not follow calls into other files, nor
names that are made while the code runs. It knows neither files nor terminals.
"""

from __future__ import annotations

import ast
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from cli.boundary_allow import Finding, Spot, allowed
from cli.boundary_allow import comments as comments_of
from cli.boundary_calls import enters_scope, harmless, mode, only_cancels, writes
from cli.boundary_names import NOTHING, SET, FileNames, Names
from cli.boundary_rules import VALUES, Kind, Rules
from cli.boundary_scopes import COMPREHENSIONS, FUNCTIONS, Function, Scope
from ledger_core.errors import BadInput

_AGENT: Final = frozenset(("agentledger.agent", "ledger_core.runtime.agent.agent"))
_TOOL: Final = frozenset(
    (
        "agentledger.tool",
        "agentledger.ToolSpec",
        "ledger_core.governance.tool.tool",
        "ledger_core.governance.tool.ToolSpec",
    )
)
_CONTEXTS: Final = ("AgentContext()", "SyncContext()")
_HOOKS: Final = ("function", "verify", "compensate", "cost", "tools", "models")
"""Keywords of tools and agents that are given functions of the boundary."""
_CALM: Final = frozenset(
    f"builtins.{name}" for name in ("sorted", "set", "frozenset", "len", "sum", "min", "max", "any", "all")
)
"""Functions whose result does not depend on the order of what they are given."""
_PASSES: Final = frozenset(
    f"builtins.{name}" for name in ("list", "tuple", "map", "filter", "iter", "enumerate", "reversed")
)
"""Functions that keep the order that they are given."""
_ORDERED: Final = frozenset(
    f"builtins.{name}" for name in ("list", "tuple", "enumerate", "iter", "zip", "map", "filter")
)
_WRITES: Final = ("write_text", "write_bytes", "symlink_to", "hardlink_to", "unlink", "rmdir", "mkdir", "touch")
"""Methods of paths that nothing else has: a receiver that nobody knows is one."""
_WHEN_MADE: Final = ("__init__", "__new__", "__post_init__", "__attrs_post_init__")
_WHEN_ENTERED: Final = ("__enter__", "__exit__", "__aenter__", "__aexit__")


@attrs.frozen(kw_only=True)
class Looked:
    """What was found in a file, and what was looked at."""

    findings: list[Finding]
    agents: list[str]
    """Names of the functions that were looked at as agents'."""
    others: list[str]
    """Names of the functions that they led to."""


def lint(source: str, filename: str, rules: Rules | None = None, *, everywhere: bool = False) -> list[Finding]:
    """What is found in a source text, in the order of its lines; raises `BadInput` for text that is no Python."""
    return look(source, filename, rules, everywhere=everywhere).findings


def look(source: str, filename: str, rules: Rules | None = None, *, everywhere: bool = False) -> Looked:
    """As `lint`, with what was looked at. `everywhere` looks at the whole file, but for its tools."""
    rules = rules or Rules()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source, filename)
        file = _File(tree, filename, rules)
        found, looked = file.look(everywhere)
        comments = list(comments_of(source))
        used_by = (found if everywhere else file.look(everywhere=True)[0]) | found if comments else found
    except SyntaxError as error:
        line = error.lineno or 1
        raise BadInput(f"{filename}:{line}: this is no Python: {error.msg}.", line=line) from None
    except (RecursionError, MemoryError):
        raise BadInput(f"{filename}: the code is nested too deep to be looked at.") from None
    except (ValueError, tokenize.TokenError) as error:
        raise BadInput(f"{filename}: this is no Python: {error}.") from None
    kept, own = allowed(found, used_by, comments, filename, rules)
    agents = [name for name in looked if name in file.agents]
    others = [name for name in looked if name not in file.agents]
    return Looked(findings=sorted([*kept, *own]), agents=agents, others=others)


class _File:
    """One file under way."""

    def __init__(self, tree: ast.Module, filename: str, rules: Rules) -> None:
        self.names = FileNames(tree)
        self.tree, self.filename, self.rules = tree, filename, rules
        self.tools: set[str] = set()
        self.agents: set[str] = set()
        for node, scope in _all(tree, self.names):
            self._declared(node, scope)
        self.agents -= self.tools

    def look(self, everywhere: bool) -> tuple[set[Spot], list[str]]:
        """What is found, and the functions that were looked at."""
        found: set[Spot] = set()
        ways = [(name, False) for name in sorted(self.agents)]
        seen: set[tuple[str, bool]] = set()
        if everywhere:
            seeker = _Seeker(self, "", captured=False)
            seeker.body(self.tree.body, self.names.module)
            found |= seeker.found
            ways += [(name, False) for name in sorted(self.names.functions) if name not in self.tools]
        while ways:
            name, captured = ways.pop()
            if (name, captured) in seen or name in self.tools or (captured and (name, False) in seen):
                continue
            seen.add((name, captured))
            for node in self.names.functions[name]:
                seeker = _Seeker(self, name, captured=captured)
                seeker.scoped = enters_scope(node)
                seeker.body(node.body, self.names.scopes[node])
                found |= seeker.found
                ways += seeker.leads
        return found, sorted({name for name, _ in seen})

    def _declared(self, node: ast.AST, scope: Scope) -> None:
        """Note what a node declares a tool, or an agent."""
        if isinstance(node, FUNCTIONS):
            owner = self.names.scopes[node].owner
            for one in node.decorator_list:
                made = one.func if isinstance(one, ast.Call) else one
                kinds = self.names.of(made, scope)
                if kinds & _TOOL or (isinstance(made, ast.Attribute) and made.attr == "tool"):
                    self.tools.add(owner)
                elif kinds & _AGENT:
                    self.agents.add(owner)
            if self._takes_context(node, scope):
                self.agents.add(owner)
        elif isinstance(node, ast.Call):
            kinds = self.names.of(node.func, scope) | (
                self.names.of(node.func.func, scope) if isinstance(node.func, ast.Call) else NOTHING
            )
            local = [
                name for one in node.args[:1] for name in self.names.of(one, scope) if name in self.names.functions
            ]
            if kinds & _TOOL:
                self.tools.update(local)
            elif kinds & _AGENT:
                self.agents.update(local)
            if kinds & (_TOOL | _AGENT):
                for keyword in node.keywords:
                    if keyword.arg in _HOOKS:
                        self._given(keyword.value, scope)

    def _given(self, node: ast.AST, scope: Scope) -> None:
        """Functions that a tool or an agent is given: itself, in a list or a map, or by the name of one."""
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            for one in node.elts:
                self._given(one, scope)
        elif isinstance(node, ast.Dict):
            for value in node.values:
                self._given(value, scope)
        elif isinstance(node, ast.Starred):
            self._given(node.value, scope)
        else:
            self.tools.update(name for name in self.names.of(node, scope) if name in self.names.functions)
            for what, where in self.names.values(node, scope):
                if isinstance(what, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
                    self._given(what, where)

    def _takes_context(self, node: Function, scope: Scope) -> bool:
        if any(name.startswith("click.") for one in node.decorator_list for name in self._decorator(one, scope)):
            return False
        for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            kinds = self.names.named(one.arg, self.names.scopes[node])
            if any(kind.endswith(_CONTEXTS) for kind in kinds) or (one.arg == "ctx" and one.annotation is None):
                return True
        return False

    def _decorator(self, node: ast.expr, scope: Scope) -> Names:
        return self.names.of(node.func if isinstance(node, ast.Call) else node, scope)


def _all(tree: ast.Module, names: FileNames) -> Iterator[tuple[ast.AST, Scope]]:
    """Every node with the scope that it stands in."""
    ways: list[tuple[ast.AST, Scope]] = [(tree, names.module)]
    while ways:
        node, scope = ways.pop()
        yield node, scope
        inner = names.scopes.get(node, scope)
        outside = [] if not isinstance(node, FUNCTIONS) else [*node.decorator_list, *node.args.defaults]
        ways += [(one, scope if one in outside else inner) for one in ast.iter_child_nodes(node)]


class _Seeker:
    """Goes through the body of one function, with what is nested in it."""

    def __init__(self, file: _File, function: str, *, captured: bool) -> None:
        self.file, self.names, self.rules = file, file.names, file.rules
        self.function = function
        self.captured = captured
        self.scoped = False
        """Whether it names places for what its threads do."""
        self.found: set[Spot] = set()
        self.leads: list[tuple[str, bool]] = []

    def body(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        for node in nodes:
            self.visit(node, scope)

    def visit(self, node: ast.AST, scope: Scope, *, calm: bool = False) -> None:
        """Look at a node; `calm` where what it gives is used without its order."""
        if isinstance(node, FUNCTIONS):
            self.body([*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)], scope)
            self._follow([self.names.scopes[node].owner])
            return
        if isinstance(node, ast.Call):
            self._call(node, scope, calm=calm)
            return
        if isinstance(node, (*COMPREHENSIONS, ast.Lambda, ast.ClassDef)):
            inner = self.names.scopes[node]
            if isinstance(node, COMPREHENSIONS):
                self._generators(node, inner, calm=calm or isinstance(node, ast.SetComp))
            self.body((one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.comprehension)), inner)
            return
        if isinstance(node, (ast.For, ast.AsyncFor)):
            if not only_cancels(node):
                self._ordered(node.iter, scope)
        elif isinstance(node, ast.Starred):
            if isinstance(node.ctx, ast.Load) and not calm:
                self._ordered(node.value, scope)
        elif isinstance(node, ast.Assign):
            if isinstance(node.targets[0], (ast.Tuple, ast.List)):
                self._ordered(node.value, scope)
        elif isinstance(node, ast.withitem):
            for name in self.names.of(node.context_expr, scope):
                self._follow(self.names.methods(name.removesuffix("()"), *_WHEN_ENTERED))
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            self._named(node, scope)
        for one in ast.iter_child_nodes(node):
            self.visit(one, scope, calm=calm and isinstance(one, ast.Starred))

    def _generators(self, node: Any, inner: Scope, *, calm: bool) -> None:
        for one in node.generators:
            if not calm:
                self._ordered(one.iter, inner)
            self.visit(one.iter, inner, calm=calm)
            self.body([one.target, *one.ifs], inner)

    def _call(self, node: ast.Call, scope: Scope, *, calm: bool) -> None:
        called = self.names.of(node.func, scope)
        self._judged(node, called, scope, calm=calm)
        self._follow(one for name in called for one in self.names.methods(name, *_WHEN_MADE))
        if isinstance(node.func, (ast.Name, ast.Attribute)):
            self._follow(called)
            self.visit(node.func.value, scope) if isinstance(node.func, ast.Attribute) else None
        else:
            self.visit(node.func, scope)
        before = self.captured
        self.captured = before or (
            isinstance(node.func, ast.Attribute) and node.func.attr == "capture" and len(node.args) > 1
        )
        ends = any(one.arg == "return_exceptions" for one in node.keywords)  # gather(*late, …): whatever became of them
        order = bool(called & _CALM) or (calm and bool(called & _PASSES)) or ends
        hooks = _HOOKS if called & (_AGENT | _TOOL) else ()
        for one in (*node.args, *(keyword.value for keyword in node.keywords if keyword.arg not in hooks)):
            self._passed_on(one, scope)
            self.visit(one, scope, calm=order)
        self.captured = before

    def _judged(self, node: ast.Call, called: Names, scope: Scope, *, calm: bool) -> None:
        """Report a call, if it is of any kind."""
        for name in sorted(called):
            if name in self.file.tools:
                self._report(node, self.rules.of_code("AB9", name.removeprefix(".")), name.removeprefix("."))
                return
            kind = self.rules.kind(name)
            if kind is not None and not (harmless(node, name) or (kind.code == "AB6" and calm)):
                self._report(node, kind, name)
                return
            if writes(node, name):
                self._report(node, self.rules.of_code("AB5", name), name)
                return
        unordered = called & _ORDERED or "builtins.dict.fromkeys" in called or "asyncio.gather" in called
        last = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if (unordered and not calm) or last == "join":
            for one in node.args:
                if SET in self.names.of(one, scope) and not isinstance(one, ast.Starred):
                    self._report(
                        node, self.rules.of_code("AB6"), f"{last or min(called).removeprefix('builtins.')}(a set)"
                    )
        if last == "pop" and not node.args and f"{SET}.pop" in called:
            self._report(node, self.rules.of_code("AB6"), "pop() of a set")
        if not called and last in _WRITES:
            self._report(node, self.rules.of_code("AB5", last), f"….{last}")
        elif not called and last == "open" and node.args and mode(node, 0) not in (None, ""):
            self._report(node, self.rules.of_code("AB5", last), "….open")
        elif not called and last == "run_in_executor":
            self._report(node, self.rules.of_code("AB7", last), "….run_in_executor")

    def _ordered(self, node: ast.AST, scope: Scope) -> None:
        if SET in self.names.of(node, scope):
            self._report(node, self.rules.of_code("AB6"), "the order of a set")

    def _named(self, node: ast.Name | ast.Attribute, scope: Scope) -> None:
        """A name that is only mentioned: the environment, and functions of this file, which may be called."""
        found = self.names.of(node, scope)
        self._follow(found)
        for name in found & {"os.environ", "os.environb"}:
            self._report(node, self.rules.kind(name), name)

    def _passed_on(self, node: ast.AST, scope: Scope) -> None:
        """A function that is given to another one: it will be called."""
        if not isinstance(node, (ast.Name, ast.Attribute)):
            return
        for name in sorted(self.names.of(node, scope)):
            tail = name.rpartition(".")[2]
            kind = self.rules.kind(name)
            if name in self.file.tools:
                continue
            if (
                kind is not None
                and kind.code != "AB6"
                and tail[:1].islower()
                and "(" not in tail
                and "environ" not in tail
            ):
                self._report(node, kind, name)
                return

    def _follow(self, names: Iterable[str]) -> None:
        self.leads += [(name, self.captured) for name in names if name in self.names.functions]

    def _report(self, node: Any, kind: Kind | None, call: str) -> None:
        if kind is None or (self.captured and kind.code in VALUES) or (self.scoped and kind.code == "AB7"):
            return
        finding = Finding(
            file=self.file.filename,
            line=node.lineno,
            column=node.col_offset + 1,
            code=kind.code,
            call=call.removeprefix("builtins."),
            message=kind.message,
            instead=kind.instead,
            function=self.function.removeprefix("."),
        )
        self.found.add(Spot(finding, node.end_lineno or node.lineno))
