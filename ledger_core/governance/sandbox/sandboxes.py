"""The sandboxes of a runtime: executors by name, the configuration, and plans for the calls of tools.

Rules: fail closed. A plan names one executor that was found to keep what the policy demands, or there is no plan: no
other executor takes the place of one that is disabled, missing or too weak. The configuration makes a tool's policy
tighter, never looser. Secrets of this machine, and what the runtime adds (its ledger), are hidden from every sandbox.
This file does not know how an executor works.
"""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Final

import attrs

from ledger_core.governance.sandbox.built_in import built_in
from ledger_core.governance.sandbox.config import LATER, Configuration, read_configuration
from ledger_core.governance.sandbox.ending import Outcome, SandboxUnavailable
from ledger_core.governance.sandbox.executor import Executor, Stop
from ledger_core.governance.sandbox.naming import job_of
from ledger_core.governance.sandbox.policy import DEFAULT, SandboxPolicy, policy_of
from ledger_core.ids import Hash

_AT_HOME: Final = (
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".config",
    ".netrc",
    ".pgpass",
    ".my.cnf",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".boto",
    ".s3cfg",
    ".vault-token",
    ".terraform.d",
    ".password-store",
    ".local/share/keyrings",
    ".mozilla",
    ".thunderbird",
    ".m2/settings.xml",
    ".gem/credentials",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".bash_history",
    ".zsh_history",
    ".python_history",
)
_ANYWHERE: Final = (
    "/run",
    "/var/run",
    "/var/run/docker.sock",
    "/var/lib/docker",
    "/var/lib/kubelet",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
)


@attrs.frozen(kw_only=True)
class Sandboxes:
    """Named executors, and what the configuration says of them."""

    executors: Mapping[str, Executor] = attrs.field(factory=built_in)
    configuration: Configuration = attrs.field(factory=Configuration)
    hide: tuple[str, ...] = ()
    """What this runtime hides from every sandbox: its ledger."""

    @classmethod
    def of(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any] | Sandboxes | None = None,
        *,
        hide: Iterable[str | os.PathLike[str]] = (),
        executors: Iterable[Executor] = (),
    ) -> Sandboxes:
        """Sandboxes as a file, a mapping or nothing configures them, with further executors; raises `BadInput`."""
        hidden = tuple(os.path.abspath(path) for path in hide)
        if isinstance(config, Sandboxes):
            more = {one.name: one for one in executors}
            return attrs.evolve(config, hide=config.hide + hidden, executors={**config.executors, **more})
        known: dict[str, Executor] = {**built_in(), **{one.name: one for one in executors}}
        configuration = Configuration() if config is None else read_configuration(config, known)
        return cls(executors=known, configuration=configuration, hide=hidden)

    def enabled(self, name: str) -> bool:
        """Whether the configuration lets an executor be used."""
        return name not in self.configuration.disabled

    def policy(self, tool: str, asked: SandboxPolicy | Mapping[str, Any] | None) -> SandboxPolicy:
        """What a tool is allowed: what it asks for, with the configuration's limits and rules. Raises `BadInput`.

        A field of a `SandboxPolicy` that stands at its default says nothing, and gets the configuration's limit.
        """
        limits = self.configuration.limits
        if isinstance(asked, SandboxPolicy):
            unsaid = {name: value for name, value in limits.items() if getattr(asked, name) == getattr(DEFAULT, name)}
            policy = attrs.evolve(asked, **unsaid)
        else:
            policy = policy_of(
                asked if asked is not None and not isinstance(asked, Mapping) else {**limits, **(asked or {})}
            )
        for pattern, rule in self.configuration.tools:
            if fnmatchcase(tool, pattern):
                policy = policy.tightened(rule)
        return policy

    def plan(self, tool_name: str, asked: SandboxPolicy | Mapping[str, Any] | None) -> Plan:
        """How a tool is run; raises `SandboxUnavailable` if it cannot be kept here as it must, and `BadInput`."""
        policy = self.policy(tool_name, asked)
        name = policy.executor or self.configuration.default
        executor = self.executors.get(name)
        if not self.enabled(name):
            raise SandboxUnavailable(
                f"Tool {tool_name} is to run in the executor {name}, which the configuration disables.",
                hint=f"Enable it in the sandbox configuration: executors: {{{name}: {{enabled: true}}}}.",
            )
        if executor is None:
            later = (
                f"The executor {name} comes later, as an adapter." if name in LATER else f"There is no executor {name}."
            )
            raise SandboxUnavailable(later, hint=f"There are: {', '.join(sorted(self.executors))}.")
        executor.check(policy)
        hide = (*_secrets(), *self.configuration.hide, *self.hide)
        return Plan(tool=tool_name, executor=executor, policy=attrs.evolve(policy, executor=name), hide=hide)


@attrs.frozen(kw_only=True)
class Plan:
    """How a tool's calls are run: by whom, and under which policy. Safe from any thread, many at once."""

    tool: str
    executor: Executor
    policy: SandboxPolicy
    hide: tuple[str, ...] = ()
    _running: set[Stop] = attrs.field(factory=set, init=False, eq=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, eq=False, repr=False)

    @property
    def digest(self) -> Hash:
        """32 bytes that are the same for the same executor and policy."""
        return self.policy.digest

    def run(
        self,
        function: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        *,
        timeout: float | None = None,
    ) -> tuple[Any, Outcome]:
        """Call a function in a sandbox: its result, and how the sandbox ended. Blocks, for `timeout` seconds at most.

        Raises `NoEffect` and `Unavailable` as the tool raised them, `ToolRaised` for all else that it raised,
        `SandboxStopped` when it was ended, `SandboxUnavailable` and `BadInput` when nothing ran.
        """
        job = job_of(function, args, dict(kwargs), hide=self.hide)
        seconds = self.policy.time if timeout is None else max(0.0, min(self.policy.time, timeout))
        with self._stoppable() as stop:
            ending = self.executor.run(self.policy, job, seconds=seconds, stop=stop)
        return ending.result(self.tool), ending.outcome

    def kill(self) -> None:
        """End every call of this plan that is under way: each raises `SandboxStopped`, with the reason `killed`."""
        with self._lock:
            for stop in self._running:
                stop.set()

    @contextmanager
    def _stoppable(self) -> Iterator[Stop]:
        try:
            stop = Stop()
        except OSError as error:
            raise SandboxUnavailable(f"No sandbox can be started: {error}.") from None
        with self._lock:
            self._running.add(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._running.discard(stop)
            stop.close()


def _secrets() -> list[str]:
    """Where this machine and its user keep what no tool is to read."""
    homes = {"/root", os.path.expanduser("~")}
    try:
        homes.add(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        pass
    return [*_ANYWHERE, *(f"{home}/{name}" for home in sorted(homes) for name in _AT_HOME)]
