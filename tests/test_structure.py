"""The structure that CONTRIBUTING.md draws: nothing points backwards, no module is long."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pythae_fif"
LAYERS = (
    ("errors", "device"),
    ("files", "validation", "register"),
    ("names", "pictures", "runs"),
    ("volume_change",),
    ("nn",),
    ("models", "data"),
    ("baselines", "training", "ensemble"),
    ("sampling",),
    ("evaluation",),
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
        assert not getattr(node, "level", 0), f"{path}: a relative import"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pythae_fif."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "pythae_fif":
            found |= {alias.name for alias in node.names if alias.name in LEVEL}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pythae_fif.")}
    return found


def place_of(path: Path) -> str:
    """The package or module directly below ours that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_has_a_place():
    assert {*map(place_of, MODULES)} - {"__init__"} == set(LEVEL)


def test_nothing_points_backwards():
    backwards = []
    for path in MODULES:
        own = place_of(path)
        if own != "__init__":
            backwards += [(path, n) for n in imported(path) - {own} if LEVEL[n] >= LEVEL[own]]
    assert backwards == []


def test_what_is_imported_is_installed():
    """By `pip install`, or by what that needs itself; inside functions extras are imported, too."""
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    needed = {re.split("[<>=]", line)[0] for line in setup["options"]["install_requires"].split()}
    needed |= {"typing-extensions", "markupsafe"}  # pydantic's and jinja2's
    names = set()
    for path in MODULES:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    foreign = names - {"pythae_fif"} - sys.stdlib_module_names
    known = packages_distributions()
    homes = {name: {re.sub("[_.]", "-", home.lower()) for home in known[name]} for name in foreign}
    assert {name for name, of in homes.items() if not of & needed} == set()


def test_no_module_is_longer_than_a_reader_s_patience():
    assert [p.name for p in MODULES if p.read_text("utf-8").count("\n") > 450] == []
