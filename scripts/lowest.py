"""The lowest versions that pyproject.toml allows of what the runtime and the named extras need: `python scripts/lowest.py serve`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
FLOOR = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+(?:\[[a-z,]+\])?)(?:>=(?P<version>[0-9.]+)(?:,<[0-9.]+)?|==(?P<only>[0-9.]+))(?P<where> *;.+)?"
)


def pins(requirements: list[str]) -> list[str]:
    """ "numpy==1.26" for "numpy>=1.26", and for itself. Raises ValueError for a requirement without a lowest version."""
    found = []
    for requirement in requirements:
        match = FLOOR.fullmatch(requirement)
        if match is None:
            raise ValueError(f'"{requirement}" names no lowest version alone; write NAME>=VERSION')
        found.append(f"{match['name']}=={match['version'] or match['only']}{match['where'] or ''}")
    return found


def main(extras: list[str]) -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    for extra in (None, *extras):
        print(*pins(project["dependencies"] if extra is None else project["optional-dependencies"][extra]), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
