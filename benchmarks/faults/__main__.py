"""Kill, resume, count: `python -m benchmarks.faults --kills 50 --json [--quick] [--scenarios single]`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults import postgresql, ray, single
from benchmarks.faults.tally import Outcome, Settings, Unavailable

SCENARIOS: dict[str, Callable[[Settings], Outcome]] = {
    "single": single.run,
    "postgresql": postgresql.run,
    "ray": ray.run,
}
"""Name -> function; the name is the key of the result."""

DEFAULT_KILLS = {"single": 50, "postgresql": 20, "ray": 10}
"""Kills of a scenario unless --kills says otherwise."""
_UNLESS_NAMED = ("single", "postgresql")
"""What runs unless --scenarios says otherwise: nodes of Ray are lost only where that is asked for."""
_QUICK_KILLS = 3


def main() -> int:
    """Run the scenarios asked for; returns 0 if nothing was lost in any."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="of each scenario; default 50 single, 20 others, 10 ray")
    parser.add_argument("--scenarios", default=",".join(_UNLESS_NAMED), help="comma-separated: " + ", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0, help="of when and where to kill")
    parser.add_argument("--keep", default="", help="folder to work in, kept; default a temporary one")
    parser.add_argument("--quick", action="store_true", help="a few kills on the smallest run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    names = asked.scenarios.split(",")
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"--scenarios: {', '.join(sorted(unknown))} not known; known: {', '.join(SCENARIOS)}")
    found: dict[str, dict[str, object]] = {}
    clean = True
    with tempfile.TemporaryDirectory(prefix="flexor-search-faults-") as temporary:
        for name in names:
            folder = Path(asked.keep or temporary).resolve() / name
            folder.mkdir(parents=True)
            kills = asked.kills or (_QUICK_KILLS if asked.quick else DEFAULT_KILLS.get(name, 20))
            try:
                outcome = SCENARIOS[name](Settings(folder, kills, asked.seed, asked.quick))
            except Unavailable as error:
                found[name] = {"unavailable": str(error)}
                continue
            found[name], clean = outcome.to_json(), clean and outcome.is_clean
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        for name, values in found.items():
            print(name, *(f"  {key.replace('_', ' ')}: {value}" for key, value in values.items()), sep="\n")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
