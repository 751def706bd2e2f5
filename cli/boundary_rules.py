"""What `lint boundary` looks for: the codes, the calls under each, and what to write instead; and a project's own.

    rules:
      - {code: ACME1, calls: ["acme.sdk.*"], message: our billing system is outside, instead: a tool}
      - {code: AB3, calls: [legacy.fetch]}      # more of a kind that is known
    allow: [AB8, "random.shuffle"]              # codes that are not looked for, and calls that are fine

Rules: pure. Calls are patterns over dotted names as `boundary_names` gives them; `*` is any text, dots included. This
file does not know how code is read.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from ledger_core.governance.policy_reading import Place, Reading, shown, spelled

OWN: Final = "AB0"
"""The code of comments that allow nothing, or do not say why."""
_CODE: Final = re.compile(r"[A-Z][A-Z]{0,9}[0-9]{1,5}")


@attrs.frozen(kw_only=True)
class Kind:
    """A code: what it finds, what is wrong with it, and what to write instead."""

    code: str
    title: str = ""
    calls: tuple[str, ...]
    unless: tuple[str, ...] = ()
    message: str
    instead: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MODULES: Final = _words(
    "socket ssl urllib.request urllib3 http.client http.server socketserver xmlrpc.client requests httpx aiohttp "
    "websockets websocket smtplib aiosmtplib ftplib imaplib poplib telnetlib nntplib paramiko asyncssh boto3 aioboto3 "
    "botocore grpc openai anthropic mistralai cohere google.generativeai google.genai litellm ollama groq redis "
    "psycopg psycopg2 asyncpg pymysql MySQLdb aiomysql pymongo motor sqlalchemy kafka aiokafka pika aio_pika stripe"
)

KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        code="AB1",
        title="the clock",
        calls=_words(
            "time.time time.time_ns time.monotonic* time.perf_counter* time.process_time* time.thread_time* "
            "time.clock_gettime* time.sleep time.localtime time.gmtime time.ctime time.asctime time.strftime "
            "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today asyncio.sleep "
            "asyncio.wait asyncio.*.time trio.sleep anyio.sleep arrow.now arrow.utcnow pendulum.now pendulum.today "
            "django.utils.timezone.now pandas.Timestamp.now pandas.Timestamp.utcnow pandas.Timestamp.today"
        ),
        message="another execution gets another time",
        instead="ctx.now(), ctx.sleep(seconds), asyncio.timeout(seconds)",
    ),
    Kind(
        code="AB2",
        title="chance",
        calls=_words(
            "random.* secrets.* uuid.uuid1 uuid.uuid4 uuid.uuid6 uuid.uuid7 uuid.getnode os.urandom os.getrandom "
            "numpy.random.*"
        ),
        unless=_words("secrets.compare_digest numpy.random.SeedSequence"),
        message="another execution draws something else",
        instead="ctx.random(), ctx.uuid(), random.Random(ctx.uuid())",
    ),
    Kind(
        code="AB3",
        title="the network",
        calls=(
            *(f"{module}.*" for module in _MODULES),
            *_words(
                "asyncio.open_connection asyncio.open_unix_connection asyncio.start_server asyncio.start_unix_server "
                "asyncio.*.create_connection asyncio.*.create_server asyncio.*.create_datagram_endpoint "
                "asyncio.*.sock_*"
            ),
        ),
        unless=_words("socket.inet_* socket.hton? socket.ntoh? openai.types.* anthropic.types.* sqlalchemy.select"),
        message="what goes out is not recorded, not decided on, and done again by another execution",
        instead="a @tool, called with ctx.call_tool; a model with ctx.call_model",
    ),
    Kind(
        code="AB4",
        title="processes",
        calls=_words(
            "subprocess.* os.system os.popen os.exec* os.spawn* os.posix_spawn* os.fork* os.kill os.killpg "
            "os.startfile asyncio.create_subprocess_* asyncio.*.subprocess_* multiprocessing.* "
            "concurrent.futures.ProcessPoolExecutor* pty.* pexpect.*"
        ),
        unless=_words("subprocess.list2cmdline multiprocessing.cpu_count"),
        message="a process of its own is not recorded, and started again by another execution",
        instead="a @tool, in a sandbox where it runs what others wrote; ctx.spawn for another agent",
    ),
    Kind(
        code="AB5",
        title="files written",
        calls=_words(
            "os.remove os.unlink os.rename os.renames os.replace os.makedirs os.mkdir os.rmdir os.removedirs "
            "os.symlink os.link os.truncate os.ftruncate os.write os.pwrite os.chmod os.chown os.utime os.mkfifo "
            "os.mknod shutil.* tempfile.* sqlite3.connect pathlib.*.write_text pathlib.*.write_bytes pathlib.*.touch "
            "pathlib.*.mkdir pathlib.*.unlink pathlib.*.rename pathlib.*.replace pathlib.*.rmdir pathlib.*.symlink_to "
            "pathlib.*.hardlink_to pathlib.*.chmod"
        ),
        unless=_words("shutil.which shutil.disk_usage shutil.get_terminal_size tempfile.gettempdir*"),
        message="a file that is written here is written again by another execution, and nobody decided on it",
        instead="a @tool, called with ctx.call_tool",
    ),
    Kind(
        code="AB6",
        title="order by chance",
        calls=_words(
            "os.listdir os.scandir os.walk os.fwalk glob.glob glob.iglob pathlib.*.iterdir pathlib.*.glob "
            "pathlib.*.rglob pathlib.*.walk builtins.id builtins.hash"
        ),
        message="another execution gets another order",
        instead="sorted(…); hashlib for a hash that stays",
    ),
    Kind(
        code="AB7",
        title="threads of its own",
        calls=_words(
            "threading.Thread* threading.Timer* _thread.start_new_thread concurrent.futures.ThreadPoolExecutor* "
            "asyncio.*.run_in_executor asyncio.run_coroutine_threadsafe joblib.Parallel*"
        ),
        message="what threads do has an order that nobody can repeat",
        instead="asyncio.gather over effects, asyncio.to_thread for work without effects, or with ctx.scope(name)",
    ),
    Kind(
        code="AB8",
        title="the environment",
        calls=_words("os.environ os.environb os.getenv os.getenvb os.putenv os.unsetenv dotenv.*"),
        message="another process has another environment",
        instead="the run's initial state, or ctx.capture(name, function)",
    ),
    Kind(
        code="AB9",
        title="a tool called as a function",
        calls=(),
        message="the call is not recorded, not decided on, and made again by another execution",
        instead="ctx.call_tool(name, …)",
    ),
)
VALUES: Final = frozenset(("AB1", "AB2", "AB6", "AB8"))
"""Codes of what only gives a value: fine inside `ctx.capture`, which records it."""


class Rules:
    """What is looked for: the built-in kinds and a project's own, without what it allows."""

    def __init__(self, more: Sequence[Kind] = (), allow: Sequence[str] = ()) -> None:
        self.codes = frozenset(kind.code for kind in (*KINDS, *more))
        off = self.codes.intersection(allow)
        fine = _regex([one for one in allow if one not in off])
        self._kinds = [kind for kind in (*more, *KINDS) if kind.code not in off]
        self._tests = [(_regex(kind.calls), _regex(kind.unless), kind) for kind in self._kinds]
        self._fine = fine
        self._known: dict[str, Kind | None] = {}

    def kind(self, name: str) -> Kind | None:
        """The kind that a dotted name is of, if it is of any."""
        if name not in self._known:
            self._known[name] = self._find(name)
        return self._known[name]

    def of_code(self, code: str, name: str = "") -> Kind | None:
        """The built-in kind of a code, unless it, or the name under it, is allowed."""
        if self._fine.fullmatch(name):
            return None
        return next((kind for kind in self._kinds if kind.code == code and kind.title), None)

    def _find(self, name: str) -> Kind | None:
        if self._fine.fullmatch(name):
            return None
        tests = ((calls, unless, kind) for calls, unless, kind in self._tests if calls.fullmatch(name))
        return next((kind for _, unless, kind in tests if not unless.fullmatch(name)), None)


def parse_rules(document: Any, *, source: str = "", lines: Mapping[Place, int] | None = None) -> Rules:
    """A project's own rules out of plain data; raises `BadInput` with the place of what is wrong."""
    reading = Reading(source=source, lines=lines or {})
    top = reading.fields((), document, ("rules", "allow"), "a file of rules")
    each = top.get("rules", [])
    if type(each) is not list:
        raise reading.bad(("rules",), f"rules is {shown(each)}.", "It is a list.")
    more = [_kind(reading, ("rules", at), one) for at, one in enumerate(each)]
    allow = _texts(reading, ("allow",), top.get("allow", []))
    known = {kind.code for kind in (*KINDS, *more)}
    for at, one in enumerate(allow):
        if _CODE.fullmatch(one) and one not in known:
            hint = f"The codes are: {', '.join(sorted(known))}."
            raise reading.bad(("allow", at), f"allow has {one}, which is no code.", hint)
    return Rules(more, allow)


def _kind(reading: Reading, place: Place, value: Any) -> Kind:
    fields = reading.fields(place, value, ("code", "calls", "message", "instead"), "a rule")
    code = fields.get("code")
    if type(code) is not str or not _CODE.fullmatch(code) or code == OWN:
        hint = f"It is letters and a number, such as ACME1, and not {OWN}."
        raise reading.bad((*place, "code"), f"{spelled((*place, 'code'))} is {shown(code)}.", hint)
    calls = _texts(reading, (*place, "calls"), fields.get("calls"))
    if not calls:
        raise reading.bad(place, f"{spelled(place)} names no calls.", 'Write calls: ["acme.sdk.*"].')
    same = next((kind for kind in KINDS if kind.code == code), None)
    texts = {}
    for name in ("message", "instead"):
        text = fields.get(name, getattr(same, name) if same else "")
        if type(text) is not str or not text or len(text) > 500:
            hint = "It is text of 1 to 500 characters; only a built-in code has its own."
            raise reading.bad((*place, name), f"{spelled((*place, name))} is {shown(text)}.", hint)
        texts[name] = text
    return Kind(code=code, calls=tuple(calls), message=texts["message"], instead=texts["instead"])


def _texts(reading: Reading, place: Place, value: Any) -> list[str]:
    each = [value] if type(value) is str else value
    if type(each) is not list or not all(type(one) is str and 0 < len(one) <= 256 for one in each):
        raise reading.bad(place, f"{spelled(place)} is {shown(value)}.", "It is a list of text.")
    return each


def _regex(patterns: Sequence[str]) -> re.Pattern[str]:
    each = (fnmatch.translate(re.sub(r"\*+", "*", one).replace("[", "[[]")) for one in patterns)
    return re.compile("|".join(each) or r"(?!)")
