"""Sessions: who talks to the runs, through which channel, with which variables and grants, and which runs they are.

Rules: a session is a stream of its own, with its own key; what it says is a fold of it. Who the user is, and what the
variables say, is content: it can be forgotten with the session. This file does not run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from ledger_core import secret
from ledger_core.errors import BadInput, NotFound
from ledger_core.events import Missing
from ledger_core.events.session import SessionCreated, SessionRunAdded, SessionUpdated
from ledger_core.ids import check_id, check_name
from ledger_core.log.batch import View
from ledger_core.log.log import Draft, Log
from ledger_core.run.patch import merge

_LONGEST_USER = 1_000


@attrs.frozen(kw_only=True)
class Session:
    """A session as its events say it is."""

    session_id: str
    user: str | None = None
    channel: str | None = None
    variables: dict[str, Any] = attrs.field(factory=dict)
    grants: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    created_ns: int = 0
    updated_ns: int = 0


class Sessions:
    """The sessions of one ledger."""

    log: Log
    _known_sessions: dict[str, tuple[int, Session]]
    """Sessions as far as they were read, and how many events that was."""

    def session(
        self,
        session_id: str,
        *,
        user: str | None = None,
        channel: str | None = None,
        variables: Mapping[str, Any] | None = None,
        grants: Iterable[str] | None = None,
    ) -> Session:
        """Get or create a session; what is given of an existing one is changed: variables by a merge patch.

        Raises `BadInput`, for a user or channel that are another's too.
        """
        check_id(session_id, "session")
        if user is not None and not (isinstance(user, str) and 0 < len(user) <= _LONGEST_USER):
            raise BadInput("A session's user is a text.", hint="Leave it out where nobody is known.")
        if channel is not None:
            check_name(channel, "channel")
        if variables is not None and not isinstance(variables, Mapping):
            raise BadInput("A session's variables are a dict.", hint='Write variables={"language": "de"}.')
        plain = secret.plain(dict(variables or {}))
        names = None if grants is None else sorted({check_name(name, "capability") for name in _listed(grants)})

        def decision(view: View) -> Iterator[Draft]:
            stream = stream_of_session(session_id)
            if view.head(stream) is None:
                created = SessionCreated(session=session_id, channel=channel, grants=names, user=user, variables=plain)
                yield Draft(stream=stream, body=created)
                return
            now = fold_session(view.events(stream, contents=True))
            for what, given, known in (("user", user, now.user), ("channel", channel, now.channel)):
                if given is not None and known is not None and given != known:
                    raise BadInput(
                        f"Session {session_id} has another {what}.", hint="Choose another id for another session."
                    )
            news = names is not None and tuple(names) != now.grants
            if news or merge(now.variables, plain) != now.variables:
                yield Draft(stream=stream, body=SessionUpdated(grants=names if news else None, variables=plain or None))

        self.log.decide(decision)
        return self.get_session(session_id)

    def get_session(self, session_id: str) -> Session:
        """A session; raises `NotFound`."""
        found = fold_session(self.log.stream(stream_of_session(session_id)))
        if not found.session_id:
            raise NotFound(f"There is no session {session_id!r:.100}.", hint="`agentledger sessions` lists them.")
        return found

    def session_variables(self, session_id: str) -> dict[str, Any] | None:
        """The variables that a new run of the session begins with; None without any."""
        known = self._known_sessions.get(session_id)
        head = self.log.stream_head(stream_of_session(session_id))
        if head is None:
            return None
        if known is None or known[0] > head.stream_seq:
            known = (0, Session(session_id=""))
        if known[0] < head.stream_seq:  # what was read stays so: a new run does not read all runs of the session again
            events = list(self.log.stream(stream_of_session(session_id), known[0]))
            known = (known[0] + len(events), fold_session(events, known[1]))
            self._known_sessions[session_id] = known
        return known[1].variables or None


def stream_of_session(session_id: str) -> str:
    """Name of a session's stream."""
    return f"session/{session_id}"


def fold_session(events: Iterable[Any], before: Session | None = None) -> Session:
    """The session that events make, on top of `before`; one without an id if there are none."""
    session = before or Session(session_id="")
    runs = list(session.runs)
    for event in events:
        body = event.body
        if isinstance(body, SessionCreated):
            user = None if isinstance(body.user, Missing) else body.user
            variables = {} if isinstance(body.variables, Missing) else body.variables
            session = Session(
                session_id=body.session,
                user=user,
                channel=body.channel,
                variables=variables,
                grants=tuple(body.grants or ()),
                created_ns=event.time_ns,
            )
        elif isinstance(body, SessionUpdated):
            known = not isinstance(body.variables, Missing) and body.variables is not None
            changed = merge(session.variables, body.variables) if known else session.variables
            grants = session.grants if body.grants is None else tuple(body.grants)
            session = attrs.evolve(session, variables=changed, grants=grants)
        elif isinstance(body, SessionRunAdded):
            runs.append(body.run)
        session = attrs.evolve(session, updated_ns=event.time_ns)
    return attrs.evolve(session, runs=tuple(runs))


def _listed(grants: Any) -> list[Any]:
    if isinstance(grants, str) or not isinstance(grants, Iterable):
        raise BadInput("Grants are a list of names.", hint='Write grants=["mail.send"].')
    return list(grants)
