"""Deployment units: what is printed reads back as the command that was meant, whatever its words are."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentledger import BadInput
from cli.plans import KINDS, plan

ASKED = {
    "targets": ["agents.py:a"],
    "root": "/srv/ledger",
    "replicas": 3,
    "concurrency": 4,
    "capabilities": [],
    "lease_s": 30,
    "grace_s": 12.5,
}
COMMAND = ["agentledger", "--root", "/srv/ledger", "worker", "agents.py:a", "--concurrency", "4"]
COMMAND += ["--lease", "30", "--grace", "12.5"]
HOSTILE = [
    "a b",
    " a ",
    'a"b',
    "a'b",
    "a\\",
    "a\\n",
    "%i%%",
    "$HOME ${HOME} $(HOME) $$",
    ";",
    "#a",
    "a: b",
    "{{a}}",
    "&a *b !c",
    "\N{NO-BREAK SPACE}\N{ZERO WIDTH SPACE}\N{PILE OF POO}",
    "null",
    "`id`",
]


def _unit(text):
    """The settings of a unit file, each with its values."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        assert not line.endswith("\\")
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            continue
        name, _, value = line.partition("=")
        found.setdefault(f"{section}.{name}", []).append(value.strip(" \t"))
    return found


def _words(line, *, variables):
    """The words of a setting as systemd reads them: quotes, escapes, specifiers, variables."""
    words, at = [], 0
    while at < len(line):
        assert line[at] == '"'
        at, word = at + 1, ""
        while line[at] != '"':
            if line[at] == "\\":
                at += 1
                assert line[at] in '\\"'
            word += line[at]
            at += 1
        assert line[at + 1 : at + 2] in ("", " ")
        at += 2
        assert not re.search("%[^%]", re.sub("%%", "", word) + "-")
        word = word.replace("%%", "%")
        if variables and words:
            assert "$" not in word.replace("$$", "")
            word = word.replace("$$", "$")
        words.append(word)
    return words


def _compose_value(text):
    """A value of a compose file after its variables."""
    assert "$" not in text.replace("$$", "")
    return text.replace("$$", "$")


def _commands(**asked):
    """The command and the root that each kind of deployment comes to."""
    asked = {**ASKED, **asked}
    unit = _unit(plan("systemd", **asked)["agentledger-worker@.service"])
    (command,), (root, *_) = unit["Service.ExecStart"], unit["Service.ReadWritePaths"]
    yield _words(command, variables=True), *_words(root, variables=False)
    worker = yaml.safe_load(plan("compose", **asked)["compose.yaml"])["services"]["worker"]
    (volume,) = worker["volumes"]
    assert volume["source"] == volume["target"]
    yield [_compose_value(word) for word in worker["command"]], _compose_value(volume["source"])
    _, deployment = yaml.safe_load_all(plan("kubernetes", **asked)["kubernetes.yaml"])
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    yield [_compose_value(word) for word in container["command"]], container["volumeMounts"][0]["mountPath"]


def test_the_command_is_the_same_in_every_kind():
    """Every kind of deployment runs the one command, on the one directory."""
    assert [(COMMAND, "/srv/ledger")] * 3 == list(_commands())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_words(name):
    """Quotes, specifiers, variables, comments and invisible characters in names are nothing but names."""
    place = f"/srv/{name}".replace(":", "=")
    found = list(_commands(targets=[name, f"{name}.py"], capabilities=[name, "gpu"], root=place))

    assert len(found) == 3
    for command, root in found:
        assert place == root == command[2]
        assert [name, f"{name}.py"] == command[4:6]
        assert ["--capability", name, "--capability", "gpu"] == command[8:12]


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_name_is_refused_or_stays_a_word(target, directory):
    """Whatever text a target or a directory is: it is refused, or read back as it was."""
    root = f"/srv/{directory}"
    try:
        found = list(_commands(targets=[target], root=root))
    except BadInput:
        return

    assert {target} == {command[4] for command, _ in found}
    assert {re.sub("/+$", "", re.sub("(/[.]?)+(/|$)", "/", root))} == {path for _, path in found}


def test_systemd_starts_and_stops_as_many_workers_as_asked():
    """The target wants each worker; a worker is told by SIGTERM, has its grace, and comes back."""
    found = plan("systemd", **ASKED, directory="/srv/50% code")
    target, unit = _unit(found["agentledger-worker.target"]), _unit(found["agentledger-worker@.service"])

    assert [f"agentledger-worker@{number}.service" for number in (1, 2, 3)] == target["Unit.Wants"]
    assert ["agentledger-worker.target"] == unit["Unit.PartOf"]
    assert ["SIGTERM"] == unit["Service.KillSignal"]
    assert ["23"] == unit["Service.TimeoutStopSec"]
    assert ["always"] == unit["Service.Restart"]
    assert ["/srv/50%% code"] == unit["Service.WorkingDirectory"]
    assert ["yes", "strict", "yes"] == [
        unit[f"Service.{name}"][0] for name in ("NoNewPrivileges", "ProtectSystem", "PrivateTmp")
    ]


def test_systemd_does_not_hide_what_lies_in_tmp():
    """A ledger or code below /tmp is seen by its workers."""
    for change in ({"root": "/tmp/ledger"}, {"targets": ["/var/tmp/a.py"]}, {"directory": "/tmp"}):
        unit = _unit(plan("systemd", **{**ASKED, **change})["agentledger-worker@.service"])

        assert ["no"] == unit["Service.PrivateTmp"]
        assert "/tmp /var/tmp" in unit["Service.ReadWritePaths"]


def test_compose_has_one_host():
    """The workers of a compose file share the host's process ids, and have their grace."""
    text = plan("compose", **ASKED, image="${EVIL}", directory="/srv/code")["compose.yaml"]
    worker = yaml.safe_load(text)["services"]["worker"]

    assert "network file systems" in text
    assert ("host", 3, "SIGTERM", "23s", "always", "$${EVIL}", "/srv/code") == (
        worker["pid"],
        worker["deploy"]["replicas"],
        worker["stop_signal"],
        worker["stop_grace_period"],
        worker["restart"],
        worker["image"],
        worker["working_dir"],
    )


def test_kubernetes_has_one_node():
    """The pods of a deployment are drawn to one node, where they share the volume and the process ids."""
    text = plan("kubernetes", **ASKED)["kubernetes.yaml"]
    claim, deployment = yaml.safe_load_all(text)
    template = deployment["spec"]["template"]
    (rule,) = template["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]

    assert "network file system" in text
    assert ["ReadWriteOnce"] == claim["spec"]["accessModes"]
    assert {"claimName": claim["metadata"]["name"]} == template["spec"]["volumes"][0]["persistentVolumeClaim"]
    assert deployment["spec"]["selector"] == rule["labelSelector"] == {"matchLabels": template["metadata"]["labels"]}
    assert "kubernetes.io/hostname" == rule["topologyKey"]
    assert (3, True, 23) == (
        deployment["spec"]["replicas"],
        template["spec"]["hostPID"],
        template["spec"]["terminationGracePeriodSeconds"],
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 0},
        {"replicas": True},
        {"concurrency": 0},
        {"targets": []},
        {"targets": "agents.py"},
        {"targets": ["a\nExecStart=/bin/sh"]},
        {"targets": ["--help"]},
        {"targets": [""]},
        {"targets": ["a\u2028b"]},
        {"targets": ["a\x00"]},
        {"targets": ["a\ud800"]},
        {"capabilities": ["a\rb"]},
        {"root": "ledger"},
        {"root": "/"},
        {"root": "/srv/../etc"},
        {"root": "/srv\n"},
        {"lease_s": 0},
        {"lease_s": float("nan")},
        {"grace_s": -1},
        {"grace_s": float("inf")},
        {"grace_s": 1e300},
        {"directory": "code"},
    ],
)
def test_bad_input_is_refused(kind, change):
    """What has no sense, or no place in a format, is refused before anything is printed."""
    with pytest.raises(BadInput):
        plan(kind, **{**ASKED, **change})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("nomad", {}),
        ("systemd", {"directory": "/srv/a\\"}),
        ("systemd", {"directory": "/srv/a "}),
        ("systemd", {"program": "./agentledger"}),
        ("systemd", {"program": "+agentledger"}),
        ("kubernetes", {"root": "/srv/a:b"}),
    ],
)
def test_what_a_kind_cannot_hold_is_refused(kind, change):
    """Each format has words that it cannot write down."""
    with pytest.raises(BadInput):
        plan(kind, **{**ASKED, **change})
