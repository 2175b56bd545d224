"""What the documentation shows runs, and shows what it says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "getting_started.md"


def test_getting_started(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, labels = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict = {}
    exec(first, names)
    watched = re.findall(
        r"epoch \d+: (.*) nats a point, squared error (.*)", capsys.readouterr().out
    )
    assert len(watched) == 8
    nll, error = map(float, watched[-1])
    assert error < 0.02
    assert nll == pytest.approx(-float(names["held_out"].log_density.mean()), abs=0.15)
    assert names["points"].shape == (1000, 2) and names["density"].shape == (1000,)
    exec(labels, names)
    assert names["sevens"].shape == (16, 1, 8, 8)
