"""What a policy is and decides: rules in their order, the first that matches; else the default of the tool's risk.

Rules: pure; a decision is a function of the policy and of what is asked. Each condition of a rule is met, not met, or
in doubt: an amount that is missing or no number, arguments that a schema cannot be held against. A rule in doubt
decides as strictly as both answers would: so a deny rule counts as matched, an allow rule as not matched, and an
approve rule neither opens what the rest denies nor lets pass what the rest allows. A missing role or session is no
doubt: it is known to be none. Reasons name arguments, and never quote their values. This file does not know files,
hooks, nor who calls tools.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, get_args

import attrs

from ledger_core import chain, codec
from ledger_core.errors import BadInput
from ledger_core.events.effect import SideEffect
from ledger_core.events.govern import Verdict
from ledger_core.governance.policy_reading import shown

Risk = Literal["low", "medium", "high", "critical"]
VERDICTS: Final[tuple[str, ...]] = get_args(Verdict)
RISKS: Final[tuple[str, ...]] = get_args(Risk)
SIDE_EFFECTS: Final[tuple[str, ...]] = get_args(SideEffect)
DEFAULTS: Final[Mapping[str, Verdict]] = {"low": "allow", "medium": "allow", "high": "deny", "critical": "deny"}
"""What is decided of a risk where neither a rule nor the policy's own defaults say something."""
_STRICTNESS: Final = {"allow": 0, "approve": 1, "deny": 2}

Met = tuple[bool | None, str]
"""Whether a condition is met, None in doubt, and why not."""


def _one_of(*known: str) -> Callable[[Any, Any, Any], None]:
    def check(_: Any, field: Any, value: Any) -> None:
        if value not in known:
            raise BadInput(f"{field.name} is {shown(value)}.", hint=f"It is one of: {', '.join(known)}.")

    return check


@attrs.frozen(kw_only=True)
class Asked:
    """A tool call, as a policy sees it before it happens."""

    agent: str
    role: str | None = None
    tool: str
    version: str = "1"
    risk_level: Risk = attrs.field(default="low", validator=_one_of(*RISKS))
    side_effect: SideEffect = attrs.field(default="none", validator=_one_of(*SIDE_EFFECTS))
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    run: str = ""
    session: str | None = None


@attrs.frozen(kw_only=True)
class Decision:
    """What was decided of a call, by which rule of which policy, and why."""

    verdict: Verdict = attrs.field(validator=_one_of(*VERDICTS))
    rule: str
    """The rule's name, `default: high risk`, `hook NAME`, or `policy file`."""
    reason: str
    policy: bytes
    """Digest of the policy, 32 bytes; zeros where none could be read."""
    expires: float | None = None
    """Seconds that an approval may take."""
    sandbox: bool = False
    """Whether the tool must run in a sandbox."""


@attrs.frozen(kw_only=True)
class Trace:
    """What became of one rule, or of the default, when a decision was made."""

    rule: str
    verdict: str
    matched: bool | None
    """None in doubt."""
    decides: bool
    """Whether the decision is this rule's."""
    why: str
    """What was not met, or could not be told; empty for a rule that matched."""


class Condition(Protocol):
    """One thing that a rule asks of a call."""

    def met(self, asked: Asked) -> Met: ...


@attrs.frozen
class Named:
    """Names that fit one of some patterns: `*` is any text, `?` one character, and the case counts."""

    field: str
    patterns: tuple[str, ...]
    _read: Callable[[Asked], str | None]
    _fits: re.Pattern[str]

    def met(self, asked: Asked) -> Met:
        value = self._read(asked)
        if value is not None and self._fits.match(value) is not None:
            return True, ""
        shown = "none" if value is None else value
        return False, f"{self.field} {', '.join(self.patterns)}: not {shown}"


_READ: Final[Mapping[str, Callable[[Asked], str | None]]] = {
    "tools": lambda asked: asked.tool,
    "versions": lambda asked: asked.version,
    "agents": lambda asked: asked.agent,
    "roles": lambda asked: asked.role,
    "sessions": lambda asked: asked.session,
    "risk": lambda asked: asked.risk_level,
    "side_effects": lambda asked: asked.side_effect,
}
NAMED: Final = tuple(_READ)
"""The fields of a rule that name what it is for, in the order in which they are asked."""


def named(field: str, patterns: Sequence[str]) -> Named:
    """The condition that a name fits one of the patterns; a bracket is a bracket."""
    regex = "|".join(fnmatch.translate(re.sub(r"\*+", "*", one).replace("[", "[[]")) for one in patterns)
    return Named(field, tuple(patterns), _READ[field], re.compile(regex))


@attrs.frozen(kw_only=True)
class Rule:
    """One rule: all its conditions are met, or it does not match."""

    name: str
    verdict: Verdict
    conditions: tuple[Condition, ...] = ()
    reason: str = ""
    expires: float | None = None
    sandbox: bool = False

    def met(self, asked: Asked) -> Met:
        """Whether the rule is for this call: False if one condition is not met, None if one is in doubt."""
        doubt = ""
        for condition in self.conditions:
            met, why = condition.met(asked)
            if met is False:
                return False, why
            if met is None:
                doubt = doubt or why
        return (None, doubt) if doubt else (True, "")

    def decision(self, policy: bytes, doubt: str = "") -> Decision:
        """What the rule decides."""
        reason = self.reason or f"Rule {self.name} says {self.verdict}."
        if doubt:
            reason = f"{reason} Whether the rule is for this call cannot be told: {doubt}."
        return Decision(
            verdict=self.verdict,
            rule=self.name,
            reason=reason,
            policy=policy,
            expires=self.expires,
            sandbox=self.sandbox,
        )


class Policy:
    """A policy: an immutable value. Two are equal if their documents are."""

    __slots__ = ("_document", "defaults", "digest", "name", "rules")

    def __init__(
        self, *, document: Mapping[str, Any], rules: Sequence[Rule], defaults: Mapping[str, Verdict], name: str = ""
    ) -> None:
        self._document = codec.stored(dict(document))
        self.digest: bytes = digest_of(dict(document))
        """32 bytes of the document's canonical encoding: spelling and comments do not change it, any rule does."""
        self.name = name
        self.rules = tuple(rules)
        self.defaults = {**DEFAULTS, **defaults}

    @property
    def document(self) -> dict[str, Any]:
        """The document, as plain data; a copy."""
        return dict(codec.decode_trusted(self._document))

    def decide(self, asked: Asked) -> Decision:
        """What may be done. Raises nothing, whatever the arguments are; the same for the same call."""
        doubtful: list[Decision] = []
        for rule in self.rules:
            met, why = rule.met(asked)
            if met is None:
                doubtful.append(rule.decision(self.digest, why))
            if met or (met is None and rule.verdict == "deny"):
                return strictest([*([rule.decision(self.digest)] if met else []), *doubtful])
        return strictest([self._default(asked), *doubtful])

    def explain(self, asked: Asked) -> list[Trace]:
        """What became of every rule, in their order, and of the default: also of those that are not reached."""
        decided = self.decide(asked).rule
        last = self._default(asked)
        met_by = [(rule.name, rule.verdict, *rule.met(asked)) for rule in self.rules]
        traces, reached = [], True
        for name, verdict, met, why in [*met_by, (last.rule, last.verdict, True, "")]:
            said = why
            if met is not False and name != decided and not reached:
                said = f"not reached: {decided} decides"
            elif met and name != decided:
                said = f"{decided} is in doubt, and stricter"
            traces.append(Trace(rule=name, verdict=verdict, matched=met, decides=name == decided, why=said))
            reached = reached and not (met or (met is None and verdict == "deny"))
        return traces

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Policy {self.name or 'without a name'}, {len(self.rules)} rules, {self.digest.hex()[:12]}>"

    def _default(self, asked: Asked) -> Decision:
        risk = asked.risk_level
        verdict = self.defaults[risk]
        word = "that needs approval" if verdict == "approve" else verdict
        reason = f"No rule is for this call, and of {risk} risk the default is {word}."
        return Decision(verdict=verdict, rule=f"default: {risk} risk", reason=reason, policy=self.digest)


def strictest(decisions: Sequence[Decision]) -> Decision:
    """One decision out of several: deny before approve before allow, and the first of equals says why.

    A sandbox if any asks for it, the shortest time that an approval may take, and the digest of them all: the one
    digest if they share it, else that of `{"all_of": …}` with the digests as hex, sorted, each once. Raises `BadInput`
    for none.
    """
    if not decisions:
        raise BadInput("There is no decision to take the strictest of.", hint="Ask a policy first.")
    first = max(decisions, key=lambda one: _STRICTNESS[one.verdict])
    if len(decisions) == 1:
        return first
    times = [one.expires for one in decisions if one.expires is not None]
    return attrs.evolve(
        first,
        policy=combined([one.policy for one in decisions]),
        expires=min(times, default=None) if first.verdict == "approve" else None,
        sandbox=any(one.sandbox for one in decisions),
    )


def combined(digests: Sequence[bytes]) -> bytes:
    """The digest of several policies that decide together, in whatever order."""
    each = sorted({digest.hex() for digest in digests})
    return digests[0] if len(each) == 1 else digest_of({"all_of": each})


def digest_of(document: Any) -> bytes:
    """The digest of a document of governance: BLAKE3 of its canonical encoding, in a domain of its own."""
    return chain.derive(codec.canonical(document), "policy")
