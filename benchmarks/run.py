"""Runs the benchmarks and prints their rows: `python benchmarks/run.py [--seed] [NAME…]`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import compare_bench
import govern_bench
import log_bench
import run_bench
import view_bench
import worker_bench

BENCHES = {
    "append": log_bench.append,
    "group": log_bench.group,
    "verify": log_bench.verify,
    "runs": run_bench.runs,
    "replay": run_bench.replay,
    "govern": govern_bench.govern,
    "workers": worker_bench.workers,
    "fork": compare_bench.fork,
    "bisect": compare_bench.bisect,
    "views": view_bench.views_,
    "seed": run_bench.seed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []])
    parser.add_argument("--seed", action="store_true", help="measure agentledger-runtime 1.0.0 as well")
    asked = parser.parse_args()
    names = asked.names or [name for name in BENCHES if name != "seed" or asked.seed]
    print(f"{'ratio':>8}  {'aim':<8}  what")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="agentledger-bench-") as base:
            for row in BENCHES[name](Path(base)):
                print(f"{row.ratio:>8.2f}  {row.aim:<8}  {row.what} ({row.detail})", flush=True)


if __name__ == "__main__":
    main()
