"""A small ticket service, as real as any: HTTP on loopback, SQLite behind it, and no idea of idempotency.

`python -m cli.tour.service DATABASE [--slow N]` prints its URL and serves until it is ended. It stores every ticket it
is sent, even twice. With --slow N it stores the Nth ticket and then takes a minute to answer, as services do.

    POST /tickets            {"title", "body", "key"} -> {"id", "title"}
    GET  /tickets[?key=KEY]  -> {"tickets": [{"id", "title", "key"}]}
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse


class Tickets:
    """Tickets in SQLite."""

    def __init__(self, path: str) -> None:
        self._mutex = threading.Lock()
        self._rows = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute(
            "CREATE TABLE IF NOT EXISTS tickets (id INTEGER PRIMARY KEY, title TEXT, body TEXT, key TEXT)"
        )

    def store(self, title: str, body: str, key: str) -> int:
        """Store a ticket; the number of tickets is its id."""
        with self._mutex:
            cursor = self._rows.execute("INSERT INTO tickets (title, body, key) VALUES (?, ?, ?)", (title, body, key))
            return int(cursor.lastrowid or 0)

    def close(self) -> None:
        """Let go of the database."""
        self._rows.close()

    def find(self, key: str | None) -> list[dict[str, Any]]:
        """All tickets, or those that were sent with a key."""
        with self._mutex:
            where, values = (" WHERE key = ?", (key,)) if key is not None else ("", ())
            rows = self._rows.execute(f"SELECT id, title, key FROM tickets{where} ORDER BY id", values)  # noqa: S608
            return [{"id": id_, "title": title, "key": key} for id_, title, key in rows]


class Server(ThreadingHTTPServer):
    """The service's server; lets go of its database when it is closed."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tickets: Tickets) -> None:
        super().__init__(address, handler)
        self._tickets = tickets

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed breaks its connection: nothing to say about it."""

    def server_close(self) -> None:
        super().server_close()
        self._tickets.close()


def serve(path: str, slow: int) -> Server:
    """A server on a free port of loopback."""
    tickets = Tickets(path)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            id_ = tickets.store(str(said["title"]), str(said["body"]), str(said["key"]))
            if id_ == slow:
                time.sleep(60)
            self._answer(201, {"id": id_, "title": said["title"]})

        def do_GET(self) -> None:
            asked = parse_qs(urlparse(self.path).query)
            self._answer(200, {"tickets": tickets.find(asked["key"][0] if "key" in asked else None)})

        def _answer(self, code: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    return Server(("127.0.0.1", 0), Handler, tickets)


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("--slow", type=int, default=0)
    asked = parser.parse_args()
    server = serve(asked.database, asked.slow)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
