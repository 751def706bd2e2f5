"""Tools that the tests of sandboxes run: some that behave, and some that try whatever they can.

Rules: the standard library only, and that where it is used: each sandboxed call imports this file. Nothing here harms a
machine whose sandbox does not hold: bombs have a size, and what outlives its tool ends by itself.
"""

from __future__ import annotations

import os
import sys
import time
from functools import wraps

from ledger_core.errors import NoEffect, Unavailable

LONGEST = 60
"""Seconds after which anything ends by itself."""


def echo(value=None, *rest, **named):
    return [value, list(rest), named]


def nothing():
    return None


async def later(value):
    import asyncio

    await asyncio.sleep(0.001)
    return value


def logged(function):
    @wraps(function)
    def wrapper(*args, **kwargs):
        return ["wrapped", function(*args, **kwargs)]

    return wrapper


@logged
def decorated(value):
    return value


class Box:
    @staticmethod
    def put(value):
        return ["put", value]

    @classmethod
    def make(cls, value):
        return [cls.__name__, value]

    def hold(self, value):
        return value


class Odd(KeyError, OSError):
    def __str__(self):
        raise RuntimeError("no words")


def fail(kind, message="because"):
    kinds = {"key": KeyError, "none": NoEffect, "away": Unavailable, "leave": SystemExit, "value": ValueError}
    raise kinds[kind](message)


def fail_oddly():
    raise Odd


def give_object():
    return {"deep": [object()]}


def give(size):
    return "x" * size


def give_deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def leave(code):
    os._exit(code)


def die(number):
    os.kill(os.getpid(), number)


def write_answer(text):
    """Write to every descriptor that is a pipe, as the answer, and go on as if nothing had been."""
    for fd in range(3, 4096):  # whoever starts us may have many open, and the pipes keep their numbers
        try:
            os.write(fd, text)
        except OSError:
            continue
    return "written"


def write_for_ever():
    """Write what begins as an answer, without end."""
    os.set_blocking(1, True)
    write_answer(b"=" + (1 << 19).to_bytes(8, "big"))
    while True:
        write_answer(b"\x01" * 4096)


def close_all():
    """Close every descriptor, and stay."""
    os.closerange(3, 256)
    time.sleep(LONGEST)


def answer_and_stay():
    """Give an answer by itself, and never end."""
    write_answer(b"=" + (2).to_bytes(8, "big") + b"\xa1x")
    time.sleep(LONGEST)


def stay(path=None):
    """Ignore every signal that can be ignored, and never end; a file says that it is under way."""
    import signal

    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            continue
    if path is not None:
        with open(path, "w") as file:
            file.write("here")
    print("here", flush=True)
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        time.sleep(0.05)


def daemonize(mark):
    """Leave a process behind in a session of its own, whose command line has a mark; says that it is there."""
    read, write = os.pipe()  # closed by exec: then it runs
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", mark])
        os._exit(0)
    os.close(write)
    os.wait()
    os.read(read, 1)
    return any(mark.encode() in line for line in _command_lines())


def daemonize_and_stay(mark):
    daemonize(mark)
    stay()


def _command_lines():
    """Of every process that is to be seen."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                found.append(file.read())
        except OSError:  # it has just ended
            continue
    return found


def bomb_memory(size):
    return len(bytearray(size))


def bomb_memory_together(kids, size):
    """Take memory in processes each of which takes little."""
    for _ in range(kids):
        if os.fork() == 0:
            taken = bytearray(os.urandom(1 << 20) * (size >> 20))
            time.sleep(LONGEST)
            os._exit(len(taken) & 1)
    time.sleep(LONGEST)


def bomb_forks(most):
    """Fork as often as it goes, up to a number, every process in a session of its own; gives how many there were."""
    kids = 1
    for _ in range(most):
        if os.fork() == 0:
            os.setsid()
            time.sleep(LONGEST)
            os._exit(0)
        kids += 1
    return kids


def bomb_threads(most):
    import threading

    for _ in range(most):
        threading.Thread(target=time.sleep, args=(LONGEST,), daemon=True).start()
    return most


def fill(size, path="filled"):
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return os.path.getsize(path)


def say(text, error=""):
    print(text)
    print(error, file=sys.stderr)
    os.write(1, b"\xff\xfe raw\n")


def say_much(size):
    for _ in range(size >> 10):
        os.write(1, b"y" * 1024)
    return size


def around():
    """What a process knows of itself."""
    import resource

    return {
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "entries": os.listdir("."),
        "descriptors": sorted(_target(fd) for fd in os.listdir("/proc/self/fd")),
        "uid": os.getuid(),
        "groups": os.getgroups(),
        "session": os.getsid(0) == os.getpid(),
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "stdin": sys.stdin.read(),
    }


def _target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
    except OSError:
        return ""


def try_all(*attempts):
    """What comes of each attempt, `[name, argument…]`: True if it got through, else the error's name."""
    found = []
    for name, *arguments in attempts:
        try:
            globals()[name](*arguments)
            found.append(True)
        except Exception as error:
            found.append(type(error).__name__)
    return found


def read_some(path):
    with open(path, "rb") as file:
        assert file.read(100)


def see(path):
    assert os.listdir(path)


def write(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))


def remove(path):
    os.remove(path)


def link(target, path):
    os.symlink(target, path)
    with open(path, "w") as file:
        file.write("through")


def move(path):
    os.rename(path, path + ".moved")


def mode(path):
    os.chmod(path, 0o777)


def call(host, port):
    import socket

    with socket.create_connection((host, port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(100)


def send(host, port):
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((host, port))
        client.send(b"hello")


def connect(path):
    import socket

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def connect_datagram(path):
    """Use one end of a pair, which may be made, to send to another address."""
    import socket

    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"hello", path)


def open_family(family):
    import socket

    socket.socket(family, socket.SOCK_STREAM).close()


def kill_parent():
    """Kill the process that started this one, and stay."""
    os.kill(os.getppid(), 9)
    time.sleep(LONGEST)


def signal_process(pid):
    os.kill(pid, 0)


def system_call(number, *arguments):
    """Make a system call by its number; an error of the kernel is raised."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *[ctypes.c_long(one) for one in arguments]) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def umount(path):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(path.encode(), 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def call_in_32_bits():
    """Ask for the process id as a 32-bit program does: `mov eax, 20; int 0x80; ret`."""
    import ctypes
    import mmap

    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


def run_true():
    import subprocess

    return subprocess.run(["true"], check=False).returncode


def become_root():
    os.setuid(0)


def run_setuid():
    import subprocess

    assert "uid=0" in subprocess.run(["su", "-c", "id"], capture_output=True, text=True, check=True).stdout


def processes():
    return len(_command_lines())


def host_name():
    return os.uname().nodename


def nap(seconds):
    time.sleep(seconds)
    return "rested"


def dig(levels):
    """Make a directory in a directory in a directory; gives the first."""
    top = os.getcwd()
    for level in range(levels):
        os.mkdir(f"level-{level:060}")
        os.chdir(f"level-{level:060}")
        with open("file", "w") as file:
            file.write("here")
        os.chmod("file", 0)
    return top


def dig_and_stay():
    print(dig(3), flush=True)
    time.sleep(LONGEST)
