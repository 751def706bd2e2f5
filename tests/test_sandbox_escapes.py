"""What a tool in bubblewrap cannot do: reach the network, the host's files, processes and secrets, or the kernel."""

from __future__ import annotations

import os
import platform
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import needs
import pytest
from suites import captives

from ledger_core.governance.sandbox import Sandboxes, SandboxPolicy, SandboxStopped, SandboxUnavailable, ToolRaised
from ledger_core.governance.sandbox import filter as calls
from ledger_core.governance.sandbox.policy import within
from ledger_core.governance.sandbox.view import view

_NUMBERS = {"x86_64": calls.MACHINES["x86_64"][1], "aarch64": calls.MACHINES["aarch64"][1]}


@pytest.fixture(autouse=True)
def _bubblewrap() -> None:
    needs.bubblewrap()


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that anyone may read and write, outside /tmp."""
    import shutil
    import tempfile

    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    made.chmod(0o777)
    (made / "words").write_text("words of the host")
    (made / "words").chmod(0o666)
    yield made
    shutil.rmtree(made)


def attempts(*those: Any, hide: Any = (), **policy: Any) -> list[Any]:
    """What comes of attempts in a sandbox: True, or the error's name."""
    plan = Sandboxes.of(hide=hide).plan("tool", SandboxPolicy(time=30, **policy))
    found: list[Any] = plan.run(captives.try_all, those, {})[0]
    return found


@contextmanager
def server() -> Iterator[int]:
    """An HTTP server on loopback; gives its port."""

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hello) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http.server_address[1]
        http.shutdown()
        thread.join()


# The network


def test_there_is_no_network_but_with_leave():
    """A server on loopback is reached by a tool that may use the network, and by no other."""
    with server() as port:
        reach = [["call", "127.0.0.1", port], ["call", "localhost", port]]

        assert attempts(*reach, network=True) == [True, True]
        assert attempts(*reach) == ["ConnectionRefusedError", "ConnectionRefusedError"]
    assert attempts(["send", "192.0.2.1", 53], ["call", "192.0.2.1", 80]) == ["OSError", "OSError"]


@pytest.mark.parametrize("network", [False, True])
def test_no_unix_socket_of_the_host_can_be_reached(outside, network):
    """Neither a socket's file, nor an abstract name, nor by a datagram, not even where there is a network."""
    names = [str(outside / "stream"), "\0agentledger-test", str(outside / "datagram")]
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as three:
            for server, name in zip((one, two, three), names):
                server.bind(name)
            one.listen()
            two.listen()
            for name in (names[0], names[2]):
                os.chmod(name, 0o777)
            captives.connect(names[0])
            captives.connect(names[1])
            captives.connect_datagram(names[2])
            found = attempts(
                ["connect", names[0]], ["connect", names[1]], ["connect_datagram", names[2]], network=network
            )

    assert found == ["PermissionError"] * 3


def test_families_without_a_namespace_are_closed():
    """Sockets of a family that network namespaces do not hold (vsock, packet, Bluetooth) cannot be opened."""
    families = [one for one in (17, 31, 40, 38) if one in set(socket.AddressFamily)]

    assert attempts(*(["open_family", int(family)] for family in families), network=True) == ["PermissionError"] * len(
        families
    )


def test_what_asyncio_needs_works():
    """A loop, its threads and its subprocesses work in a sandbox: the filter lets connected pairs through."""
    plan = Sandboxes.of().plan("tool", None)

    assert plan.run(captives.later, (1,), {})[0] == 1
    assert plan.run(captives.bomb_threads, (5,), {})[0] == 5
    assert plan.run(captives.run_true, (), {})[0] == 0


# Files


def test_nothing_of_the_host_can_be_written(outside):
    """A file that anyone may write is read, and cannot be written, removed, renamed, linked or created beside."""
    words = str(outside / "words")

    assert attempts(["read_some", words]) == [True]
    assert set(
        attempts(
            ["write", words],
            ["write", str(outside / "new")],
            ["remove", words],
            ["move", words],
            ["mode", words],
            ["link", words, str(outside / "link")],
            ["write", "/new"],
            ["write", "/etc/new"],
            ["write", captives.__file__],
            ["write", "/dev/new"],
            ["write", "/run/new"],
            ["write", "/proc/sys/kernel/core_pattern"],
            ["write", "/sys/kernel/uevent_helper"],
        )
    ) <= {"OSError", "PermissionError", "FileNotFoundError"}
    assert (outside / "words").read_text() == "words of the host"
    assert sorted(os.listdir(outside)) == ["words"]


def test_a_link_in_its_own_directory_leads_nowhere_else(outside):
    """A symbolic link that a tool makes in its own /tmp is followed to what it may not write."""
    assert attempts(["link", str(outside / "words"), "/tmp/link"]) == ["OSError"]
    assert (outside / "words").read_text() == "words of the host"


def test_what_may_be_written_is_written_and_nothing_beside(outside):
    """A directory that the policy names is the host's own; a link in it leads to nothing that is not."""
    (outside / "in").mkdir()
    (outside / "in").chmod(0o777)
    found = attempts(
        ["write", str(outside / "in" / "new")],
        ["link", str(outside / "words"), str(outside / "in" / "link")],
        ["write", str(outside / "new")],
        ["write", str(outside / "in" / ".." / "new")],
        write=(str(outside / "in"),),
    )

    assert found == [True, "OSError", "OSError", "OSError"]
    assert sorted(os.listdir(outside / "in")) == ["link", "new"]
    assert (outside / "words").read_text() == "words of the host"


def test_only_what_is_named_can_be_read(outside):
    """With paths named, the rest of the root is not there; Python and the tool's module are."""
    (outside / "named").write_text("named")
    found = attempts(
        ["read_some", str(outside / "named")],
        ["read_some", str(outside / "words")],
        ["read_some", "/etc/passwd"],
        ["see", "/var"],
        ["see", "/home"],
        ["write", "/new"],
        ["write", str(outside / "named")],
        read=(str(outside / "named"),),
    )

    assert found[0] is True
    assert found[1:3] == ["FileNotFoundError"] * 2
    assert set(found[4:]) <= {"OSError", "FileNotFoundError", "PermissionError"}


def test_tmp_is_the_sandboxes_own(tmp_path):
    """What a tool writes to /tmp is not the host's, and gone with it; what the host has there is not seen."""
    mine = Path(f"/tmp/agentledger-test-{os.getpid()}")
    mine.write_text("mine of the host")
    mine.chmod(0o644)
    try:
        assert attempts(["read_some", str(mine)], ["write", "/tmp/theirs"], ["write", "/dev/shm/theirs"]) == [
            "FileNotFoundError",
            True,
            True,
        ]
        assert not Path("/tmp/theirs").exists()
        assert not Path("/dev/shm/theirs").exists()
        assert attempts(["see", "/tmp/theirs"]) == ["FileNotFoundError"]
    finally:
        mine.unlink()


def test_the_ledger_and_secrets_are_hidden(outside, monkeypatch):
    """What is hidden is neither read nor written, by its name, through a link, or from below; the same for secrets."""
    for name in ("ledger/keys/page", "home/.ssh/id", "home/.aws/credentials", "home/.config/token"):
        (outside / name).parent.mkdir(parents=True)
        (outside / name).write_text("secret")
    for name in ("home/.netrc", "home/free", "key"):
        (outside / name).write_text("secret")
    os.symlink(outside / "ledger", outside / "way")
    for path in outside.rglob("*"):
        path.chmod(0o777)
    monkeypatch.setenv("HOME", str(outside / "home"))
    paths = ["ledger/keys/page", "way/keys/page", "home/.ssh/id", "home/.aws/credentials", "home/.config/token"]
    paths += ["home/.netrc", "key", "home/../ledger/keys/page"]
    hide = [outside / "way", outside / "key"]

    found = attempts(*(["read_some", str(outside / path)] for path in [*paths, "home/free"]), hide=hide)
    assert found == ["FileNotFoundError"] * 5 + ["PermissionError"] * 2 + ["FileNotFoundError"] + [True]
    found = attempts(*(["write", str(outside / path)] for path in paths), hide=hide, write=(str(outside),))
    assert True not in found
    assert (outside / "ledger/keys/page").read_text() == "secret"
    found = attempts(["umount", str(outside / "ledger")], ["mode", str(outside / "ledger")], hide=hide)
    assert True not in found
    for path in ("ledger", "ledger/keys", "way/keys", "home/.ssh", "key"):
        for kind in ("read", "write"):
            with pytest.raises(SandboxUnavailable, match="hidden"):
                attempts(hide=hide, **{kind: (str(outside / path),)})


PROJECT = """
def look(path):
    import ledger_core, sys
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        return type(error).__name__
"""


def test_a_closed_project_is_open_to_its_tool_and_its_ledger_is_not(outside, monkeypatch):
    """A tool of root's that lies where others may not enter is found by its sandbox; what is hidden there stays so."""
    needs.root()
    project = outside / "closed/project"
    (project / "ledger").mkdir(parents=True)
    (project / "closed_project_tool.py").write_text(PROJECT)
    (project / "ledger/page").write_text("secret")
    (outside / "closed/other").write_text("other")
    monkeypatch.syspath_prepend(str(project))
    import closed_project_tool as tool

    for path in (project, project / "ledger", project / "ledger/page"):
        path.chmod(0o755)
    (outside / "closed").chmod(0o700)
    page, own, other = (str(outside / "closed" / one) for one in ("project/ledger/page", "project/x", "other"))
    os.link(project / "closed_project_tool.py", own)
    plan = Sandboxes.of(hide=[project / "ledger"]).plan("t", None)
    host = Sandboxes.of().plan("t", {"executor": "process", "network": True, "filesystem": "host"})

    assert [plan.run(tool.look, (path,), {})[0] for path in (page, other)] == ["FileNotFoundError"] * 2
    assert plan.run(tool.look, (own,), {})[0] == PROJECT.encode()
    assert [host.run(tool.look, (path,), {})[0] for path in (page, other)] == [b"secret", "FileNotFoundError"]
    project.chmod(0o700)
    assert plan.run(tool.look, (page,), {})[0] == "FileNotFoundError"
    (project / "closed_project_tool.py").chmod(0o600)
    with pytest.raises(SandboxStopped, match="ModuleNotFoundError|PermissionError") as found:
        plan.run(tool.look, (page,), {})
    assert found.value.reason == "startup"


def test_run_is_hidden():
    """Nothing of /run is seen, where the sockets of docker and its like are."""
    assert attempts(["see", "/run"]) == ["AssertionError"]


def test_the_roots_of_other_processes_are_closed(outside):
    """/proc shows the sandbox's processes only, and their roots and descriptors lead to nothing of the host's."""
    words = str(outside / "words")[1:]
    found = attempts(
        ["read_some", f"/proc/{os.getpid()}/environ"],
        ["see", f"/proc/{os.getpid()}/fd"],
        ["write", f"/proc/1/root/{words}"],
        ["write", f"/proc/self/root/{words}"],
        ["write", f"/proc/1/cwd/{words}"],
        ["see", f"/proc/1/root/{outside}/hidden"],
    )

    assert True not in found
    plan = Sandboxes.of().plan("tool", None)
    assert plan.run(captives.processes, (), {})[0] == 2
    assert plan.run(captives.host_name, (), {})[0] == "sandbox"


# Processes, rights, the kernel


def test_processes_of_the_host_cannot_be_touched():
    """Neither this process nor its parent is seen by number, signalled or traced."""
    number = _NUMBERS[platform.machine()]
    found = attempts(
        ["signal_process", os.getpid()],
        ["signal_process", os.getppid()],
        ["system_call", number["ptrace"], 16, os.getpid(), 0, 0],
        ["system_call", number["ptrace"], 0, 0, 0, 0],
        ["system_call", number["process_vm_readv"], os.getpid(), 0, 0, 0, 0, 0],
    )

    assert set(found) == {"ProcessLookupError", "PermissionError"}


def test_no_right_can_be_gained():
    """There is no becoming root, no new namespace, no mount, no key of the kernel's, no ring that opens sockets."""
    number = _NUMBERS[platform.machine()]
    new_user = 0x10000000
    found = attempts(
        ["system_call", number["unshare"], new_user],
        ["system_call", number["unshare"], 0x00020000],
        ["system_call", number["clone"], new_user | 17, 0, 0, 0, 0],
        ["system_call", number["setns"], 0, 0],
        ["system_call", number["mount"], 0, 0, 0, 0, 0],
        ["umount", "/tmp"],
        ["system_call", number["keyctl"], 0, -3, 0, 0, 0],
        ["system_call", number["add_key"], 0, 0, 0, 0, -3],
        ["system_call", number["io_uring_setup"], 1, 0],
        ["system_call", number["bpf"], 0, 0, 0],
        ["system_call", number["userfaultfd"], 0],
        ["system_call", number["perf_event_open"], 0, 0, 0, 0, 0],
        ["system_call", number["open_by_handle_at"], 0, 0, 0],
        ["system_call", number["pidfd_getfd"], 0, 0, 0],
        ["system_call", number["chroot"], 0],
    )

    assert found == ["PermissionError"] * len(found)
    assert attempts(["become_root"], ["system_call", number["clone3"], 0, 0]) == ["OSError", "OSError"]
    with pytest.raises(ToolRaised):
        Sandboxes.of().plan("tool", None).run(captives.run_setuid, (), {})


def test_another_machines_calls_end_the_process():
    """A call by the numbers of another table (32 bits, on x86-64) ends the tool: the filter does not know them."""
    if platform.machine() != "x86_64":
        pytest.skip("needs x86-64")
    with pytest.raises(SandboxStopped) as found:
        Sandboxes.of().plan("tool", None).run(captives.call_in_32_bits, (), {})

    assert found.value.reason == "killed"
    assert found.value.outcome.signal in (11, 31)


@pytest.mark.parametrize("machine", sorted(calls.MACHINES))
def test_the_filter_says_what_it_should(machine):
    """Run by a machine of its own for such programs, a filter lets through, refuses and ends as it is described."""
    arch, number = calls.MACHINES[machine]
    steps = [struct.unpack("<HBBI", part) for part in _parts(calls.program(machine) or b"")]

    def verdict(name: str | int, *arguments: int, on: int = arch) -> int:
        call = number[name] if isinstance(name, str) else name
        return _filtered(steps, struct.pack("<IIQ6Q", call, on, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6]))

    assert [verdict("socket", family) for family in (2, 10, 16)] == [calls.ALLOW] * 3
    assert {verdict("socket", family, 1) for family in (1, 17, 31, 40, 0, 1 << 16)} == {calls.EPERM}
    assert verdict("socketpair", 1, 1 | 0x80000 | 0x800) == calls.ALLOW
    assert {verdict("socketpair", 1, kind) for kind in (2, 5, 2 | 0x80000)} == {calls.EPERM}
    assert verdict("socketpair", 2, 1) == calls.EPERM
    assert verdict("clone", 0x01200011) == calls.ALLOW  # fork
    assert verdict("clone", 0x003D0F00) == calls.ALLOW  # a thread
    assert {verdict("clone", 1 << bit) for bit in (17, 25, 26, 27, 28, 29, 30)} == {calls.EPERM}
    assert verdict("clone3") == calls.ENOSYS
    looked_into = {"socket", "socketpair", "clone", "clone3"}
    assert {verdict(name) for name in set(number) - looked_into} == {calls.EPERM}
    assert {verdict(call) for call in (0, 1, 500, 1000) if call not in number.values()} == {calls.ALLOW}
    others = {one for one, _ in calls.MACHINES.values()} - {arch} | {0x40000003, 0}
    assert {verdict(0, on=other) for other in others} == {calls.KILL}
    if machine == "x86_64":
        assert {verdict(0x40000000 | call) for call in (0, 41)} == {calls.KILL}
    assert calls.program("riscv64") is None


def _parts(program: bytes) -> list[bytes]:
    return [program[at : at + 8] for at in range(0, len(program), 8)]


def _filtered(steps: list[Any], data: bytes) -> int:
    """What a program of classic BPF returns: the few instructions that the filter uses."""
    at = held = 0
    while True:
        code, true, false, operand = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x54:
            held &= operand
        elif code == 0x06:
            return int(operand)
        else:
            holds = {0x15: held == operand, 0x35: held >= operand, 0x45: bool(held & operand)}[code]
            at += true if holds else false


# The list of mounts


def kinds(**wanted: Any) -> dict[str, str]:
    given: dict[str, Any] = {"read": None, "write": (), "needs": ()} | wanted
    return {mount.path: mount.kind for mount in view(**given)}


def test_masks_stand_on_what_is_shown_and_holes_on_masks(outside):
    """Mounts come in the order of depth; a mask of what nobody sees is left out; a path is taken with its links."""
    (outside / "project/.agentledger").mkdir(parents=True)
    os.symlink(outside / "project", outside / "link")
    hidden = str(outside / "project/.agentledger")

    shown = kinds(hide=[hidden, "/nowhere"], needs=[str(outside / "link")])
    assert (shown["/"], shown[hidden], shown["/tmp"]) == ("ro", "mask", "private")
    assert str(outside / "project") not in shown
    paths = [mount.path for mount in view(read=None, write=[str(outside)], needs=(), hide=[hidden])]
    assert paths.index(str(outside)) < paths.index(hidden)
    named = kinds(read=[str(outside / "link")], hide=[hidden])
    assert (named["/"], named[str(outside / "project")], named[hidden]) == ("mask", "ro", "mask")
    assert named[str(outside / "link")] == "link"
    both = kinds(read=[str(outside / "project")], write=[str(outside)])
    assert (both[str(outside)], str(outside / "project") in both) == ("rw", False)
    assert hidden not in kinds(read=["/usr"], hide=[hidden])


def test_what_is_not_there_or_not_to_be_had_is_refused(outside):
    """A path that is asked for must be there, and must not be what a sandbox has of its own."""
    for path in (str(outside / "missing"), "/proc", "/dev/null", "/run"):
        with pytest.raises(SandboxUnavailable):
            kinds(read=[path])
    assert kinds(write=["/tmp"])["/tmp"] == "private"
    os.symlink(outside / "loop", outside / "loop")
    with pytest.raises(SandboxUnavailable, match="not there"):
        kinds(read=[str(outside / "loop")])


def test_a_closed_directory_is_a_mask_with_a_hole(outside):
    """For another user a directory that others may not enter is a mask, and what is needed in it a hole."""
    (outside / "closed/open/deep").mkdir(parents=True)
    (outside / "closed").chmod(0o700)
    needed = str(outside / "closed/open")

    found = kinds(needs=[needed], foreign=True)
    assert (found[str(outside / "closed")], found[needed]) == ("mask", "ro")
    assert needed not in kinds(needs=[needed])
    (outside / "closed/open").chmod(0o700)
    assert needed not in kinds(needs=[needed], foreign=True)
    with pytest.raises(SandboxUnavailable, match="others may not"):
        kinds(read=[needed], foreign=True)
    with pytest.raises(SandboxUnavailable, match="others may not"):
        kinds(write=["/etc"], foreign=True)


@pytest.mark.parametrize("name", ["a", "z"])
def test_what_came_with_its_directory_is_not_put_again(outside, name):
    """A link or file that is needed, in a directory that is needed as well, comes with that, whichever was first."""
    (outside / "closed/open").mkdir(parents=True)
    (outside / "closed/open/python3.11").touch()
    os.symlink("python3.11", outside / "closed/open/python3")
    os.symlink(outside / "closed/open/python3", outside / name)
    (outside / "closed").chmod(0o700)

    found = kinds(needs=[str(outside / name), str(outside / "closed/open")], foreign=True)
    assert found[str(outside / "closed/open")] == "ro"
    assert [path for path in found if within(path, str(outside / "closed/open"))] == [str(outside / "closed/open")]
    alone = kinds(needs=[str(outside / name)], foreign=True)
    assert alone[str(outside / "closed/open/python3")] == "link"
