"""The script that measures a GPU runs."""

import pytest
from support.reference import ROOT


@pytest.mark.slow
def test_page_of_all_measurements(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    file = tmp_path / "page.md"
    gpu.main(["--device", "cpu", "--tiny", "--output", str(file)])
    sections = file.read_text().split("## ")[1:]
    tables = [section.strip().splitlines()[2:] for section in sections]
    assert len(tables) == 3
    assert all(len(lines) >= 3 for lines in tables)

    values = [float(line.split("|")[3]) for line in tables[2][2:]]
    assert all(value > 0 for value in values)
