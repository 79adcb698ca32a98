"""The rooms import one way only; docs/architecture.md describes the same order."""

import ast
from pathlib import Path

import pytest

import lorattt

ROOT = Path(lorattt.__file__).parent

# Room -> rooms of lorattt it may import, besides itself.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "inputs": {"errors"},
    "settings": set(),
    "yaml_files": {"errors", "inputs"},
    "stopping": set(),
    "rng": set(),
    "torch_state": set(),
    "ranking": set(),
    "calibration": set(),
    "show": set(),
    "losses": {"errors", "inputs"},
    "views": {"errors", "inputs", "rng", "losses"},
    "demo": {"errors", "inputs"},
    "episodes": {"errors", "inputs"},
    "clip": {"errors", "inputs", "views", "demo"},
    "adapters": {"errors", "inputs", "rng", "clip"},
    "prompts": {"errors", "inputs", "rng", "demo", "clip"},
    "methods": {
        "errors",
        "inputs",
        "rng",
        "ranking",
        "calibration",
        "losses",
        "views",
        "demo",
        "episodes",
        "clip",
        "adapters",
        "prompts",
    },
    "data": {"errors", "inputs", "rng", "demo"},
    "callbacks": {"errors", "inputs", "settings", "stopping", "ranking", "calibration", "show"},
    "landscape": {"errors", "inputs", "losses", "views", "clip", "prompts"},
    "report": {"errors", "inputs", "settings", "ranking", "calibration", "show", "demo", "data", "views", "methods"},
    "sweep": {"errors", "inputs", "settings", "yaml_files", "stopping", "show"},
    "api": {"errors", "inputs", "torch_state", "views", "clip", "prompts", "methods", "data", "callbacks"},
    "cli": {
        "errors",
        "inputs",
        "yaml_files",
        "stopping",
        "torch_state",
        "views",
        "prompts",
        "methods",
        "data",
        "callbacks",
        "landscape",
        "report",
    },
}
# Third party -> the only places that may import it.
ONLY_IN: dict[str, set[str]] = {
    "open_clip": {"clip"},
    "lightning": {"methods", "data", "callbacks", "cli"},
    "torchmetrics": {"methods"},
    "torchvision": {"views", "data"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
}


def _modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_one_way(path: Path) -> None:
    room = _room(path)
    if room in ("__init__", "__main__"):
        return
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "lorattt" and len(parts) > 1 and parts[1] not in (room, "__version__"):
            assert parts[1] in ALLOWED[room], f"{room} may not import {name}"
        if parts[0] in ONLY_IN:
            assert room in ONLY_IN[parts[0]], f"{room} may not import {parts[0]}"
        assert parts[0] != "pytorch_lightning", "import lightning.pytorch only: mixing the two breaks isinstance"


def test_the_order_has_no_cycle() -> None:
    done: set[str] = set()
    waiting = dict(ALLOWED)
    while waiting:
        ready = [room for room, needs in waiting.items() if needs <= done]
        assert ready, f"a cycle among {sorted(waiting)}"
        for room in ready:
            done.add(room)
            del waiting[room]


def test_every_room_is_known_and_described() -> None:
    rooms = {_room(path) for path in _modules()} - {"__init__", "__main__"}
    assert rooms == set(ALLOWED)
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in rooms:
        assert f"`{room}`" in text or f"`{room}/`" in text, f"docs/architecture.md does not speak of {room}"


def test_files_stay_readable() -> None:
    for path in _modules():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, f"{path} does more than one thing"


def test_every_data_file_travels_in_the_wheel() -> None:
    """A file that no package-data pattern matches would be missing after `pip install`."""
    patterns = (
        "py.typed",
        "cli/*.yaml",
        "demo/*.safetensors",
        "demo/*.json",
        "data/*.txt",
        "data/*.yaml",
        "report/*.css",
        "report/*.html",
        "report/*.jinja",
        "report/*.js",
        "report/*.mplstyle",
        "report/*.yaml",
    )
    text = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{pattern}"' in text for pattern in patterns)
    for path in ROOT.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            relative = path.relative_to(ROOT)
            assert any(relative.match(pattern) for pattern in patterns), f"{relative} is in no package-data pattern"
