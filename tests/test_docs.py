"""What the documentation shows runs, and shows what it says."""

import math
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_getting_started(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, labels = blocks_of("getting_started.md")
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


def test_bring_your_own_network(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.chdir(tmp_path)
    first, saved = blocks_of("networks.md")
    names: dict = {"__name__": "__main__"}  # as in a script: it says how classes are pickled
    exec(first, names)
    model, x = names["model"], names["held_out"]
    assert model.surrogate_mode == "replay"
    mean_image = names["train"].batch(torch.arange(500)).data.mean(0)
    error, of_mean = ((other - x).square().mean() for other in (model.reconstruct(x), mean_image))
    assert error < 0.9 * of_mean
    for point in x[:2].double():
        z = model.double().embed(point[None])[0]
        jacobian = torch.func.jacrev(lambda z: model.decoder(z[None]).reconstruction.flatten())(z)
        expected = -0.5 * (z.square().sum() + 8 * math.log(2 * math.pi))
        expected = (expected - 0.5 * (jacobian.T @ jacobian).logdet()).item()
        assert model.log_prob(point[None]).item() == pytest.approx(expected, abs=1e-9)
    model.float()
    exec(saved, names)
    assert capsys.readouterr().out.splitlines()[-1] == "True"
