"""What code keeps and says besides: artifacts, media, places in streams, and costs.

Rules: each answers at the call itself, is recorded once, and is the same whenever this place of the run is executed
again; another one there is a divergence. This file does not know what manifests say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger_core import chain, codec, secret
from ledger_core.errors import BadInput
from ledger_core.events.govern import ArtifactCreated, CostRecorded
from ledger_core.ids import check_name, new_id
from ledger_core.run.budget import DIMENSIONS, USD
from ledger_core.run.journal import Intent
from ledger_core.runtime.effect import Effects, Place

_PUBLIC = bytes(32)
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")


class ArtifactEffects(Effects):
    """The artifacts and costs of a step."""

    def keep(self, place: Place, manifest: dict[str, Any], data: Any = None) -> dict[str, Any]:
        """Keep something; returns its manifest, with its id."""
        schema = manifest["schema"]
        raw = None if data is None else data if isinstance(data, bytes) else codec.encode(data)
        tag = self._tag(codec.canonical_trusted([schema, manifest, data]))
        asked = {"manifest": manifest, "data": data}
        intent = Intent(path=place[0], kind="artifact", name=schema, request=tag, document=asked, line=place[1])
        entry = self._immediate(intent)
        if entry is not None:
            return dict(codec.roundtrip(entry.value))
        artifact = new_id("artifact", chain.tag(self._seed, f"artifact:{place[0]}".encode()))
        manifest = {"artifact_id": artifact, **manifest}
        if raw is not None:
            manifest["size"] = len(raw if manifest["form"] != "text" else str(data).encode())
        created = ArtifactCreated(
            path=place[0],
            artifact=artifact,
            tag=artifact_tag(artifact),
            schema=schema,
            media_kind=manifest.get("kind"),
            size=manifest.get("size"),
            digest=None if raw is None else self._tag(raw),
            request=tag,
            manifest=manifest,
            data=data,
        )
        self._ride(created)
        return dict(codec.roundtrip(manifest))

    def cost(self, place: Place, name: str, amounts: Mapping[str, Any], metadata: Any) -> None:
        """Record what something cost; raises `BadInput`."""
        check_name(name, "cost")
        spent = spent_of(amounts)
        plain = secret.plain(metadata)
        tag = self._tag(codec.canonical([name, spent, plain]))
        asked = {"spent": spent, "metadata": plain}
        intent = Intent(path=place[0], kind="cost", name=name, request=tag, document=asked, line=place[1])
        if self._immediate(intent) is None:
            self._ride(CostRecorded(path=place[0], name=name, spent=spent, request=tag, metadata=plain))


def spent_of(amounts: Mapping[str, Any]) -> dict[str, int]:
    """Amounts as facts hold them: `{"usd": 0.25, "input_tokens": 10}`; raises `BadInput`."""
    spent: dict[str, int] = {}
    for name, amount in amounts.items():
        if amount is None:
            continue
        if name == "usd" and type(amount) in (int, float) and 0 <= amount < 1e9:
            spent["usd_nano"] = round(amount * USD)
        elif name in _TOKENS and type(amount) is int and 0 <= amount < 1 << 62:
            spent[name] = amount
        else:
            raise BadInput(
                f"A cost of {amount!r:.50} {name} is none.",
                hint="It is usd=NUMBER, or input_tokens, output_tokens, cached_tokens as whole numbers.",
            )
    if not spent:
        raise BadInput("A cost of nothing is none.", hint="Write ctx.record_cost('search', usd=0.002).")
    if "input_tokens" in spent or "output_tokens" in spent:
        spent["tokens"] = spent.get("input_tokens", 0) + spent.get("output_tokens", 0)
    assert spent.keys() <= DIMENSIONS.keys()
    return spent


def artifact_tag(artifact: str) -> bytes:
    """What finds an artifact by its id."""
    return chain.tag(_PUBLIC, f"artifact:{artifact}".encode())
