"""What names in a file stand for, read from its text alone: `dt.now` is `datetime.datetime.now`.

Rules: pure; nothing is imported. Names are dotted: `time.time` is a function, `httpx.Client()` what calling it gives,
`httpx.Client().get` a method of that, `.triage` a function of this file, `.Shop()` an object of a class of this file.
A name may stand for several things: all that are ever assigned to it in its scope, whatever the order. What cannot be
told stands for nothing. This file does not know what agents may do.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

Function = ast.FunctionDef | ast.AsyncFunctionDef
SET: Final = "builtins.set()"
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SET_METHODS: Final = ("union", "intersection", "difference", "symmetric_difference", "copy")
_MAKERS: Final = frozenset(
    (
        "client", "resource", "connect", "session", "Session", "from_url", "from_env", "create_connection", "cursor",
        "insecure_channel", "secure_channel", "get_event_loop", "get_running_loop", "new_event_loop", "default_rng",
        "get_client", "get_context", "home", "cwd", "resolve", "absolute", "expanduser", "joinpath", "with_name",
        "with_suffix", "socket", "socketpair",
    )
)  # fmt: skip
"""Functions whose results go on reaching out; what any other function gives is not followed."""
_LITERALS: Final = {
    ast.Set: SET,
    ast.SetComp: SET,
    ast.List: "builtins.list()",
    ast.ListComp: "builtins.list()",
    ast.Dict: "builtins.dict()",
    ast.DictComp: "builtins.dict()",
    ast.Tuple: "builtins.tuple()",
    ast.JoinedStr: "builtins.str()",
}
Names = frozenset[str]
NOTHING: Final[Names] = frozenset()
_FAR: Final = 1 << 30
_BUDGET: Final = 200_000
"""Expressions looked at before names that are defined by each other are answered in part, so that there is an end."""
_MOST: Final = 32
"""Things that one name may stand for; the rest is left out."""


@attrs.define(eq=False)
class Scope:
    """A module, class, function, lambda or comprehension, and what is bound in it."""

    node: ast.AST
    parent: Scope | None
    owner: str = ""
    """Dotted name of the class or function in this file; empty for the module."""
    bound: dict[str, list[tuple[str, ast.AST | str, Scope]]] = attrs.field(factory=dict)
    """By name: `("is", dotted name)`, `("value", expression)`, `("kind", annotation)`, `("entry", expression)`."""
    stars: list[str] = attrs.field(factory=list)
    outer: set[str] = attrs.field(factory=set)
    """Names that `global` and `nonlocal` give away."""

    def bind(self, name: str, how: str, what: ast.AST | str, scope: Scope | None = None) -> None:
        """Bind a name where Python would."""
        place = self
        while place.parent is not None and (
            name in place.outer or (isinstance(place.node, _COMPREHENSIONS) and how == "walrus")
        ):
            given, place = name in place.outer, place.parent
            if given:  # given to the next scope that has it; the module at last
                while place.parent is not None and (isinstance(place.node, ast.ClassDef) or name not in place.bound):
                    place = place.parent
                break
        place.bound.setdefault(name, []).append(("value" if how == "walrus" else how, what, scope or self))


class FileNames:
    """The scopes of a file, its functions and classes, and what expressions in it stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope(tree, None)
        self.scopes: dict[ast.AST, Scope] = {tree: self.module}
        self.functions: dict[str, list[Function]] = {}
        self.classes: dict[str, list[ast.ClassDef]] = {}
        self.attributes: dict[str, dict[str, list[tuple[str, ast.AST | str, Scope]]]] = {}
        self._under_way: dict[tuple[int, int], int] = {}
        self._lowest = _FAR
        self._spent = 0
        self._known: dict[tuple[int, int], Names] = {}
        self._kept: list[ast.AST] = []
        _Binder(self).body(tree.body, self.module)

    def of(self, node: ast.AST | None, scope: Scope) -> Names:
        """All that an expression may stand for."""
        if node is None:
            return NOTHING
        key = (id(node), id(scope))
        if key in self._known:
            return self._known[key]
        if key in self._under_way:
            self._lowest = min(self._lowest, self._under_way[key])
            return NOTHING
        depth = self._under_way[key] = len(self._under_way)
        before, self._lowest = self._lowest, _FAR
        self._spent += 1
        try:
            found = frozenset(sorted(self._of(node, scope))[:_MOST])
        finally:
            del self._under_way[key]
        if self._lowest >= depth or self._spent > _BUDGET:  # else a name further up is not known in full yet
            self._known[key] = found
        self._lowest = min(before, self._lowest if self._lowest < depth else _FAR)
        return found

    def named(self, name: str, scope: Scope) -> Names:
        """All that a name may stand for in a scope."""
        return frozenset(self._name(name, scope))

    def methods(self, owner: str, *names: str) -> Iterator[str]:
        """Those functions of this file that methods of a class of it are, its bases' included."""
        for name in names:
            yield from (one for one in self._attribute(owner, name, ()) if one in self.functions)

    def _of(self, node: ast.AST, scope: Scope) -> Iterable[str]:
        if isinstance(node, ast.Name):
            return self._name(node.id, scope)
        if isinstance(node, ast.Attribute):
            return self._after(self.of(node.value, scope), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        if isinstance(node, (ast.Await, ast.NamedExpr, ast.Starred)):
            return self.of(node.value, scope)
        if isinstance(node, ast.IfExp):
            return self.of(node.body, scope) | self.of(node.orelse, scope)
        if isinstance(node, ast.BoolOp):
            return frozenset().union(*(self.of(one, scope) for one in node.values))
        if isinstance(node, ast.BinOp):
            return self._operation(node, scope)
        if isinstance(node, ast.Subscript):
            return {f"{name}[]" for name in self.of(node.value, scope)}
        if isinstance(node, ast.Constant):
            return {f"builtins.{type(node.value).__name__}()"}
        literal = _LITERALS.get(type(node))
        return () if literal is None else (literal,)

    def _name(self, name: str, scope: Scope) -> Iterable[str]:
        place: Scope | None = scope
        while place is not None:
            if name in place.bound and (place is scope or not isinstance(place.node, ast.ClassDef)):
                return [one for binding in place.bound[name] for one in self._binding(*binding)]
            place = place.parent
        if hasattr(builtins, name):
            return [f"builtins.{name}"]
        return [f"{module}.{name}" for module in self.module.stars]

    def _binding(self, how: str, what: ast.AST | str, scope: Scope) -> Iterable[str]:
        if isinstance(what, str):
            return [what]
        if how == "kind":
            return [f"{name}()" for name in self._kinds(what, scope)]
        if how == "waited":  # done, pending = await asyncio.wait(…): two sets of tasks
            waits = isinstance(what, ast.Call) and "asyncio.wait" in self.of(what.func, scope)
            return [SET] if waits else []
        return self.of(what, scope)

    def _kinds(self, annotation: ast.AST, scope: Scope) -> Iterator[str]:
        """The classes that an annotation names: `X`, `X | None`, `Optional[X]`, `"X"`."""
        if isinstance(annotation, ast.Constant) and type(annotation.value) is str:
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return
            self._kept.append(annotation)  # what is known is known by the identity of nodes
        if isinstance(annotation, ast.BinOp):
            yield from self._kinds(annotation.left, scope)
            yield from self._kinds(annotation.right, scope)
        elif isinstance(annotation, ast.Subscript):
            outer = self.of(annotation.value, scope)
            if outer & {"typing.Optional", "typing.Union", "typing.Annotated", "typing.Final", "typing.ClassVar"}:
                inner = annotation.slice
                for one in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
                    yield from self._kinds(one, scope)
            else:
                yield from outer
        elif isinstance(annotation, (ast.Name, ast.Attribute)):
            yield from self.of(annotation, scope)

    def _after(self, bases: Names, attribute: str) -> Iterator[str]:
        for base in bases:
            if base.startswith(".") and (base.removesuffix("()") in self.classes):
                yield from self._attribute(base.removesuffix("()"), attribute, ())
            else:
                yield f"{base}.{attribute}"

    def _attribute(self, owner: str, name: str, above: tuple[str, ...]) -> Iterator[str]:
        if f"{owner}.{name}" in self.functions:
            yield f"{owner}.{name}"
            return
        for binding in self.attributes.get(owner, {}).get(name, ()):
            yield from self._binding(*binding)
        for one in self.classes.get(owner, ()):
            scope = self.scopes[one]
            for binding in scope.bound.get(name, ()):
                yield from self._binding(*binding)
            for base in one.bases:
                for found in self.of(base, scope.parent or scope):
                    if found in self.classes and found not in above:
                        yield from self._attribute(found, name, (*above, owner))
                    elif not found.startswith("."):
                        yield f"{found}().{name}"

    def _call(self, node: ast.Call, scope: Scope) -> Iterator[str]:
        first = node.args[0] if node.args else None
        for name in self.of(node.func, scope):
            tail = name.rpartition(".")[2]
            if name == "builtins.getattr" and len(node.args) >= 2 and _text(node.args[1]):
                yield from self._after(self.of(first, scope), str(_text(node.args[1])))
            elif name in ("builtins.__import__", "importlib.import_module") and _text(first):
                whole = str(_text(first))
                yield whole if name.startswith("importlib") else whole.partition(".")[0]
            elif name in ("functools.partial", "functools.wraps()", "typing.cast"):
                yield from self.of(node.args[-1] if name == "typing.cast" and node.args else first, scope)
            elif name == "builtins.frozenset" or (name.startswith(SET) and tail in _SET_METHODS):
                yield SET
            elif name in ("random.Random", "numpy.random.default_rng", "numpy.random.RandomState") and _given(node):
                yield f"seeded {name}()"
            elif name in ("builtins.vars", "builtins.globals", "builtins.locals"):
                continue
            elif tail[:1].isupper() or tail in _MAKERS or name.startswith(("builtins.", ".", "pathlib.")):
                yield f"{name}()"

    def _operation(self, node: ast.BinOp, scope: Scope) -> Iterable[str]:
        left, right = self.of(node.left, scope), self.of(node.right, scope)
        if isinstance(node.op, ast.Div):
            return {one for one in left | right if one.startswith("pathlib.")}
        if isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)) and SET in left | right:
            return {SET}
        return ()


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and type(node.value) is str else None


def _given(node: ast.Call) -> bool:
    """Whether a generator is given a seed that is not None."""
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    return bool(values) and not (isinstance(values[0], ast.Constant) and values[0].value is None)


class _Binder:
    """Goes through a file once and notes what is bound where."""

    def __init__(self, names: FileNames) -> None:
        self._names = names

    def body(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        nodes = list(nodes)
        for node in nodes:
            self._given_away(node, scope)
        for node in nodes:
            self.visit(node, scope)

    def visit(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, _FUNCTIONS):
            self._function(node, scope)
        elif isinstance(node, ast.Lambda):
            inner = self._inner(node, scope, scope.owner)
            self._parameters(node.args, inner, scope)
            self.visit(node.body, inner)
        elif isinstance(node, ast.ClassDef):
            self._class(node, scope)
        elif isinstance(node, _COMPREHENSIONS):
            inner = self._inner(node, scope, scope.owner)
            for one in ast.iter_child_nodes(node):
                self.visit(one, inner)
        else:
            self._simple(node, scope)
            for one in ast.iter_child_nodes(node):
                self.visit(one, scope)

    def _inner(self, node: ast.AST, scope: Scope, owner: str) -> Scope:
        inner = self._names.scopes[node] = Scope(node, scope, owner)
        return inner

    def _function(self, node: Function, scope: Scope) -> None:
        owner = f"{scope.owner}.{node.name}"
        self._names.functions.setdefault(owner, []).append(node)
        scope.bind(node.name, "is", owner)
        for one in node.decorator_list:
            self.visit(one, scope)
        inner = self._inner(node, scope, owner)
        self._parameters(node.args, inner, scope)
        if isinstance(scope.node, ast.ClassDef) and node.args.args:
            kinds = {one.id for one in node.decorator_list if isinstance(one, ast.Name)}
            if "staticmethod" not in kinds:
                what = scope.owner if "classmethod" in kinds else f"{scope.owner}()"
                inner.bound[node.args.args[0].arg] = [("is", what, inner)]
        self.body(node.body, inner)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        owner = f"{scope.owner}.{node.name}"
        self._names.classes.setdefault(owner, []).append(node)
        scope.bind(node.name, "is", owner)
        for one in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(one, scope)
        self.body(node.body, self._inner(node, scope, owner))

    def _parameters(self, arguments: ast.arguments, inner: Scope, scope: Scope) -> None:
        plain = [*arguments.posonlyargs, *arguments.args]
        defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + [*arguments.defaults]
        both = [*zip(plain, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
        for one, default in both:
            inner.bound[one.arg] = []
            if one.annotation is not None:
                inner.bind(one.arg, "kind", one.annotation, scope)
            if default is not None:
                inner.bind(one.arg, "value", default, scope)
                self.visit(default, scope)
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                inner.bound[rest.arg] = []

    def _given_away(self, node: ast.AST, scope: Scope) -> None:
        """Note `global` and `nonlocal` before anything is bound."""
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.outer.update(node.names)
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            for one in ast.iter_child_nodes(node):
                if isinstance(one, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                    self._given_away(one, scope)

    def _simple(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                scope.bind(
                    alias.asname or alias.name.partition(".")[0],
                    "is",
                    alias.name if alias.asname else alias.name.partition(".")[0],
                )
        elif isinstance(node, ast.ImportFrom):
            module = f"{'~' * node.level}{node.module or ''}"
            for alias in node.names:
                if alias.name == "*":
                    self._names.module.stars.append(module)
                else:
                    scope.bind(alias.asname or alias.name, "is", f"{module}.{alias.name}")
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._target(target, node.value, scope)
        elif isinstance(node, ast.AnnAssign):
            self._annotated(node, scope)
        elif isinstance(node, ast.NamedExpr):
            scope.bind(node.target.id, "walrus", node.value)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._target(node.optional_vars, node.context_expr, scope)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            self._target(node.target, None, scope)
        elif (isinstance(node, ast.ExceptHandler) and node.name) or (
            isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name
        ):
            scope.bound.setdefault(node.name, [])
        elif isinstance(node, ast.MatchMapping) and node.rest:
            scope.bound.setdefault(node.rest, [])

    def _annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        if node.value is not None:
            self._target(node.target, node.value, scope)
        if isinstance(node.target, ast.Name):
            scope.bind(node.target.id, "kind", node.annotation)
        elif isinstance(node.target, ast.Attribute):
            self._own(node.target, "kind", node.annotation, scope)

    def _target(self, target: ast.AST, value: ast.AST | None, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            if value is None:
                scope.bound.setdefault(target.id, [])
            else:
                scope.bind(target.id, "value", value)
        elif isinstance(target, ast.Attribute) and value is not None:
            self._own(target, "value", value, scope)
        elif isinstance(target, ast.Starred):
            self._target(target.value, None, scope)
        elif isinstance(target, (ast.Tuple, ast.List)):
            values: list[ast.AST | None] = [None] * len(target.elts)
            if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts):
                values = list(value.elts)
            for one, each in zip(target.elts, values, strict=True):
                if isinstance(one, ast.Name) and isinstance(value, ast.Await):
                    scope.bind(one.id, "waited", value.value)
                else:
                    self._target(one, each, scope)

    def _own(self, target: ast.Attribute, how: str, value: ast.AST, scope: Scope) -> None:
        """`self.x = …` in a method: an attribute of its class."""
        place: Scope | None = scope
        while isinstance(target.value, ast.Name) and place is not None:
            for kind, what, _ in place.bound.get(target.value.id, ()):
                if kind == "is" and isinstance(what, str) and what.removesuffix("()") in self._names.classes:
                    held = self._names.attributes.setdefault(what.removesuffix("()"), {})
                    held.setdefault(target.attr, []).append((how, value, scope))
                    return
            place = place.parent
