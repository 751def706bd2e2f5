"""What runs in a sandbox, before and around the tool's function: a program of its own in a bare interpreter.

    python -I -S -B -c LOADER inside.py REQUEST-FD ANSWER-FD PATH...     where each PATH becomes one of `sys.path`

    request   8 bytes of length (big-endian), then canonical MessagePack: target, args, kwargs, environment, limits,
              output; and one byte when the answer has been taken
    answer    "R" ready; "B" the function is called now; then one of "=" its result, "!" what it raised, "?" what kept
              it from being called (each with 8 bytes of length and MessagePack), "M" no memory, "O" result too large

Rules: it starts fast, so it imports nothing but `os`, `sys`, `resource` and the codec. Limits hold before a line of the
user's is run. What the tool prints goes where stderr goes; the answer has a pipe of its own. Having answered it waits
to be looked at, and ends with `os._exit`: nothing of the tool's keeps it alive. It does
not defend the answer against the tool, which runs in the same process: whoever reads it trusts nothing of it.
"""

# ruff: noqa: PLC0415, S102, S110 - imports cost each call; the tool's file is run on purpose; so is what it left

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

NO_MEMORY = b"M"
_SITES = ("site-packages", "dist-packages")


def main(request_fd: int, answer_fd: int, path: list[str]) -> NoReturn:
    """Read a request, call what it names, and answer."""
    os.set_inheritable(request_fd, False)
    os.set_inheritable(answer_fd, False)
    sys.path[:] = path
    from ledger_core import codec

    _send(answer_fd, b"R")
    head = _read(request_fd, 8)
    document = _read(request_fd, int.from_bytes(head, "big")) if head else None
    if document is not None:  # else its sender went away
        _send(answer_fd, serve(codec.decode(document), answer_fd))
        _read(request_fd, 1)
    os._exit(0)


def serve(request: dict[str, Any], answer_fd: int) -> bytes:
    """Call the function that a request names, within its limits; gives the answer."""
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = [""]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    try:
        limit(request["limits"])
        function = find(*request["target"])
    except BaseException as error:
        return _report(b"?", error)
    _send(answer_fd, b"B")
    try:
        value = function(*request["args"], **request["kwargs"])
        if hasattr(value, "__await__"):
            value = _awaited(value)
        payload: bytes = sys.modules["ledger_core.codec"].encode(value)
        answer = b"O" if len(payload) > request["output"] else _framed(b"=", payload)
    except MemoryError:
        answer = NO_MEMORY
    except BaseException as error:
        answer = _report(b"!", error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass
    return answer


def limit(limits: dict[str, int]) -> None:
    """Set this process's limits, and those of what it starts: for good, where it is not root."""
    import resource

    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        bounded = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bounded, bounded))


def find(file: str | None, module: str, qualname: str, wrappers: int) -> Any:
    """The function of that name in a file or a module, with so many wrappers taken off."""
    found: Any = _module(module) if file is None else _from_file(file, module)
    for name in qualname.split("."):
        found = getattr(found, name)
    for _ in range(wrappers):
        found = found.__wrapped__
    return found


def _from_file(path: str, name: str) -> ModuleType:
    from _frozen_importlib_external import SourceFileLoader

    module = type(sys)(name)
    module.__file__ = path
    module.__agentledger_file__ = True  # type: ignore[attr-defined]
    sys.modules[name] = module
    code = SourceFileLoader(name, path).get_code(name)
    assert code is not None
    exec(code, vars(module))
    return module


def _module(name: str) -> ModuleType:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        import site  # installed for editing, by a hook that only `site` knows: slower, so not for everyone

        for path in [path for path in sys.path if path.endswith(_SITES)]:
            site.addsitedir(path)
        __import__(name)
    return sys.modules[name]


def _awaited(value: Any) -> Any:
    import asyncio

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())


def _report(kind: bytes, error: BaseException) -> bytes:
    """What an exception says of itself, in plain data; whatever its class may do when it is asked."""
    try:
        message = str(error)
    except BaseException as worse:
        message = f"<its text cannot be had: {type(worse).__name__}>"
    try:
        errors = sys.modules["ledger_core.errors"]
        said = {
            "error_type": type(error).__name__[:200],
            "message": message[:10_000].encode(errors="backslashreplace").decode(),
            "types": [one.__name__[:200] for one in type(error).__mro__ if one is not object][:64],
            "no_effect": isinstance(error, errors.NoEffect),
            "unavailable": isinstance(error, errors.Unavailable),
            "errno": error.errno if isinstance(error, OSError) and type(error.errno) is int else 0,
        }
        return _framed(kind, sys.modules["ledger_core.codec"].encode(said))
    except MemoryError:
        return NO_MEMORY


def _framed(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(8, "big") + payload


def _read(fd: int, size: int) -> bytes | None:
    """So many bytes; None if they end before."""
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _send(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 20]) :]


if __name__ == "__main__":
    main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
