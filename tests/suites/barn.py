"""Worker processes that are quick to make: a process that has imported the agents, and forks a worker for every order.

`python tests/suites/barn.py FILE` reads JSON lines and answers each. It opens no ledger itself and has one thread, so
that a fork of it is as good as a new process. A worker writes its log and its errors to the file `<said>`, stops at
SIGTERM, and is anybody's to kill: its pid stays its own until the barn was asked who is dead.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()


class Barn:
    """Makes workers, and says which have ended; ends what is left when it is closed."""

    def __init__(self, agents: Path, **environment: str) -> None:
        path = os.pathsep.join([str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE), str(agents)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        self._alive: set[int] = set()
        self._codes: dict[int, int] = {}

    def start(
        self,
        root: Path,
        said: Path,
        *names: str,
        lease: float = 2.0,
        failpoint: str = "",
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> int:
        """Start a worker that serves the agents of these names (all, without any); returns its pid.

        At a failpoint it kills itself; `options` are those of `Runtime.worker`.
        """
        order = {"root": str(root), "said": str(said), "names": names, "lease": lease, "options": options}
        order |= {"failpoint": failpoint, "env": dict(env or {})}
        pid = int(self._ask(order)["pid"])
        self._alive.add(pid)
        return pid

    def dead(self) -> dict[int, int]:
        """Exit codes of the workers that have ended since it was asked last; negative for a signal."""
        found = {int(pid): code for pid, code in self._ask({"dead": True})["dead"].items()}
        self._alive -= found.keys()
        self._codes |= found
        return found

    def code(self, pid: int, seconds: float = 30.0) -> int:
        """Exit code of a worker that is to end."""
        end = time.monotonic() + seconds
        while pid not in self._codes:
            assert time.monotonic() < end, "the worker did not end"
            time.sleep(0.01)
            self.dead()
        return self._codes[pid]

    def kill_all(self) -> None:
        """Kill what still runs, and wait until it is gone."""
        for pid in list(self._alive):
            if pid in self._alive:
                os.kill(pid, signal.SIGKILL)
                self.code(pid)

    def close(self) -> None:
        """Kill what still runs, and end."""
        self.kill_all()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _work(order: dict[str, Any], specs: dict[str, Any]) -> None:
    from ledger_core import failpoints
    from ledger_core.runtime.runtime import Runtime

    os.environ.update(order["env"])
    failpoints.arm(order["failpoint"])
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    with Runtime.local(order["root"], lease=order["lease"]) as runtime:
        served = [specs[name] for name in order["names"] or specs]
        worker = runtime.worker(*served, **order["options"])
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        print(f"worker {worker.worker_id}", flush=True)
        worker.run()
    print("ended", flush=True)


def main() -> None:
    from ledger_core.runtime.agent import AgentSpec
    from ledger_core.runtime.target import _from_file

    module = _from_file(Path(sys.argv[1]))
    found = [getattr(value, "__agentledger_agent__", None) for value in vars(module).values()]
    specs = {spec.name: spec for spec in found if isinstance(spec, AgentSpec)}
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "dead" in order:
            ended = {}
            for pid in list(children):
                gone, status = os.waitpid(pid, os.WNOHANG)
                if gone:
                    children.discard(pid)
                    ended[pid] = os.waitstatus_to_exitcode(status)
            print(json.dumps({"dead": ended}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            code = 0
            try:
                _work(order, specs)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        children.add(pid)
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    main()
