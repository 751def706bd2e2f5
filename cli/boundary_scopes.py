"""The scopes of a file, and what is bound in each: by assignment, import, definition, parameter.

Rules: pure; one walk over the syntax tree, in which nothing is resolved. Functions and classes get dotted names that
begin with a dot: `.Shop.buy`. What a loop, a match or an error is bound to stands for nothing. This file does not know
what expressions stand for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Final

import attrs

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@attrs.define(eq=False)
class Scope:
    """A module, class, function, lambda or comprehension, and what is bound in it."""

    node: ast.AST
    parent: Scope | None
    owner: str = ""
    """Dotted name of the class or function in this file; empty for the module."""
    bound: dict[str, list[Binding]] = attrs.field(factory=dict)
    """By name: `("is", dotted name)`, `("value", expression)`, `("kind", annotation)`, `("entry", expression)`."""
    stars: list[str] = attrs.field(factory=list)
    outer: set[str] = attrs.field(factory=set)
    """Names that `global` and `nonlocal` give away."""

    def bind(self, name: str, how: str, what: ast.AST | str, scope: Scope | None = None) -> None:
        """Bind a name where Python would."""
        place = self
        while place.parent is not None and (
            name in place.outer or (isinstance(place.node, COMPREHENSIONS) and how == "walrus")
        ):
            given, place = name in place.outer, place.parent
            if given:  # given to the next scope that has it; the module at last
                while place.parent is not None and (isinstance(place.node, ast.ClassDef) or name not in place.bound):
                    place = place.parent
                break
        place.bound.setdefault(name, []).append(("value" if how == "walrus" else how, what, scope or self))


Binding = tuple[str, ast.AST | str, Scope]
"""How something is bound (see `Scope.bound`), what to, and the scope in which that is to be read."""


class Scopes:
    """The scopes, functions and classes of a file: goes through it once, and notes what is bound where."""

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope(tree, None)
        self.scopes: dict[ast.AST, Scope] = {tree: self.module}
        self.functions: dict[str, list[Function]] = {}
        self.classes: dict[str, list[ast.ClassDef]] = {}
        self.attributes: dict[str, dict[str, list[Binding]]] = {}
        """By class and name: what is assigned to `self.name` in its methods."""
        self._body(tree.body, self.module)

    def _body(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        nodes = list(nodes)
        for node in nodes:
            self._given_away(node, scope)
        for node in nodes:
            self._visit(node, scope)

    def _visit(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, FUNCTIONS):
            self._function(node, scope)
        elif isinstance(node, ast.Lambda):
            inner = self._inner(node, scope, scope.owner)
            self._parameters(node.args, inner, scope)
            self._visit(node.body, inner)
        elif isinstance(node, ast.ClassDef):
            self._class(node, scope)
        elif isinstance(node, COMPREHENSIONS):
            inner = self._inner(node, scope, scope.owner)
            for one in ast.iter_child_nodes(node):
                self._visit(one, inner)
        else:
            self._simple(node, scope)
            for one in ast.iter_child_nodes(node):
                self._visit(one, scope)

    def _inner(self, node: ast.AST, scope: Scope, owner: str) -> Scope:
        inner = self.scopes[node] = Scope(node, scope, owner)
        return inner

    def _function(self, node: Function, scope: Scope) -> None:
        owner = f"{scope.owner}.{node.name}"
        self.functions.setdefault(owner, []).append(node)
        scope.bind(node.name, "is", owner)
        for one in node.decorator_list:
            self._visit(one, scope)
        inner = self._inner(node, scope, owner)
        self._parameters(node.args, inner, scope)
        if isinstance(scope.node, ast.ClassDef) and node.args.args:
            kinds = {one.id for one in node.decorator_list if isinstance(one, ast.Name)}
            if "staticmethod" not in kinds:
                what = scope.owner if "classmethod" in kinds else f"{scope.owner}()"
                inner.bound[node.args.args[0].arg] = [("is", what, inner)]
        self._body(node.body, inner)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        owner = f"{scope.owner}.{node.name}"
        self.classes.setdefault(owner, []).append(node)
        scope.bind(node.name, "is", owner)
        for one in (*node.decorator_list, *node.bases, *node.keywords):
            self._visit(one, scope)
        self._body(node.body, self._inner(node, scope, owner))

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
                self._visit(default, scope)
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                inner.bound[rest.arg] = []

    def _given_away(self, node: ast.AST, scope: Scope) -> None:
        """Note `global` and `nonlocal` before anything is bound."""
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            scope.outer.update(node.names)
        elif not isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
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
                    self.module.stars.append(module)
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
                if kind == "is" and isinstance(what, str) and what.removesuffix("()") in self.classes:
                    held = self.attributes.setdefault(what.removesuffix("()"), {})
                    held.setdefault(target.attr, []).append((how, value, scope))
                    return
            place = place.parent
