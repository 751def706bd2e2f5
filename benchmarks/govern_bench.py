"""What rules cost: the same outside writes without any, with a policy, a budget, a logical key; and a sandbox."""

from __future__ import annotations

from pathlib import Path

from measure import Row, in_turns, rate

from agentledger import Budget, NoEffect, Runtime, Secret, agent, tool

CALLS = 100
POLICY = {
    "version": 1,
    "rules": [
        {"name": "large", "verdict": "deny", "tools": ["issues.*"], "amount": {"argument": "amount", "over": 100}},
        {"name": "may create", "verdict": "allow", "tools": ["issues.*"]},
    ],
}


def _find(**_: object) -> None:
    raise NoEffect


@tool(name="issues.create", side_effect="external_write", verify=_find, cost=0.001)
def create(title: str, amount: float) -> dict[str, str]:  # noqa: ARG001 - the policy looks at it
    return {"external_id": title}


@tool(name="caged", sandbox_required=True)
def caged(number: int) -> int:
    return number


@agent(tools=[create])
def writer(ctx):
    for number in range(CALLS):
        ctx.call_tool("issues.create", title=f"issue {number}", amount=number)


@agent(tools=[create])
def keyed(ctx):
    for number in range(CALLS):
        ctx.call_tool("issues.create", title=f"issue {number}", amount=number, _logical_operation=f"o{number}")


@agent(tools=[caged])
def prisoner(ctx):
    for number in range(10):
        ctx.call_tool("caged", number=number)


def govern(base: Path) -> list[Row]:
    """The share of the plain speed that is left under each rule."""
    with Runtime.local(base / "bare") as bare, Runtime.local(base / "policy", policy=POLICY) as ruled:
        budget = Budget(calls=10_000_000, usd=1e6)
        plainly, policy, budgeted, keys, both = in_turns(
            5,
            lambda: bare.run(writer),
            lambda: ruled.run(writer),
            lambda: bare.run(writer, budget=budget),
            lambda: bare.run(keyed),
            lambda: ruled.run(writer, budget=budget),
        )
        Secret("bench", "a secret that is nowhere")
        (secret,) = in_turns(5, lambda: bare.run(writer))
        (sandboxed,) = in_turns(3, lambda: bare.run(prisoner))
    return [
        Row("a governed write under a policy, to one without", plainly / policy, "≥ 0.8", rate(CALLS, policy)),
        Row("a governed write under a budget, to one without", plainly / budgeted, "≥ 0.7", rate(CALLS, budgeted)),
        Row("a governed write with a logical key, to one without", plainly / keys, "≥ 0.8", rate(CALLS, keys)),
        Row("a governed write under a policy and a budget", plainly / both, "≥ 0.6", rate(CALLS, both)),
        Row("a governed write while a secret is known", plainly / secret, "≥ 0.9", rate(CALLS, secret)),
        Row("a call in bubblewrap, to one outside write", 10 / CALLS * plainly / sandboxed, "", rate(10, sandboxed)),
    ]
