"""The structure that CONTRIBUTING.md draws: nothing points backwards, no module is long."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pythae_fif"
LAYERS = (
    ("errors", "lazy", "device"),
    ("files", "validation", "register"),
    ("pictures",),
    ("volume_change",),
    ("nn",),
    ("models",),
    ("baselines", "data"),
    ("training", "ensemble"),
    ("sampling",),
    ("evaluation",),
    ("runs",),
    ("benchmark",),
    ("reports",),
    ("studies",),
    ("cli",),
)
"""A package imports from those above it alone."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The packages of ours that a module imports, inside its functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pythae_fif."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "pythae_fif":
            found |= {alias.name for alias in node.names if alias.name in LEVEL}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pythae_fif.")}
    return found


def test_every_package_has_a_place():
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert names - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_nothing_points_backwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    backwards = {n for n in imported(path) if n != own and LEVEL[n] >= LEVEL[own]}
    assert not backwards


def test_no_module_is_longer_than_a_reader_s_patience():
    assert [p.name for p in MODULES if p.read_text("utf-8").count("\n") > 400] == []
