"""System calls that a sandbox does not let through, as a program for the kernel (seccomp, classic BPF).

Rules: pure. What is forbidden fails with EPERM (`clone3` with ENOSYS, so that the C library asks again with `clone`,
which can be looked into); a call of another machine's table ends the process. Forbidden are:

- Unix sockets other than connected pairs, which asyncio needs: a socket's file can be connected to through a read-only
  mount, and an abstract name through a shared network. Families that no network namespace holds (vsock) as well.
- new namespaces and mounts, tracing, reading other processes, kernel keys, BPF, performance counters, `io_uring` (which
  opens sockets of its own), and whatever loads, reboots or configures.

Only machines whose table stands here have a filter. Numbers: the kernel's `syscall_64.tbl` and `asm-generic/unistd.h`.
"""

from __future__ import annotations

import struct
from typing import Final

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_BITS: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN: Final = 0x06
ALLOW: Final = 0x7FFF0000
KILL: Final = 0x80000000
_ERROR: Final = 0x00050000
EPERM: Final = _ERROR | 1
ENOSYS: Final = _ERROR | 38
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24  # places in `struct seccomp_data`; little-endian machines only
_NEW_NAMESPACES: Final = 0x7E020080  # CLONE_NEW{USER,PID,NET,IPC,UTS,CGROUP,NS,TIME}
_FAMILIES: Final = (2, 10, 16)  # AF_INET, AF_INET6, AF_NETLINK: all that a network namespace holds and a program needs
_AF_UNIX, _SOCK_STREAM, _KIND = 1, 1, 0xF

MACHINES: Final = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "socketpair": 53, "clone": 56, "clone3": 435,
            "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161,
            "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
            "mount_setattr": 442, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
            "pidfd_getfd": 438, "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321,
            "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426,
            "io_uring_register": 427, "init_module": 175, "finit_module": 313, "delete_module": 176,
            "kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163,
            "quotactl": 179, "syslog": 103, "open_by_handle_at": 304, "name_to_handle_at": 303, "iopl": 172,
            "ioperm": 173, "settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "socketpair": 199, "clone": 220, "clone3": 435,
            "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
            "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
            "mount_setattr": 442, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
            "pidfd_getfd": 438, "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280,
            "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "io_uring_enter": 426,
            "io_uring_register": 427, "init_module": 105, "finit_module": 273, "delete_module": 106,
            "kexec_load": 104, "kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89,
            "quotactl": 60, "syslog": 116, "open_by_handle_at": 265, "name_to_handle_at": 264,
            "settimeofday": 170, "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266,
        },
    ),
}  # fmt: skip
"""By machine: the number of its calling convention, and of each call."""
_X32: Final = 0x40000000
_LOOKED_INTO: Final = ("socket", "socketpair", "clone", "clone3")

Step = tuple[int, int, int, int]
"""A BPF instruction: code, jump if true, jump if false, operand."""


def program(machine: str) -> bytes | None:
    """The filter for a machine, as `uname -m` calls it; None where there is none."""
    known = MACHINES.get(machine)
    if known is None:
        return None
    return b"".join(struct.pack("<HBBI", *step) for step in steps(*known))


def steps(arch: int, calls: dict[str, int]) -> list[Step]:
    """The instructions of a filter; every part falls through to the next, and each refusal stands where it is made."""
    made: list[Step] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, KILL), (_LOAD, 0, 0, _NUMBER)]
    if arch == MACHINES["x86_64"][0]:
        made += [(_LEAST, 0, 1, _X32), (_RETURN, 0, 0, KILL)]
    for name, number in calls.items():
        if name not in _LOOKED_INTO:
            made += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, EPERM)]
    made += [(_EQUAL, 0, 1, calls["clone3"]), (_RETURN, 0, 0, ENOSYS)]
    made += _looked_into(calls["clone"], [(_LOAD, 0, 0, _FIRST), (_BITS, 0, 1, _NEW_NAMESPACES)], refused=True)
    families: list[Step] = [(_LOAD, 0, 0, _FIRST)]
    for left, family in zip(range(len(_FAMILIES) - 1, -1, -1), _FAMILIES, strict=True):
        families.append((_EQUAL, left, 1 if not left else 0, family))
    made += _looked_into(calls["socket"], families, refused=False)
    pair: list[Step] = [
        (_LOAD, 0, 0, _FIRST),
        (_EQUAL, 0, 4, _AF_UNIX),
        (_LOAD, 0, 0, _SECOND),
        (_AND, 0, 0, _KIND),
        (_EQUAL, 0, 1, _SOCK_STREAM),
    ]
    made += _looked_into(calls["socketpair"], pair, refused=False)
    return [*made, (_RETURN, 0, 0, ALLOW)]


def _looked_into(number: int, test: list[Step], *, refused: bool) -> list[Step]:
    """A call whose arguments decide: a test that holds falls out at its end, one that does not a step behind it."""
    held, failed = (EPERM, ALLOW) if refused else (ALLOW, EPERM)
    body = [*test, (_RETURN, 0, 0, held), (_RETURN, 0, 0, failed)]
    return [(_EQUAL, 0, len(body), number), *body]
