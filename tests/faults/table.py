"""`-m faults`: runs whatever holds a promise of docs/benchmark.md, and prints what was observed."""

import pytest
from rich.console import Console
from rich.table import Table

from .promises import PROMISES

HOLDERS = {name for promise in PROMISES for name in promise.tests}


def _holder(nodeid: str) -> str:
    """The test without its parameters."""
    return nodeid.partition("[")[0]


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what has not the marker
def pytest_collection_modifyitems(config, items):
    if config.option.markexpr == "faults":
        for item in items:
            if _holder(item.nodeid) in HOLDERS:
                item.add_marker("faults")


def pytest_terminal_summary(terminalreporter, config):
    if config.option.markexpr != "faults":
        return
    reports = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            reports.setdefault(_holder(report.nodeid), []).append(report)
    table = Table("fault", "promised", "observed", title="docs/benchmark.md", show_lines=True)
    for promise in PROMISES:
        for name in promise.tests:
            fault = name.partition("::")[2].removeprefix("test_").replace("_", " ")
            table.add_row(fault, promise.sentence, _observed(reports.get(name, [])))
    Console(width=140).print(table)


def _observed(reports) -> str:
    broken = [report.nodeid.partition("::")[2] for report in reports if report.failed]
    if broken:
        return "BROKEN: " + ", ".join(broken)
    passed = [report for report in reports if report.passed]
    if not passed:
        return "not run here"
    seen = [str(value) for report in passed for name, value in report.user_properties]
    return "; ".join(["held", *seen]) if seen else f"held ({len(passed)} tests)"
