"""Sandboxes."""
from __future__ import annotations
import needs, pytest
from suites.executors import ExecutorSuite
from ledger_core.governance.sandbox.bubblewrap import BubblewrapExecutor
from ledger_core.governance.sandbox.process import EXECUTOR as PROCESS
from ledger_core.governance.sandbox.bubblewrap import EXECUTOR as BUBBLEWRAP


class TestProcess(ExecutorSuite):
    policy = {"network": True, "filesystem": "host"}

    @pytest.fixture
    def executor(self):
        return PROCESS


class TestBubblewrap(ExecutorSuite):

    @pytest.fixture
    def executor(self):
        return BUBBLEWRAP
