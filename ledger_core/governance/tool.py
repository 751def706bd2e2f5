"""What a tool is: a function that reaches outside, with what the runtime must know before it lets it.

Rules: a tool is called with keyword arguments; one whose only parameter is annotated as a dict, or is not annotated
and named like one, gets the arguments whole. `verify` takes the same arguments and answers what became of a call
nobody knows the outcome of: it returns the tool's result, raises `NoEffect`, or raises anything else if it cannot
tell. `compensate` takes them too, and undoes. All may name `idempotency_key`; `compensate` may name `result`.
Arguments are judged as the plain, decoded JSON that they are, and handed over as such: nothing is constructed. What a
schema was not given for is read from annotations and docstring, when it is first needed, because names that they
mention may be defined later. This file does not call tools.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar, cast, get_args, overload

import attrs

from ledger_core.errors import BadInput
from ledger_core.events.effect import SideEffect
from ledger_core.governance.calling import KEY, Function, Shape, description_of, innermost, name_of, shape_of
from ledger_core.governance.fit import Fit, declared
from ledger_core.governance.schema import input_schema_of, output_schema_of
from ledger_core.ids import check_name
from ledger_core.run.retry import RetryPolicy, policy_of

F = TypeVar("F", bound=Function)
RiskLevel = Literal["low", "medium", "high", "critical"]
Idempotency = Literal["none", "key", "natural"]
Cost = float | Callable[[Any], float]
Schema = Mapping[str, Any]
_LOGICAL: Final = "_logical_operation"
"""A word to the runtime: where a schema declares it, it is no argument of a function that does not name it."""
_ABSENT: Final = object()


class BadOutput(Exception):
    """A tool returned what its output schema does not allow; says where and which rule, never the value."""


@attrs.frozen(kw_only=True)
class ToolSpec:
    """A tool: its function, and its contract with the runtime."""

    name: str = attrs.field()
    function: Function = attrs.field(hash=False)
    version: str = "1"
    side_effect: SideEffect = "none"
    description: str = ""
    verify: Function | None = None
    timeout: float | None = None
    """Seconds that one attempt may take."""
    retry: RetryPolicy | None = None
    """How an attempt that failed without an effect is made again; never, if left out."""
    settle_after: float = 0.0
    """Seconds for which a request that was sent may still arrive: before, "no effect" is not believed."""
    outage: tuple[type[BaseException], ...] = ()
    """Errors that mean that the other side is not there and nothing happened: waited for, not counted."""
    _input_schema: Mapping[str, Any] | None = attrs.field(default=None, hash=False)
    _output_schema: Mapping[str, Any] | None = attrs.field(default=None, hash=False)
    risk_level: RiskLevel = "low"
    idempotency: Idempotency = "none"
    """`key`: the other side honours the idempotency key, so a call whose outcome is unknown may be sent again with it;
    `natural`: doing it twice is the same as doing it once."""
    approval_required: bool = False
    approval_timeout: float | None = None
    """Seconds until a request for approval expires."""
    sandbox_required: bool = False
    sandbox: Any = attrs.field(default=None, hash=False, repr=False)
    """A sandbox policy, or a mapping of one."""
    compensate: Function | None = None
    """Undoes a call: the tool's arguments; may name `idempotency_key`, and `result`, the tool's result."""
    cost: Cost | None = None
    """USD: of a call, or a function of the tool's result."""
    cost_bound: float | None = None
    """USD that one call cannot pass; a `cost` that is a number is its own bound."""

    _made: dict[str, Any] = attrs.field(init=False, factory=dict, eq=False, repr=False)

    @name.validator
    def _check_name(self, _: object, name: str) -> None:
        check_name(name, "tool")

    def __attrs_post_init__(self) -> None:
        self._check_functions()
        for name, kind in (("side_effect", SideEffect), ("risk_level", RiskLevel), ("idempotency", Idempotency)):
            if getattr(self, name) not in get_args(kind):
                raise BadInput(
                    f"Tool {self.name} has the {name.replace('_', ' ')} {getattr(self, name)!r:.50}.",
                    hint="It is one of: " + ", ".join(get_args(kind)) + ".",
                )
        for name in ("approval_required", "sandbox_required"):
            if not isinstance(getattr(self, name), bool):
                raise BadInput(
                    f"Tool {self.name} has the {name} {getattr(self, name)!r:.50}.", hint="It is True or False."
                )
        for name, least, unit in (
            ("timeout", 0.001, "seconds"),
            ("settle_after", 0.0, "seconds"),
            ("approval_timeout", 0.001, "seconds"),
            ("cost_bound", 0.0, "US dollars"),
        ):
            value = getattr(self, name)
            if value is not None and not (type(value) in (int, float) and least <= value < 1e9):
                raise BadInput(f"Tool {self.name} has the {name} {value!r:.50}.", hint=f"It is a number of {unit}.")
        if not all(isinstance(one, type) and issubclass(one, BaseException) for one in self.outage):
            raise BadInput(f"Tool {self.name} names outages that are no classes of errors.")
        self._check_cost()
        for name in ("input", "output"):
            self._check_schema(name)

    def _check_functions(self) -> None:
        hooks = [self.verify, self.compensate]
        if not callable(self.function) or not all(hook is None or callable(hook) for hook in hooks):
            raise BadInput(f"Tool {self.name} needs functions: its own, and `verify` and `compensate` if it has them.")
        if self.idempotency == "key" and not shape_of(self.function).given:
            raise BadInput(
                f"Tool {self.name} says that the other side honours its idempotency key, but takes none.",
                hint=f"Give its function a parameter {KEY}, and send it.",
            )

    def _check_cost(self) -> None:
        cost, bound = self.cost, self.cost_bound
        if cost is None or callable(cost):
            return
        if type(cost) not in (int, float) or not 0 <= cost < 1e9:
            raise BadInput(
                f"Tool {self.name} has the cost {cost!r:.50}.", hint="It is US dollars, or a function of the result."
            )
        if bound is None:
            object.__setattr__(self, "cost_bound", cost)
        elif cost > bound:
            raise BadInput(
                f"Tool {self.name} costs {cost:g} USD a call, which is more than its bound of {bound:g} USD."
            )

    def _check_schema(self, which: str) -> None:
        given = getattr(self, f"_{which}_schema")
        if given is None:
            return
        try:
            schema = declared(given)
        except BadInput as error:
            raise BadInput(
                f"Tool {self.name} has an {which} schema that is {error.sentence}.",
                hint="It is an object of JSON Schema 2020-12, whole in itself.",
            ) from None
        kinds = schema.get("type", "object")
        if which == "input" and "object" not in ([kinds] if isinstance(kinds, str) else kinds):
            raise BadInput(f"Tool {self.name} has an input schema of another type than object, and arguments are one.")
        object.__setattr__(self, f"_{which}_schema", schema)

    @property
    def input_schema(self) -> Schema | None:
        """What arguments must fit, in JSON Schema 2020-12: as given, or as annotations say; None if they are silent."""
        return self._schema("input", self._input_schema, input_schema_of)

    @property
    def output_schema(self) -> Schema | None:
        """What its result must fit, as `input_schema` is."""
        return self._schema("output", self._output_schema, output_schema_of)

    def _schema(
        self, which: str, given: Schema | None, read: Callable[[Function], dict[str, Any] | None]
    ) -> Schema | None:
        if which not in self._made:
            self._made[which] = read(self.function) if given is None else given
        return cast("Schema | None", self._made[which])

    def _fit(self, which: str, schema: Schema) -> Fit:
        fit = self._made.get(f"{which} fit")
        if fit is None:
            fit = self._made[f"{which} fit"] = Fit(schema)
        return cast("Fit", fit)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise `BadInput` unless the tool can be called with these arguments, and its schema allows them.

        The sentence names places and rules, at most three, and holds nothing of a value.
        """
        shape, schema = shape_of(self.function), self.input_schema
        own = self._without_words(arguments, shape)
        if not shape.whole and not (shape.required <= own.keys() <= shape.names):
            self.bind(self.function, own, "")
        if schema is None:
            return
        if KEY in arguments and KEY in shape.given and not shape.whole:
            arguments = {name: value for name, value in arguments.items() if name != KEY}
        violations = self._fit("input", schema).violations(arguments if type(arguments) is dict else dict(arguments))
        if violations:
            raise BadInput(
                f"Tool {self.name} does not take these arguments: " + "; ".join(map(str, violations)) + ".",
                hint="Send what fits the tool's input schema; agentledger tools manifest shows it.",
                tool=self.name,
                violations=[{"place": one.place, "rule": one.rule} for one in violations],
            )

    def check_result(self, value: Any) -> None:
        """Raise `BadOutput` unless the tool's output schema allows `value`, plain data as it would be recorded."""
        schema = self.output_schema
        if schema is None:
            return
        violations = self._fit("output", schema).violations(value)
        if violations:
            raise BadOutput(
                f"Tool {self.name} returned what its output schema does not allow: "
                + "; ".join(map(str, violations))
                + "."
            )

    def bind(
        self, function: Function, arguments: Mapping[str, Any], key: str, *, result: Any = _ABSENT
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments to call `function` with; raises `BadInput` if they do not fit it.

        `function` is the tool's own, or a hook. With `result`, it is one that compensates, and is given that if it
        names it.
        """
        shape = shape_of(function, compensates=result is not _ABSENT)
        given = {name: key if name == KEY else result for name in shape.given}
        if shape.whole:
            return (dict(arguments),), given
        keywords = self._without_words(arguments, shape) | given
        if KEY in shape.given:
            keywords[KEY] = arguments.get(KEY, key)
        elif function is not self.function:  # a hook need not name the key that a caller gave to the tool
            keywords.pop(KEY, None)
        try:
            if not shape.fits(keywords):
                shape.signature.bind(**keywords)
        except TypeError as error:
            raise BadInput(
                f"Tool {self.name} cannot be called with {', '.join(sorted(arguments)) or 'no arguments'}: {error}.",
                hint=f"Its parameters are: {', '.join(shape.signature.parameters) or 'none'}.",
            ) from None
        return (), keywords

    def _without_words(self, arguments: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
        """The arguments that are for the function: what its schema declares for the runtime is not."""
        if _LOGICAL in arguments and _LOGICAL not in shape.names and not shape.whole:
            schema = self.input_schema or {}
            if _LOGICAL in schema.get("properties", ()):
                return {name: value for name, value in arguments.items() if name != _LOGICAL}
        return arguments if type(arguments) is dict else dict(arguments)


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    version: str = "1",
    side_effect: SideEffect = "none",
    description: str | None = None,
    verify: Function | None = None,
    timeout: float | None = None,
    retry: RetryPolicy | Mapping[str, Any] | int | None = None,
    settle_after: float = 0.0,
    outage: tuple[type[BaseException], ...] = (),
    input_schema: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    risk_level: RiskLevel = "low",
    idempotency: Idempotency = "none",
    approval_required: bool = False,
    approval_timeout: float | None = None,
    sandbox_required: bool = False,
    sandbox: Any = None,
    compensate: Function | None = None,
    cost: Cost | None = None,
    cost_bound: float | None = None,
) -> Callable[[F], F]: ...
def tool(
    function: Function | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "1",
    side_effect: SideEffect = "none",
    description: str | None = None,
    verify: Function | None = None,
    timeout: float | None = None,
    retry: RetryPolicy | Mapping[str, Any] | int | None = None,
    settle_after: float = 0.0,
    outage: tuple[type[BaseException], ...] = (),
    input_schema: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    risk_level: RiskLevel = "low",
    idempotency: Idempotency = "none",
    approval_required: bool = False,
    approval_timeout: float | None = None,
    sandbox_required: bool = False,
    sandbox: Any = None,
    compensate: Function | None = None,
    cost: Cost | None = None,
    cost_bound: float | None = None,
) -> Any:
    """Declare a function a tool; it stays callable as it was. `retry` is a policy, or a number of attempts.

    Raises `BadInput`.
    """
    if type(retry) is int:
        retry = RetryPolicy(max_attempts=retry)
    policy = None if retry is None else policy_of(retry)  # type: ignore[arg-type]  # an int is a policy by now

    def declare(function: F) -> F:
        if isinstance(function, (staticmethod, classmethod)):
            raise BadInput("A tool was declared above @staticmethod or @classmethod.", hint="Write @tool below it.")
        spec = ToolSpec(
            name=name or name_of(function),
            function=function,
            version=version,
            side_effect=side_effect,
            description=description_of(function) if description is None else description,
            verify=verify,
            timeout=timeout,
            retry=policy,
            settle_after=settle_after,
            outage=tuple(outage),
            input_schema=input_schema,
            output_schema=output_schema,
            risk_level=risk_level,
            idempotency=idempotency,
            approval_required=approval_required,
            approval_timeout=approval_timeout,
            sandbox_required=sandbox_required,
            sandbox=sandbox,
            compensate=compensate,
            cost=cost,
            cost_bound=cost_bound,
        )
        try:
            function.__agentledger_tool__ = spec  # type: ignore[attr-defined]
        except (AttributeError, TypeError):  # a bound method, say: something that can be named stands for it
            function = cast("F", functools.partial(function))
            function.__agentledger_tool__ = spec  # type: ignore[attr-defined]
        return function

    return declare(function) if function is not None else declare


def spec_of(declared: ToolSpec | Function) -> ToolSpec:
    """The spec of a tool, however it is given; a plain function is one without outside effects."""
    if isinstance(declared, ToolSpec):
        return declared
    layer: Any = declared
    while True:
        found = getattr(layer, "__agentledger_tool__", None)
        if isinstance(found, ToolSpec):
            return found if found.function is declared else _as_declared(found, declared)
        if not isinstance(layer, functools.partial):
            break
        layer = layer.func
    if not callable(declared):
        raise BadInput(f"{declared!r:.100} is no tool.", hint="Pass a function decorated with @tool, or a ToolSpec.")
    return ToolSpec(name=name_of(declared), function=declared, description=description_of(declared))


def _as_declared(spec: ToolSpec, function: Function) -> ToolSpec:
    """The spec of a tool that is given as something made of it: a method of an object, a partial, a wrapper."""
    hooks = {name: getattr(spec, name) for name in ("verify", "compensate", "cost")}
    owner = getattr(innermost(function), "__self__", None)
    if owner is not None:  # hooks that are methods of the same class are those of the same object
        kind = owner if isinstance(owner, type) else type(owner)
        for name, hook in hooks.items():
            label = getattr(hook, "__name__", "")
            if label and inspect.getattr_static(kind, label, None) is hook:
                hooks[name] = getattr(owner, label)
    fixed = _fixed(function)
    for name in ("verify", "compensate"):
        if fixed and hooks[name] is not None:
            known = shape_of(hooks[name]).signature.parameters.keys() & fixed.keys()
            if known:  # the same arguments: what is fixed for the tool is fixed for its hooks
                hooks[name] = functools.partial(hooks[name], **{one: fixed[one] for one in known})
    return attrs.evolve(spec, function=function, **hooks)


def _fixed(function: Function) -> dict[str, Any]:
    """What partials have fixed, by name."""
    fixed: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        try:
            found = inspect.signature(function.func).bind_partial(*function.args, **function.keywords)
        except (TypeError, ValueError) as error:
            raise BadInput(f"The partial of {name_of(function)} fixes what it does not take: {error}.") from None
        fixed = {**found.arguments, **fixed}
        function = function.func
    return fixed
