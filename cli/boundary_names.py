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

from cli.boundary_scopes import Scope, Scopes

Function = ast.FunctionDef | ast.AsyncFunctionDef
SET: Final = "builtins.set()"
SEEDED: Final = frozenset(
    (
        "random.Random",
        *(f"numpy.random.{one}" for one in ("default_rng", "RandomState", "Generator", "PCG64", "MT19937", "Philox")),
    )
)
"""What makes a generator that is the same for the same seed."""
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
_BUDGET: Final = 50_000
"""Expressions looked at before names that are defined by each other are answered in part, so that there is an end."""
_MOST: Final = 32
"""Things that one name may stand for; the rest is left out."""


class FileNames:
    """The scopes of a file, its functions and classes, and what expressions in it stand for."""

    def __init__(self, tree: ast.Module) -> None:
        scopes = Scopes(tree)
        self.module, self.scopes = scopes.module, scopes.scopes
        self.functions, self.classes = scopes.functions, scopes.classes
        self._attributes = scopes.attributes
        self._under_way: dict[tuple[int | str, int], int] = {}
        self._lowest = _FAR
        self._spent = 0
        self._known: dict[tuple[int | str, int], Names] = {}
        self._kept: list[ast.AST] = []

    def of(self, node: ast.AST | None, scope: Scope) -> Names:
        """All that an expression may stand for."""
        if node is None:
            return NOTHING
        key: tuple[int | str, int] = (id(node), id(scope))
        if isinstance(node, ast.Name):  # one thing wherever it is named: `x = x.a()` a hundred times is one name
            place = self._place(node.id, scope)
            key = (node.id, id(place))
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
        return frozenset(self._name(name, self._place(name, scope)))

    def values(self, node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
        """The expressions that a name is assigned, each with the scope in which it is to be read."""
        place = self._place(node.id, scope) if isinstance(node, ast.Name) else None
        for how, what, where in place.bound[node.id] if isinstance(node, ast.Name) and place is not None else ():
            if how == "value" and isinstance(what, ast.AST):
                yield what, where

    def methods(self, owner: str, *names: str) -> Iterator[str]:
        """Those functions of this file that methods of a class of it are, its bases' included."""
        for name in names:
            yield from (one for one in self._attribute(owner, name, ()) if one in self.functions)

    def _of(self, node: ast.AST, scope: Scope) -> Iterable[str]:
        if isinstance(node, ast.Name):
            return self._name(node.id, self._place(node.id, scope))
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

    def _place(self, name: str, scope: Scope) -> Scope | None:
        """The scope that a name is bound in, as it is seen from one."""
        place: Scope | None = scope
        while place is not None:
            if name in place.bound and (place is scope or not isinstance(place.node, ast.ClassDef)):
                return place
            place = place.parent
        return None

    def _name(self, name: str, place: Scope | None) -> Iterable[str]:
        if place is not None:
            return [one for binding in place.bound[name] for one in self._binding(*binding)]
        if hasattr(builtins, name):
            return [f"builtins.{name}"]
        return [f"{module}.{name}" for module in self.module.stars]

    def _binding(self, how: str, what: ast.AST | str, scope: Scope) -> Iterable[str]:
        if isinstance(what, str):
            return [what]
        if how == "kind":
            return [f"{'seeded ' if name in SEEDED else ''}{name}()" for name in self._kinds(what, scope)]
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
        for binding in self._attributes.get(owner, {}).get(name, ()):
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
            elif name in SEEDED and seeded(node):
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


def seeded(node: ast.Call) -> bool:
    """Whether a generator is given a seed that is not None."""
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    return bool(values) and not (isinstance(values[0], ast.Constant) and values[0].value is None)
