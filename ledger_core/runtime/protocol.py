"""An attached context as a protocol of JSON lines, for other languages.

Rules: one command, one answer, in order. An answer has `ok`; a failure has the error's name, sentence and hint, and the
attachment goes on, unless its lease is gone: then every answer says so. This file does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ledger_core.errors import BadInput, EffectFailed, LedgerError
from ledger_core.events import Missing
from ledger_core.runtime.attach import AttachedContext, OpenCall
from ledger_core.runtime.driver import StepStopped

Command = Mapping[str, Any]


class Protocol:
    """Answers commands with what an attached context does."""

    def __init__(self, context: AttachedContext) -> None:
        self._context = context
        self._calls: dict[str, OpenCall] = {}

    def answer(self, line: str) -> dict[str, Any]:
        """The answer to one line."""
        try:
            command = json.loads(line)
            if not isinstance(command, dict) or not isinstance(command.get("op"), str) or command["op"] not in _OPS:
                known = ", ".join(sorted(_OPS))
                raise BadInput('A command is an object with an "op".', hint=f"Its op is one of: {known}.")
            return {"ok": True, **_plain(_OPS[command["op"]][0](self, command))}
        except json.JSONDecodeError as error:
            return _failed("BadInput", f"The line is no JSON: {error}.", "Write one object a line.")
        except KeyError as error:
            return _failed("BadInput", f"The command lacks {error.args[0]!r}.", 'See {"op": "help"}.')
        except LedgerError as error:
            return {"ok": False, **_plain(error.as_json())}
        except EffectFailed as error:
            return _failed(error.error_type, error.message, "")
        except (TypeError, ValueError) as error:
            return _failed("BadInput", f"{error}.", 'See {"op": "help"}.')
        except StepStopped:
            why = self._context._effects.driver.stopped
            return _failed(type(why).__name__, str(why or "The attachment has ended."), "Attach again.")

    def _help(self, _: Command) -> dict[str, Any]:
        return {"ops": {name: words for name, (_, words) in sorted(_OPS.items())}}

    def _state(self, _: Command) -> dict[str, Any]:
        ctx = self._context
        doubt = [{"path": row.path, "tool": row.tool, "status": row.status} for row in ctx.in_doubt]
        return {"run_id": ctx.run_id, "epoch": ctx.epoch, "state": ctx.state, "in_doubt": doubt}

    def _call_tool(self, command: Command) -> dict[str, Any]:
        return {"result": self._context.call_tool(command["name"], command.get("arguments") or {})}

    def _begin_tool(self, command: Command) -> dict[str, Any]:
        effect = command.get("side_effect", "external_write")
        return self._begun(
            self._context.begin_tool(command["name"], command.get("arguments") or {}, side_effect=effect)
        )

    def _begin_model(self, command: Command) -> dict[str, Any]:
        return self._begun(self._context.begin_model(command["request"]))

    def _begun(self, call: OpenCall) -> dict[str, Any]:
        self._calls[call.path] = call
        return {"call": call.path, "idempotency_key": call.key}

    def _end(self, command: Command) -> dict[str, Any]:
        call = self._calls.get(command["call"])
        if call is None:
            raise BadInput(f"There is no open call {command['call']!r:.100}.", hint="Begin one in this attachment.")
        if "error" in command:
            error = command["error"]
            call.failed(error["type"], error.get("message", ""), no_effect=bool(command.get("no_effect")))
        else:
            call.succeeded(command.get("result"))
        del self._calls[command["call"]]
        return {}

    def _patch(self, command: Command) -> dict[str, Any]:
        self._context.write_state_patch(command["patch"])
        return {"state": self._context.state}

    def _capture(self, command: Command) -> dict[str, Any]:
        return {"value": self._context.capture(command["name"], lambda: command.get("value"))}

    def _now(self, _: Command) -> dict[str, Any]:
        return {"now": self._context.now().isoformat()}

    def _uuid(self, _: Command) -> dict[str, Any]:
        return {"uuid": self._context.uuid()}

    def _random(self, _: Command) -> dict[str, Any]:
        return {"random": self._context.random()}

    def _sleep(self, command: Command) -> dict[str, Any]:
        self._context.sleep(command["seconds"])
        return {}

    def _wait_signal(self, command: Command) -> dict[str, Any]:
        return {"payload": self._context.wait_signal(command["name"], timeout=command.get("timeout"))}

    def _ask(self, command: Command) -> dict[str, Any]:
        return {"answer": self._context.request_approval(command["question"], timeout=command.get("timeout"))}

    def _artifact(self, command: Command) -> dict[str, Any]:
        words = {name: command[name] for name in ("media_type", "metadata", "lineage") if name in command}
        data = bytes.fromhex(command["hex"]) if "hex" in command else command["data"]
        return {"artifact": self._context.create_artifact(command["name"], data, **words)}

    def _media(self, command: Command) -> dict[str, Any]:
        words = {name: command[name] for name in ("mime_type", "metadata", "lineage") if name in command}
        return {"artifact": self._context.create_media_artifact(command["kind"], command["ref"], **words)}

    def _checkpoint(self, command: Command) -> dict[str, Any]:
        names = ("watermark", "chunk", "partial_result_ref", "backpressure")
        words = {name: command[name] for name in names if name in command}
        place = (command["stream_id"], command["consumer_id"], command["offset"])
        return {"artifact": self._context.create_stream_checkpoint(*place, **words)}

    def _cost(self, command: Command) -> dict[str, Any]:
        amounts = {name: value for name, value in command.items() if name not in ("op", "name", "metadata")}
        self._context.record_cost(command["name"], metadata=command.get("metadata"), **amounts)
        return {}

    def _heartbeat(self, _: Command) -> dict[str, Any]:
        self._context.heartbeat()
        return {}

    def _complete(self, command: Command) -> dict[str, Any]:
        self._context.complete(command.get("output"))
        return {}

    def _fail(self, command: Command) -> dict[str, Any]:
        self._context.fail(command["type"], command.get("message", ""))
        return {}


_OPS: dict[str, tuple[Callable[[Protocol, Command], dict[str, Any]], str]] = {
    "help": (Protocol._help, "these words"),
    "state": (Protocol._state, "the state, and what is in doubt"),
    "call_tool": (Protocol._call_tool, "name, arguments: call a tool of --tools; its result"),
    "begin_tool": (Protocol._begin_tool, "name, arguments, side_effect: before you call a tool; call, idempotency_key"),
    "begin_model": (Protocol._begin_model, "request: before you ask a model; call"),
    "end": (Protocol._end, "call, and result or error {type, message} and no_effect: what came of a begun call"),
    "patch": (Protocol._patch, "patch: change the state, an RFC 7396 merge patch"),
    "capture": (Protocol._capture, "name, value: record a value of yours"),
    "now": (Protocol._now, "the time"),
    "uuid": (Protocol._uuid, "a UUID"),
    "random": (Protocol._random, "a number in [0, 1)"),
    "sleep": (Protocol._sleep, "seconds: wait"),
    "wait_signal": (Protocol._wait_signal, "name, timeout: the payload of the next signal"),
    "request_approval": (Protocol._ask, "question, timeout: a person's answer"),
    "artifact": (Protocol._artifact, "name, data or hex, media_type, metadata, lineage: keep something; artifact"),
    "media_artifact": (Protocol._media, "kind, ref, mime_type, metadata, lineage: keep a reference; artifact"),
    "stream_checkpoint": (Protocol._checkpoint, "stream_id, consumer_id, offset, …: keep how far you came; artifact"),
    "cost": (Protocol._cost, "name, usd, input_tokens, …: what something cost"),
    "heartbeat": (Protocol._heartbeat, "fails if the lease is gone or the run is to end"),
    "complete": (Protocol._complete, "output: the run ends well when stdin ends"),
    "fail": (Protocol._fail, "type, message: the run fails when stdin ends"),
}


def _failed(error: str, message: str, hint: str) -> dict[str, Any]:
    return {"ok": False, "error": error, "message": message, "hint": hint}


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, (str, int, float, bool, type(None))) else _word(value)


def _word(value: Any) -> str:
    return repr(value) if isinstance(value, Missing) else str(value)
