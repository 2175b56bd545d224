"""The structure that CONTRIBUTING.md promises: layers, no circles, declared requirements."""

import ast
import configparser
import graphlib
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pythae_fif"
LAYERS = (
    ("errors", "device"),
    ("columns", "files", "validation"),
    ("register",),
    ("names", "pictures"),
    ("runs",),
    ("volume_change",),
    ("nn",),
    ("models", "data"),
    ("baselines", "training"),
    ("ensemble", "outlier_detector"),
    ("sampling",),
    ("evaluation",),
    ("benchmark",),
    ("reports",),
    ("study",),
    ("cli",),
)
"""A package imports only from those above it."""

BENCHMARK = {"pictures", "runs", "evaluation", "benchmark", "reports", "study", "cli"}
"""The packages that may import what the extra `benchmark` installs."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE_LINES = 500


def imported_packages(path: Path) -> set[str]:
    """The packages of ours that a module imports, also inside its functions."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not getattr(node, "level", 0), f"{path}: a relative import"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pythae_fif."):
            packages.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "pythae_fif":
            packages |= {alias.name for alias in node.names if alias.name in LEVEL}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            packages |= {name.split(".")[1] for name in names if name.startswith("pythae_fif.")}
    return packages


def package_containing(path: Path) -> str:
    """The package or module directly below ours that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_has_a_layer():
    assert {*map(package_containing, MODULES)} - {"__init__"} <= set(LEVEL)


def test_imports_point_downwards():
    backwards = []
    for path in MODULES:
        package = package_containing(path)
        if package == "__init__":
            continue
        for imported in imported_packages(path) - {package}:
            if LEVEL[imported] >= LEVEL[package]:
                backwards.append((path, imported))
    assert backwards == []


def imported_modules(path: Path, names: set[str]) -> set[str]:
    """The modules of ours that a module imports, also inside functions and for type checkers."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                modules.add(submodule if submodule in names else str(node.module))
    return modules & names


def test_imports_have_no_circles():
    paths = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        paths[name] = path

    graph = {name: imported_modules(path, {*paths}) - {name} for name, path in paths.items()}
    # Raises an error that names the modules of a circle.
    order = [*graphlib.TopologicalSorter(graph).static_order()]
    assert {*order} == {*paths}


def requirements(lines: str) -> set[str]:
    """The names of the packages in a list of requirements."""
    return {re.split("[<>=]", line)[0] for line in lines.split()}


def foreign_imports(paths: list[Path]) -> set[str]:
    """The packages, neither ours nor Python's, that are imported at the top of modules."""
    imported = set()
    for path in paths:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    return imported - {"pythae_fif"} - sys.stdlib_module_names


@pytest.mark.parametrize("part", ["core", "benchmark"])
def test_imports_are_requirements(part):
    """Imports at the top of modules are installed by `pip install`, or by what that requires;
    imports inside functions may be of extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = requirements(setup["options"]["install_requires"]) | {"typing-extensions"}
    if part == "benchmark":
        required |= requirements(setup["options.extras_require"]["benchmark"]) | {"markupsafe"}

    paths = [
        path for path in MODULES if (package_containing(path) in BENCHMARK) == (part != "core")
    ]
    distributions = packages_distributions()
    missing = []
    for name in sorted(foreign_imports(paths)):
        homes = {re.sub("[_.]", "-", home.lower()) for home in distributions[name]}
        if not homes & required:
            missing.append(name)
    assert missing == []


def test_modules_are_short():
    line_counts = {path.name: path.read_text("utf-8").count("\n") for path in MODULES}
    assert {name: count for name, count in line_counts.items() if count > MAX_MODULE_LINES} == {}
