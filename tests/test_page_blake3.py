"""The page's own BLAKE3 against the reference: every mode, every length around a block, a chunk and a tree."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import needs
import pytest
from blake3 import blake3
from browser import Browser

from ledger_core import chain

LENGTHS = [*range(5_200), 8_191, 8_192, 8_193, 16_385, 65_535, 65_536, 65_537, 65_564, 102_400, 1_048_577]
CONTEXT = "AgentLedger format 1 größe 🛒"
INPUT = """
const input = (size) => Uint8Array.from({length: size}, (_, at) => at % 251);
const key = Uint8Array.from({length: 32}, (_, at) => at * 7);
const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser that knows the page's BLAKE3, and nothing else."""
    needs.chromium()
    browser = Browser()
    browser.run(resources.files("projections.page").joinpath("blake3.js").read_text(encoding="utf-8") + INPUT + ";null")
    yield browser
    browser.close()


def _input(size: int) -> bytes:
    return bytes(at % 251 for at in range(251)) * (size // 251) + bytes(range(size % 251))


KEY = bytes(at * 7 for at in range(32))


def test_every_length_has_the_hash_that_it_has(browser: Browser) -> None:
    """Plain hashes of all lengths up to five chunks, and of some trees."""
    found = browser.run(f"{LENGTHS}.map((size) => hex(Blake3.hash(input(size))))")
    assert found == [blake3(_input(size)).hexdigest() for size in LENGTHS]


def test_a_keyed_hash_is_the_reference_s(browser: Browser) -> None:
    """The mode that events, contents and blobs are hashed in."""
    found = browser.run(f"{LENGTHS}.map((size) => hex(Blake3.keyed(key, input(size))))")
    assert found == [blake3(_input(size), key=KEY).hexdigest() for size in LENGTHS]


def test_a_derived_key_is_the_reference_s(browser: Browser) -> None:
    """Contexts are text, in UTF-8; material has any length, also none."""
    lengths = [0, 1, 31, 32, 33, *range(1_020, 1_030), 3_000, 65_535]
    found = browser.run(f"{lengths}.map((size) => hex(Blake3.derive({CONTEXT!r}, input(size))))")
    assert found == [blake3(_input(size), derive_key_context=CONTEXT).hexdigest() for size in lengths]
    domain = browser.run("hex(Blake3.derive('AgentLedger format 1 event', new Uint8Array(0)))")
    assert domain == "e558bc71a1766b79852f5e416867277f04480fb9f4688d4466502979e1073068"
    assert domain == chain._domain("event").hex()


def test_how_an_input_is_cut_changes_nothing(browser: Browser) -> None:
    """A hash takes parts of any size, empty ones too, and views that do not begin at their buffer's start."""
    found = browser.run(
        """[1, 3, 63, 64, 65, 1023, 1024, 1025, 4096].map((part) => {
          const bytes = input(9000), hasher = Blake3.keyedHasher(key);
          for (let at = 0; at < bytes.length; at += part) {
            hasher.update(bytes.subarray(at, at + part)).update(new Uint8Array(0));
          }
          return hex(hasher.digest());
        })"""
    )
    assert set(found) == {blake3(_input(9_000), key=KEY).hexdigest()}
    shifted = browser.run("hex(Blake3.hash(input(4000).subarray(251 * 3 + 0, 251 * 3 + 3000)))")
    assert shifted == blake3(_input(3_000)).hexdigest()


def test_reading_a_digest_does_not_end_a_hash(browser: Browser) -> None:
    """A digest may be read half-way, and again."""
    found = browser.run(
        """(() => {
          const hasher = Blake3.hasher().update(input(2048));
          const half = hex(hasher.digest()), again = hex(hasher.digest());
          hasher.update(input(251)).update(input(1));
          return [half, again, hex(hasher.digest())];
        })()"""
    )
    whole = blake3(_input(2_048) + _input(251) + _input(1)).hexdigest()
    assert found == [blake3(_input(2_048)).hexdigest()] * 2 + [whole]
