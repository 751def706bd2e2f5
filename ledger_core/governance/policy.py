"""The policy in force: what an agent may do, decided at the boundary before it happens.

Rules: everything that was given decides together, and the strictest decision counts. A file is read again when it has
changed; one that is gone, unreadable or no longer a policy denies, and says so. An outside engine that fails, does not
answer, or answers what nobody understands, denies. Where nothing was given the built-in policy decides; where only
outside engines were given, they alone. This file does not know what rules mean, nor who calls tools.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from ledger_core.chain import NO_HASH
from ledger_core.clock import NS
from ledger_core.errors import BadInput, LedgerError
from ledger_core.events.govern import Verdict
from ledger_core.governance import policy_file
from ledger_core.governance.policy_document import parse_policy
from ledger_core.governance.policy_file import load_policy
from ledger_core.governance.policy_reading import shown
from ledger_core.governance.policy_rule import (
    RISKS,
    VERDICTS,
    Asked,
    Decision,
    Policy,
    Risk,
    Trace,
    combined,
    digest_of,
    strictest,
)

__all__ = [
    "DEFAULT",
    "RISKS",
    "VERDICTS",
    "Asked",
    "Decision",
    "InForce",
    "Policy",
    "Risk",
    "Trace",
    "Verdict",
    "load_policy",
    "parse_policy",
    "strictest",
]

Hook = Callable[[Asked], Any]
"""An outside engine: is given what is asked, and answers what `InForce.of_hook` understands; sync or async."""
Source = str | os.PathLike[str] | Policy | Mapping[str, Any] | Hook

DEFAULT: Final = parse_policy({"version": 1, "name": "built in"})
"""Low and medium risk are allowed, high and critical denied."""
_ENGINES_ONLY: Final = parse_policy(
    {"version": 1, "name": "engines decide", "defaults": {"high": "allow", "critical": "allow"}}
)
_YOUNG_NS: Final = NS // 10
"""A file changed so short ago may change again without its times doing so: its bytes are compared each time."""
_LONGEST_REASON: Final = 1_000
_LONGEST_RULE: Final = 128


class _File:
    """A policy file, as it is now. Threads may use one at once: they read the file twice at worst."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        raw, signature = policy_file.read(self.path)
        self._seen: tuple[Any, bytes, Policy | LedgerError] = (None, raw, policy_file.policy_of(raw, self.path))
        self._keep(signature, raw, self._seen[2])

    def now(self) -> Policy:
        """The policy that the file is; raises `LedgerError`."""
        try:
            found = policy_file.signature(os.stat(self.path))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise BadInput(f"{self.path} cannot be read: {why}.") from None
        signature, raw, held = self._seen
        if found != signature:
            fresh, found = policy_file.read(self.path)
            if fresh != raw:
                raw = fresh
                try:
                    held = policy_file.policy_of(raw, self.path)
                except LedgerError as error:
                    held = error
            self._keep(found, raw, held)
        if isinstance(held, Policy):
            return held
        raise held

    def _keep(self, signature: Any, raw: bytes, held: Policy | LedgerError) -> None:
        young = time.time_ns() - max(signature[:2]) < _YOUNG_NS
        self._seen = (None if young else signature, raw, held)


class InForce:
    """The policies that decide now, and the outside engines that are asked beside them."""

    def __init__(self, policies: Sequence[Policy | _File], hooks: Sequence[Hook]) -> None:
        self._policies = tuple(policies)
        self.hooks: tuple[Hook, ...] = tuple(hooks)

    @classmethod
    def of(cls, value: Source | InForce | Sequence[Source] | None) -> InForce:
        """What was given as a policy: nothing, a path, a `Policy`, a document, a callable, or several of these.

        Raises `BadInput` for a file or document that is no policy now.
        """
        if isinstance(value, InForce):
            return value
        several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        each = [] if value is None else list(cast(Sequence[Source], value)) if several else [value]
        policies: list[Policy | _File] = []
        hooks: list[Hook] = []
        for one in each:
            if isinstance(one, Policy):
                policies.append(one)
            elif isinstance(one, Mapping):
                policies.append(parse_policy(one))
            elif isinstance(one, (str, os.PathLike)):
                policies.append(_File(one))
            elif callable(one):
                hooks.append(one)
            else:
                hint = "Pass a path, a Policy, a dict, a callable that is asked, or a list of these."
                raise BadInput(f"{shown(one)} is no policy.", hint=hint)
        return cls(policies, hooks)

    @property
    def configured(self) -> bool:
        """Whether anything was given."""
        return bool(self._policies or self.hooks)

    def decide(self, asked: Asked) -> Decision:
        """What everything but the hooks decides; raises nothing. A file that is no policy now denies."""
        if not self._policies:
            return (_ENGINES_ONLY if self.hooks else DEFAULT).decide(asked)
        return strictest([self._decision(one, asked) for one in self._policies])

    def documents(self) -> dict[bytes, Any]:
        """What decides now, by every digest that a decision of it may carry, each a document of plain data.

        Policies, `{"hook": name}` for outside engines, and for those that decide together `{"all_of": …}`, which names
        the others' digests. A file that is no policy now is left out.
        """
        policies = []
        for one in self._policies or (_ENGINES_ONLY if self.hooks else DEFAULT,):
            try:
                policies.append(one if isinstance(one, Policy) else one.now())
            except LedgerError:
                continue
        found: dict[bytes, Any] = {one.digest: one.document for one in policies}
        together = [combined(list(found))] if found else []
        hooks = [{"hook": _storable(self.name_of(hook), _LONGEST_RULE)} for hook in self.hooks]
        for members in (list(found), [*together, *map(digest_of, hooks)]):
            if len(set(members)) > 1:
                found[combined(members)] = {"all_of": sorted({one.hex() for one in members})}
        return found | {digest_of(hook): hook for hook in hooks}

    @staticmethod
    def name_of(hook: Hook) -> str:
        """What an outside engine is called in decisions."""
        name = getattr(hook, "__qualname__", None) or type(hook).__qualname__
        return str(name)[:_LONGEST_RULE]

    @staticmethod
    def of_hook(answer: Any, hook_name: str) -> Decision:
        """What an outside engine decided: a `Decision`, True or False, a verdict, or a map with one.

        A map has a `verdict` (or `decision`), and may have `reason`, `rule`, `expires` and `sandbox`. Anything else
        denies.
        """
        if type(answer) is Decision:
            return answer
        if type(answer) is bool:
            answer = "allow" if answer else "deny"
        if type(answer) is str:
            answer = {"verdict": answer}
        try:
            return _from_map(dict(answer), hook_name)
        except Exception:
            if inspect.iscoroutine(answer):
                answer.close()
            return _of_hook(hook_name, "deny", reason=f"{hook_name} answered what is no verdict.")

    @staticmethod
    def failed(error: BaseException, hook_name: str) -> Decision:
        """What is decided where an outside engine failed or did not answer: no."""
        what = "did not answer in time" if isinstance(error, TimeoutError) else f"failed ({type(error).__name__})"
        return _of_hook(hook_name, "deny", reason=f"{hook_name} {what}, and what cannot be asked denies.")

    @staticmethod
    def _decision(source: Policy | _File, asked: Asked) -> Decision:
        if isinstance(source, Policy):
            return source.decide(asked)
        try:
            return source.now().decide(asked)
        except LedgerError as error:
            reason = f"There is no policy to decide by: {error.sentence}"
            why = _storable(reason, _LONGEST_REASON)
            return Decision(verdict="deny", rule="policy file", reason=why, policy=NO_HASH)


def _from_map(answer: dict[str, Any], hook_name: str) -> Decision:
    """The decision that a map is; raises anything for one that is none."""
    (verdict,) = {answer[key] for key in ("verdict", "decision") if key in answer}  # one, or two that agree
    if type(verdict) is bool:
        verdict = "allow" if verdict else "deny"
    sandbox, expires = answer.get("sandbox", False), answer.get("expires")
    if type(sandbox) is not bool or not (expires is None or (type(expires) in (int, float) and 0 < expires < 1e9)):
        raise BadInput(f"{hook_name} answered what is no decision.")
    rule = answer.get("rule")
    return _of_hook(
        hook_name,
        verdict,
        reason=str(answer.get("reason") or f"{hook_name} says {verdict}."),
        rule=rule if type(rule) is str else "",
        expires=None if expires is None else float(expires),
        sandbox=sandbox,
    )


def _of_hook(
    name: str, verdict: Verdict, *, reason: str, rule: str = "", expires: float | None = None, sandbox: bool = False
) -> Decision:
    name = _storable(name, _LONGEST_RULE)
    return Decision(
        verdict=verdict,
        rule=_storable(f"hook {name}: {rule}" if rule else f"hook {name}", _LONGEST_RULE),
        reason=_storable(reason, _LONGEST_REASON),
        policy=digest_of({"hook": name}),
        expires=expires,
        sandbox=sandbox,
    )


def _storable(text: str, longest: int) -> str:
    """Text of others, of a bounded length and without what UTF-8 cannot say."""
    return text[:longest].encode("utf-8", "replace").decode()
