"""Print, as a constraints file for pip, the lowest version that pyproject.toml allows of each package.

    python .ci/lowest_versions.py > lowest.txt

Packages of ``dependencies`` and of the extras ``plots`` and ``dev``; those pinned to one version are left out, as they
are tools that run elsewhere. Needs Python 3.11 (tomllib); the result is for any.
"""

import re
import sys
from pathlib import Path

import tomllib

_BOUND = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?>=(?P<version>[0-9.]+)(?:,.*)?$")


def lowest(requirements: list[str]) -> list[str]:
    """``name==version`` of each requirement that has a lower bound.

    Raises:
        SystemExit: If a requirement has neither a lower bound nor a pin.
    """
    lines = []
    for requirement in requirements:
        if "==" in requirement:
            continue
        found = _BOUND.match(requirement)
        if found is None:
            sys.exit(f"pyproject.toml: {requirement!r} has no lower bound")
        lines.append(f"{found['name']}=={found['version']}")
    return lines


if __name__ == "__main__":
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    # In order and once each: matplotlib is in both extras.
    print("\n".join(dict.fromkeys(lowest(project["dependencies"] + extras["plots"] + extras["dev"]))))
