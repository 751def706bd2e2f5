"""The agent of the tour: reads bug reports and files a ticket for each. It does nothing about crashes.

Its model is a rule that runs here, so that the tour needs no key and no network; any callable would do. Where the
reports and the service are comes from the environment.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from agentledger import AgentContext, NoEffect, agent, tool

REPORTS = "AGENTLEDGER_TOUR_REPORTS"
SERVICE = "AGENTLEDGER_TOUR_SERVICE"


@tool(name="reports.list", side_effect="external_read")
def list_reports() -> list[str]:
    """Names of the bug reports."""
    return sorted(path.name for path in Path(os.environ[REPORTS]).glob("*.md"))


@tool(name="reports.read", side_effect="external_read")
def read_report(name: str) -> str:
    """Text of a bug report."""
    return Path(os.environ[REPORTS], name).read_text(encoding="utf-8")


def find_ticket(idempotency_key: str, **_: Any) -> dict[str, Any]:
    """Ask the service whether the ticket of this key is there."""
    found = _ask(Request(f"{os.environ[SERVICE]}/tickets?key={idempotency_key}"))["tickets"]
    if not found:
        raise NoEffect
    return {"id": found[0]["id"], "title": found[0]["title"]}


@tool(name="tickets.create", side_effect="external_write", verify=find_ticket)
def create_ticket(title: str, body: str, idempotency_key: str) -> dict[str, Any]:
    """File a ticket. The service stores whatever it is sent, even twice."""
    data = json.dumps({"title": title, "body": body, "key": idempotency_key}).encode()
    return _ask(Request(f"{os.environ[SERVICE]}/tickets", data=data, headers={"Content-Type": "application/json"}))


def triage_model(request: dict[str, Any]) -> dict[str, Any]:
    """Answers with a title and a severity: a rule that stands in for a language model."""
    text = request["messages"][-1]["content"]
    words = text.lower()
    severity = "high" if "lost" in words or "charged" in words else "medium" if "error" in words else "low"
    title = text.splitlines()[0].lstrip("# ").strip()
    usage = {"input_tokens": len(text.split()), "output_tokens": len(title.split())}
    return {"content": f"[{severity}] {title}", "usage": usage}


@agent(role="Triage", tools=[list_reports, read_report, create_ticket], models=triage_model)
async def triage(ctx: AgentContext) -> list[str]:
    """File a ticket for every bug report."""
    filed = []
    for name in await ctx.call_tool("reports.list"):
        text = await ctx.call_tool("reports.read", name=name)
        prompt = [{"role": "system", "content": "Give the report a title."}, {"role": "user", "content": text}]
        reply = await ctx.call_model({"model": "triage-rule", "messages": prompt})
        ticket = await ctx.call_tool("tickets.create", title=reply["content"], body=text)
        ctx.write_state_patch(name, ticket["id"])
        filed.append(f"#{ticket['id']} {ticket['title']}")
    return filed


def _ask(request: Request) -> dict[str, Any]:
    with urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found
