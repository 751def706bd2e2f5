"""A service that counts: HTTP on loopback, memory behind it, every arrival kept, and no idea of idempotency.

`X-Pid` says which process asks, so that a test can have the service kill whoever is just waiting for its answer.

    POST /things            {"key", "what"} -> {"key", "what"}; 409 or 503, and nothing kept, where `refuses` says so
    GET  /things?key=KEY    -> {"things": ["what", …]}; 503 where `mute` says so
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlparse


class Arrival(NamedTuple):
    """One request that the service obeyed."""

    key: str
    what: str
    pid: int
    at: float


class Service:
    """What arrived, and how it is answered."""

    def __init__(self, url: str, dice: random.Random, slowest: float) -> None:
        self.url = url
        self.arrivals: list[Arrival] = []
        self.arriving: Callable[[int], None] = lambda _: None
        """Called before the effect, with the pid of who asks."""
        self.stored: Callable[[Arrival], None] = lambda _: None
        """Called between the effect and its answer."""
        self.refuses: Callable[[str, int], int] = lambda _what, _before: 0
        """The status to refuse with; told what is asked for, and how often it was refused before."""
        self.mute: Callable[[str], bool] = lambda _: False
        """Whether it does not say just now what has arrived under a key."""
        self._dice = dice
        self._slowest = slowest
        self._refused: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def post(self, key: str, what: str, pid: int) -> int:
        """Keep what was sent, and take a while to say so; the status of the answer."""
        self.arriving(pid)
        with self._mutex:
            status = self.refuses(what, self._refused[key])
            if status:
                self._refused[key] += 1
                return status
            arrival = Arrival(key, what, pid, time.monotonic())
            self.arrivals.append(arrival)
            pause = self._dice.uniform(0, self._slowest)
        self.stored(arrival)
        time.sleep(pause)
        return 201

    def find(self, key: str) -> list[str]:
        """What arrived under a key."""
        with self._mutex:
            return [arrival.what for arrival in self.arrivals if arrival.key == key]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed breaks its connection: nothing to say about it."""


@contextmanager
def serving(dice: random.Random | None = None, slowest: float = 0.0) -> Iterator[Service]:
    """A service on a free port, while the block lasts; it answers within `slowest` seconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = service.post(said["key"], said["what"], int(self.headers["X-Pid"]))
            self._answer(status, said)

        def do_GET(self) -> None:
            key = parse_qs(urlparse(self.path).query)["key"][0]
            self._answer(503 if service.mute(key) else 200, {"things": service.find(key)})

        def _answer(self, code: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    service = Service(f"http://127.0.0.1:{server.server_port}", dice or random.Random(), slowest)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
