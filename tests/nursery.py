"""A process that has imported everything and forks a child for every order: a real process to kill, in 10 ms.

`python tests/nursery.py` reads JSON lines `{"root", "target", "run_id", "failpoint", "env"}` and answers each with
`{"code", "out"}`, the child's exit code (negative for a signal). It opens no ledger itself and has one thread.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

from ledger_core import failpoints
from ledger_core.runtime import target
from ledger_core.runtime.runtime import Runtime


def child(order: dict) -> None:
    os.environ.update(order.get("env", {}))
    failpoints.arm(str(order.get("failpoint", "")), order.get("trace", ""))
    spec = target.load(order["target"])
    with Runtime.local(order["root"]) as runtime:
        result = runtime.run(spec, run_id=order["run_id"])
        result.raise_for_status()


def main() -> None:
    sys.path.insert(0, os.getcwd())
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.dup2(writing, 2)
            os.dup2(writing, 1)
            code = 0
            try:
                child(order)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"code": code, "out": said}), flush=True)


if __name__ == "__main__":
    main()
