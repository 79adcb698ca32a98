"""Replay golden episodes of the authors' programs through the product's own modules.

    python tests/golden/replay.py FILE...

prints one JSON line a file and exits with 1 if one is not ok. The format of the files is in README.md
beside this script. Each file is replayed with all its episodes in one batch, and one by one.

A kind of file is a module beside this one with ``knows(config)``, whether a file's configuration is of that kind,
and ``replay(config, tensors)``, its row.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError, safe_open

sys.path.insert(0, str(Path(__file__).parent))  # also where this file is imported, not run

import replay_lora_ttt
import replay_mta_zero
import replay_tpt

KINDS: tuple[ModuleType, ...] = (replay_lora_ttt, replay_mta_zero, replay_tpt)


def main(files: list[str]) -> int:
    """Replay the files; 0 if all are ok."""
    rows = []
    for name in files:
        rows.append(replay(Path(name)))
        print(json.dumps(rows[-1]), flush=True)
    return 0 if rows and all(row["ok"] for row in rows) else 1


def replay(path: Path) -> dict[str, Any]:
    """One file's row."""
    try:
        with safe_open(path, "pt") as file:
            config: dict[str, Any] = json.loads(file.metadata()["config"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SystemExit(f"{path}: no file of the golden format ({type(error).__name__}: {error})") from error
    for kind in KINDS:
        if kind.knows(config):
            return {"file": path.name, **kind.replay(config, tensors)}
    raise SystemExit(f"{path}: a file of no known kind (its config has {', '.join(config)})")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
