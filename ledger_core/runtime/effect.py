"""What all effects share: the same steps for a fresh run, a recovery and a replay, in a loop or in a thread.

Rules: an intent is compared with the journal before anything else. What the code is given is always
`decode(encode(value))`, or a failure of a type name and a message, so that live and replayed cannot differ. Outcomes
are recorded, and then given to the code in the order in which they were drafted. Values that answer at the call itself
are here as well. This file does not know tools, models, waits, loops, threads, or who owns the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import attrs

from ledger_core import chain, codec, secret
from ledger_core.errors import (
    ApprovalDenied,
    BadInput,
    BudgetExceeded,
    EffectFailed,
    PermissionDenied,
    SandboxFailed,
    ToolFailed,
)
from ledger_core.events import Body
from ledger_core.events.effect import EffectAbandoned, ValueCaptured
from ledger_core.events.step import CodePatched, StatePatchProposed
from ledger_core.governance.policy import InForce
from ledger_core.governance.prices import NO_PRICES, Prices
from ledger_core.governance.sandbox import Sandboxes, ToolRaised
from ledger_core.governance.tool import ToolSpec
from ledger_core.run import decide
from ledger_core.run.divergence import Divergence
from ledger_core.run.journal import Entry, Intent, Standing
from ledger_core.run.state import RunState
from ledger_core.runtime.agent import Provider
from ledger_core.runtime.driver import Driver, StepStopped
from ledger_core.runtime.liveness import Life
from ledger_core.runtime.recorder import Bodies, Family, First, Recorder

LONGEST_MESSAGE: Final = 10_000
Place = tuple[str, str | None]
"""An effect's path, and the line of agent code that asked for it."""
_F = TypeVar("_F", bound=EffectFailed)
_REFUSALS: Final[Mapping[str, type[EffectFailed]]] = {
    "policy": PermissionDenied,
    "approval": ApprovalDenied,
    "budget": BudgetExceeded,
    "sandbox": SandboxFailed,
}
"""What the code is told of an effect that was refused, by who refused it."""


@attrs.frozen(kw_only=True)
class Surroundings:
    """What effects ask of the runtime around them."""

    life: Callable[[str], Life] = lambda _: "gone"
    """Whether a worker lives."""
    under_way: set[tuple[str, str, int]] = attrs.field(factory=set)
    """Outside writes that functions of this process are making: run, path, attempt."""
    known: Callable[[Any], Any] = lambda declared: declared
    """The spec of an agent that is to be spawned, or its name where only others know it."""
    spawned: Callable[[str], None] = lambda _: None
    """Told of every child run."""
    policy: InForce = attrs.field(factory=lambda: InForce.of(None))
    """What decides whether a tool may be called."""
    adopted: set[bytes] = attrs.field(factory=set)
    """Digests of the policies whose texts stand in the log."""
    sandboxes: Sandboxes = attrs.field(factory=lambda: Sandboxes.of(None))
    """Where tools run that are not to run here."""
    prices: Prices = NO_PRICES
    """What models cost."""


class Effects:
    """The effects of one step, carried by a driver: what they share, and values."""

    def __init__(
        self,
        *,
        driver: Driver,
        recorder: Recorder | None,
        tag: Callable[[bytes], bytes],
        tools: Mapping[str, ToolSpec],
        model: Callable[[str], Provider],
        seed: bytes,
        lineage_seed: bytes,
        surroundings: Surroundings,
    ) -> None:
        self.driver = driver
        self._recorder = recorder
        self._tag = tag
        self._tools = tools
        self._model = model
        self._seed = seed
        self._lineage_seed = lineage_seed
        self._around = surroundings
        self._unpatched: set[str] = set()
        self._begun_ns = time.monotonic_ns()
        self._told_ns = 0
        """How much of its work the budgets were told."""

    # Values that answer at the call itself

    def value(self, place: Place, source: Literal["now", "capture"], name: str, make: Callable[[], Any]) -> Any:
        """A local value, recorded once; what `make` raises is recorded as well, and raised as `ToolFailed`."""
        intent = Intent(path=place[0], kind=source, name=name, request=b"", line=place[1])
        entry = self._immediate(intent)
        if entry is not None:
            return replayed(entry, ToolFailed)
        error_type = None
        try:
            value = secret.plain(make())
        except Exception as error:  # the function's outcome, as for tools; also a value that cannot be stored
            error_type, value = normalised(error)
        captured = ValueCaptured(path=place[0], source=source, name=name, error_type=error_type, value=value)
        self._ride(captured)
        if error_type is not None:
            raise failure(ToolFailed(name, error_type, value), place[0])
        return codec.roundtrip(value)

    def patch(self, place: Place, patch: dict[str, Any]) -> dict[str, Any]:
        """A proposed change of the state; returns it as it is recorded."""
        self._check_open()
        plain: dict[str, Any] = secret.plain(patch)
        tag = self._tag(codec.canonical_trusted(plain))
        intent = Intent(path=place[0], kind="patch", name="", request=tag, document=plain, line=place[1])
        if self._immediate(intent) is None:
            self._ride(StatePatchProposed(path=place[0], request=tag, patch=plain))
        return dict(codec.roundtrip(plain))

    def derived(self, path: str, purpose: str) -> bytes:
        """32 bytes that depend on the run's seed and the path alone: randomness that needs no event."""
        self._check_open()
        return chain.tag(self._lineage_seed, f"{purpose}:{path}".encode())

    def patched(self, name: str) -> bool:
        """Whether a deliberate change of the code is in force: in new work yes, in what was recorded without it no."""
        self._check_open()
        journal = self.driver.journal
        if name in journal.patched or name in self._unpatched:
            return name in journal.patched
        if self._recorder is None or not journal.all_requested:
            self._unpatched.add(name)
            return False
        journal.patched.add(name)
        self._ride(CodePatched(step=self._state.step, name=name))
        return True

    def heartbeat(self) -> None:
        """Stop the code here if its worker has lost the step, or the run is to end."""
        self._check_open()
        if self._recorder is not None:
            try:
                self._recorder.look(begins=True)
            except Exception as error:
                raise self._stopped(error) from error

    # What all effects share

    @property
    def compares(self) -> bool:
        """Whether there is a record that what is asked for may differ from."""
        return self._recorder is None or not self.driver.journal.exhausted

    @property
    def _state(self) -> RunState:
        assert self._recorder is not None
        return self._recorder.state

    def _now_ns(self) -> int:
        assert self._recorder is not None
        return self._recorder.log.clock.now_ns()

    def _worked_ns(self) -> int:
        """For how long the step has worked, and not only waited, since the budgets were told."""
        return max(0, time.monotonic_ns() - self._begun_ns - self.driver.idle_ns - self._told_ns)

    def _check_open(self) -> None:
        if self.driver.closed:
            raise StepStopped("The step has ended or was stopped: its context can no longer be used.")

    def _intent(self, place: Place, kind: str, name: str, document: Any) -> Intent:
        if secret.VAULT.armed and secret.VAULT.holds(name.encode()):
            raise BadInput(f"The name of a {kind} holds a secret.", hint="Names are kept in clear: leave secrets out.")
        tag = self._tag(codec.canonical_trusted([kind, name, document]))
        path = self.driver.journal.placed(place[0], kind, name)
        return Intent(path=path, kind=kind, name=name, request=tag, document=document, line=place[1])

    def _compared(self, intent: Intent) -> Entry | None:
        """The intent's entry; stops the step if another effect is recorded there."""
        found = self.driver.journal.request(intent)
        if isinstance(found, Divergence):
            self.driver.stop(found)
            return None
        return found

    async def _turn(self, intent: Intent, entry: Entry | None) -> Entry | None:
        """The intent's entry when it is its turn: final if its outcome is recorded."""
        if entry is not None and entry.final and self.driver.journal.kept(entry):
            return entry
        released = await self.driver.turn(intent)
        if released is None and self._recorder is None:
            raise self._stopped(self._beyond(intent, entry))
        return released or entry

    def _beyond(self, intent: Intent, entry: Entry | None) -> Any:
        """Why nothing can be live here: the record ends."""
        del entry
        return self.driver.journal.beyond(intent)

    def _immediate(self, intent: Intent) -> Entry | None:
        """The entry of an effect that answers at the call; None if it is live, and may be."""
        self._check_open()
        found = self._compared(intent)
        if self.driver.stopped is None and found is None and not self.driver.journal.all_requested:
            self.driver.stop(self.driver.journal.stuck(ended=False))
        elif found is None and self._recorder is None:
            self.driver.stop(self.driver.journal.beyond(intent))
        if self.driver.stopped is not None:
            raise StepStopped
        return found

    def _stopped(self, why: Any) -> StepStopped:
        self.driver.stop(why)
        return StepStopped()

    def _abandoned(self, intent: Intent) -> None:
        """The code stopped waiting for an effect: recorded, because what it does next depends on it."""
        if not self.driver.journal.give_up(intent.path) and not self.compares:
            self._ride(EffectAbandoned(path=intent.path))

    def _ride(self, body: Body) -> None:
        assert self._recorder is not None
        self._recorder.ride(body)
        if self._recorder.overdue and self.driver.journal.exhausted:
            self.driver.flush_soon(self._recorder)

    def _begin(self, body: Body) -> None:
        """Have an intent ride, unless the run is to end."""
        assert self._recorder is not None
        try:
            self._recorder.look(begins=True)
        except Exception as error:
            raise self._stopped(error) from error
        self._ride(body)

    def _flush(self) -> None:
        """Have intents of waits in the log before nobody may be here: people look for them."""
        assert self._recorder is not None
        if self._recorder.riders:
            self.driver.flush_soon(self._recorder)

    async def _append(
        self, bodies: Bodies, *, begins: bool = False, first: First | None = None, family: Family | None = None
    ) -> None:
        """Put bodies into the log, durably; stops the step where it may not."""
        assert self._recorder is not None
        try:
            await self.driver.commit(self._recorder, bodies, begins=begins, first=first, family=family)
        except decide.Settled:
            raise
        except Exception as error:  # fenced, cancelled, no room, unknown: the code may not go on, and learns nothing
            raise self._stopped(error) from error

    async def _outcome(self, *bodies: Body, durable: bool) -> None:
        """Record an outcome, the last of `bodies`, and wait until it is the code's turn to have it."""
        turn = self.driver.drafted()
        if durable:
            try:
                await self._append(lambda *_: bodies)
            except decide.Settled:
                await self.driver.deliver(turn)
                raise
            self.driver.nudge()  # what it held is there for those that wait
        else:
            for body in bodies:
                self._ride(body)
        await self.driver.deliver(turn)

    async def _until(self, path: str, wake_ns: int) -> None:
        """Wait for a time; the step may be suspended meanwhile."""
        while self._now_ns() < wake_ns:
            await self.driver.park(path, wake_ns)

    def _key(self, path: str) -> str:
        """The default idempotency key: two calls are two effects."""
        return chain.tag(self._seed, f"key:{path}".encode()).hex()[:32]


def normalised(error: BaseException) -> tuple[str, str]:
    """An error as a type name and a message, without secrets: what replays, unlike objects and stack traces."""
    if isinstance(error, (EffectFailed, ToolRaised)):
        return secret.VAULT.clean_text(error.error_type), secret.VAULT.clean_text(error.message)
    try:
        text = str(error)
    except Exception as worse:  # an error's own __str__ is the user's code
        text = f"<its text cannot be had: {type(worse).__name__}>"
    text = secret.VAULT.clean_text(text.encode(errors="backslashreplace").decode())
    return type(error).__name__, text[:LONGEST_MESSAGE]


def failure(error: _F, path: str) -> _F:
    """A failed effect's error, which knows whose it is."""
    error.path = path
    return error


def replayed(entry: Entry, kind: type[EffectFailed]) -> Any:
    """A recorded outcome, as the code is given it."""
    if entry.standing is Standing.FAILED:
        kind = _REFUSALS.get(entry.refusal or "", kind)
        raise failure(kind(entry.intent.name, entry.error_type or "Error", str(entry.value)), entry.intent.path)
    return entry.value


def error_types(error: BaseException) -> tuple[str, ...]:
    """Names of an error's classes: what rules of a retry policy name."""
    if isinstance(error, EffectFailed):
        return (error.error_type, type(error).__name__)
    if isinstance(error, ToolRaised):
        return tuple(error.types)
    return tuple(one.__name__ for one in type(error).__mro__ if one not in (object, BaseException))
