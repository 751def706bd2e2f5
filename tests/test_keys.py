"""The places where keys are kept, under the one suite, and what a directory of keys owes beside it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from suites.keys import KeysSuite

from ledger_core.errors import Damaged
from ledger_core.ids import StreamNo
from ledger_core.log.keys import KeyDirectory, Keys, MemoryKeys

DRAW = """
import sys
from pathlib import Path
from ledger_core.log.keys import KeyDirectory
sys.stdin.readline()
print([KeyDirectory(Path(sys.argv[1])).draw(n).hex() for n in (1, 1024, 1025, 4000)])
"""


class TestMemory(KeysSuite):
    """Memory."""

    @pytest.fixture
    def keys(self) -> Keys:
        return MemoryKeys()


class TestDirectory(KeysSuite):
    """A directory of pages."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> Keys:
        return KeyDirectory(tmp_path / "keys")

    def test_a_destroyed_key_leaves_no_bytes(self, keys: Keys, tmp_path: Path) -> None:
        """After destruction no file holds the key, and the page is as long as before."""
        key = keys.draw(StreamNo(5))
        page = next((tmp_path / "keys").iterdir())
        size = page.stat().st_size
        assert key in page.read_bytes()
        keys.destroy(StreamNo(5))

        assert key not in page.read_bytes()
        assert size == page.stat().st_size

    def test_keys_are_their_owners_only(self, keys: Keys, tmp_path: Path) -> None:
        """Neither the directory nor its pages can be read by others, whatever the umask."""
        keys.draw(StreamNo(1))

        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys", *(tmp_path / "keys").iterdir())]
        assert [0o700, 0o600] == modes

    def test_keys_outlive_the_process(self, keys: Keys, tmp_path: Path, python: Any) -> None:
        """Processes that draw at the same moment, and those that come later, get the same keys; no draft is left."""
        children = [python.start(DRAW, tmp_path / "keys") for _ in range(4)]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        drawn = {python.ends(child) for child in children}

        assert {str([keys.draw(StreamNo(n)).hex() for n in (1, 1024, 1025, 4000)])} == {one.strip() for one in drawn}
        assert ["00000000.keys", "00000001.keys", "00000003.keys"] == sorted(
            p.name for p in (tmp_path / "keys").iterdir()
        )

    @pytest.mark.parametrize("damage", [b"", b"AgentLedger", b"AgentLedger keys format 2\n" + bytes(33_000)])
    def test_a_page_that_is_none_is_damaged(self, keys: Keys, tmp_path: Path, damage: bytes) -> None:
        """A page that is empty, cut short or of another format is `Damaged`, and never taken for destroyed keys."""
        keys.draw(StreamNo(1))
        next((tmp_path / "keys").iterdir()).write_bytes(damage)

        anew = KeyDirectory(tmp_path / "keys")
        for use in (anew.get, anew.draw, anew.destroy):
            with pytest.raises(Damaged, match="no page of keys"):
                use(StreamNo(3))

    def test_a_page_cut_short_is_damaged(self, keys: Keys, tmp_path: Path) -> None:
        """A slot that the page no longer has is `Damaged`, not a key that was destroyed."""
        keys.draw(StreamNo(1000))
        page = next((tmp_path / "keys").iterdir())
        page.write_bytes(page.read_bytes()[:2000])

        with pytest.raises(Damaged):
            KeyDirectory(tmp_path / "keys").get(StreamNo(1000))
