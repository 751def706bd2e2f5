"""The process that holds a tool of the executor `process`: it starts it, and sees to it that all of it ends.

    python -I -S -B -c LOADER keeper.py INSIDE REQUEST ANSWER LIFE STATUS OWNER UID LIMIT DIRECTORY PATH...

Rules: it forks while it is alone and has read nothing of the tool's. It is the reaper of all that the tool starts,
however that left its session; it ends when the tool's process ends, when `LIFE` ends, when its owner dies, or after
`LIMIT` seconds, and not before everything is dead. As root it keeps its rights and the tool has a user of its own, so
the tool cannot end it, and is ended at one stroke. It imports no more than it must.
"""

# ruff: noqa: PLC0415, S102, S606 - as `inside`; programs are run by themselves

from __future__ import annotations

import ctypes
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_PDEATHSIG, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 36, 38  # linux/prctl.h
_KILL, _STOP = 9, 19
_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> NoReturn:
    """Hold one tool."""
    inside, directory = arguments[0], arguments[8]
    request, answer, life, status, owner, uid, limit = map(int, arguments[1:8])
    for fd in (life, status):
        os.set_inheritable(fd, False)
    watched = os.pidfd_open(owner)
    if os.getppid() != owner:  # it died before it could be watched
        os._exit(1)
    _prctl(_SUBREAPER, 1)
    _prctl(_DUMPABLE, 0)
    os.mkdir(directory, 0o700)
    if uid >= 0:
        os.chown(directory, uid, uid)
    keeper = os.getpid()
    tool = os.fork()
    if tool == 0:
        for fd in (life, status, watched):
            os.close(fd)
        _become(uid, keeper, directory)
        _run(inside, request, answer, arguments[9:])
    _say(status, "held")
    os.close(request)
    os.close(answer)
    _wait([life, watched, os.pidfd_open(tool)], limit)
    ended = _end_all(tool, uid)
    _remove(directory)
    _say(status, ended)
    os._exit(0)


def _become(uid: int, keeper: int, directory: str) -> None:
    """Be the tool's process: another session and, as root, another user; nothing is gained by what it may execute."""
    os.setsid()
    os.chdir(directory)
    if uid >= 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_NO_NEW_PRIVILEGES, 1)
    _prctl(_DUMPABLE, 1)
    _prctl(_PDEATHSIG, _KILL)
    if os.getppid() != keeper:
        os._exit(1)


def _run(inside: str, request: int, answer: int, path: list[str]) -> NoReturn:
    from _frozen_importlib_external import SourceFileLoader

    code = SourceFileLoader("inside", inside).get_code("inside")
    assert code is not None
    names: dict[str, Any] = {"__name__": "inside"}
    exec(code, names)
    try:
        names["main"](request, answer, path)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _say(status: int, words: str) -> None:
    try:
        os.write(status, f"{words}\n".encode())
    except OSError:  # nobody listens any more
        pass


def _wait(fds: list[int], seconds: int) -> None:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    poll.poll(seconds * 1000)


def _end_all(tool: int, uid: int) -> str:
    """Kill all that is below this process; says how the tool's process ended: `exit N` or `signal N`.

    All that the tool started becomes a child of this process when its own parent dies: no child, nothing left.
    """
    ended = ""
    while True:
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == tool:
                    ended = _words(found[1])
        except ChildProcessError:
            return ended
        if uid >= 0:
            _kill_all_of(uid)
        else:
            _kill_below()
        select.select([], [], [], 0.001)


def _words(how: int) -> str:
    code = os.waitstatus_to_exitcode(how)
    return f"exit {code}" if code >= 0 else f"signal {-code}"


def _kill_all_of(uid: int) -> None:
    """Kill every process of a user, at one stroke: the kernel lets none fork meanwhile."""
    killer = os.fork()
    if killer == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, _KILL)
        finally:
            os._exit(0)
    os.waitpid(killer, 0)


def _kill_below() -> None:
    """Stop all that is below this process, until there is nothing new, and kill it: what is stopped does not fork."""
    stopped: set[int] = set()
    while new := set(_below()) - stopped:
        for pid in new:
            _signal(pid, _STOP)
        stopped |= new
    for pid in stopped:
        _signal(pid, _KILL)


def _below() -> list[int]:
    """The processes below this one: a chain of parents leads from each to here."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def _remove(directory: str) -> None:
    """Remove the tool's directory: by programs that go as deep as they must, and also where it forbade it."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError:
            _do([*command, "--", directory])


def _do(command: list[str]) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.execvp(command[0], command)
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"prctl {option}")


if __name__ == "__main__":
    main(sys.argv[2:])
