"""Configurations of all models: an error is one line, from Python, dictionaries and files."""

import json
import math

import pytest

from pythae_fif.baselines import DNFConfig, RectangularFlowConfig, TrumpetConfig
from pythae_fif.errors import ConfigError
from pythae_fif.models import FIFConfig

CONFIGS = [FIFConfig, RectangularFlowConfig, DNFConfig, TrumpetConfig]
HUTCHINSON = [FIFConfig, RectangularFlowConfig]
WITH_BETA = [FIFConfig, RectangularFlowConfig, DNFConfig]
FLOWS = [DNFConfig, TrumpetConfig]

WRONG = [
    (CONFIGS, {"latent_dims": 3}, "unknown key 'latent_dims': did you mean 'latent_dim'"),
    (CONFIGS, {"latent_dim": 17}, "latent_dim=17: at most 16, the dimension of the data"),
    ([FIFConfig], {"latent_dim": 0}, "latent_dim=0: should be greater than or equal to 1"),
    ([FIFConfig], {"latent_distribution": "cauchy"}, "latent_distribution='cauchy': valid: normal"),
    ([FIFConfig], {"noise": -0.1}, "noise=-0.1"),
    ([FIFConfig], {"student_t_df": 0}, "student_t_df=0: should be greater than 0"),
    ([FIFConfig], {"student_t_df": math.inf}, "student_t_df=inf: should be a finite number"),
    (WITH_BETA, {"betta": 3}, "unknown key 'betta': did you mean 'beta'"),
    (WITH_BETA, {"beta": -1}, "beta=-1: should be greater than or equal to 0"),
    ([FIFConfig], {"beta": "Auto"}, "unable to parse string as a number, or 'auto'"),
    (WITH_BETA, {"beta": math.nan}, "beta=nan: should be a finite number"),
    ([TrumpetConfig], {"beta": 3.0}, "unknown key 'beta'"),
    (HUTCHINSON, {"hutchinson_samples": 4}, "hutchinson_samples=4: at most 3"),
    (HUTCHINSON, {"hutchinson_kind": "rademachr"}, "did you mean 'rademacher'"),
    (HUTCHINSON, {"jacobian_at": "encoder"}, "jacobian_at='encoder'"),
    (FLOWS, {"hutchinson_samples": 2}, "unknown key 'hutchinson_samples'"),
    (FLOWS, {"step": 2}, "did you mean 'steps'"),
    (FLOWS, {"steps": 0}, "steps=0"),
    ([RectangularFlowConfig], {"surrogate_fraction": 0.5}, "condition_dim are for FIFs"),
    ([RectangularFlowConfig], {"condition_dim": 3}, "condition_dim are for FIFs"),
    ([RectangularFlowConfig], {"cg_tolerence": 0.1}, "did you mean 'cg_tolerance'"),
    ([RectangularFlowConfig], {"cg_tolerance": 0.0}, "cg_tolerance=0.0"),
    ([RectangularFlowConfig], {"jacobian_at": "detached_reconstruction"}, "jacobian_at='detached"),
    ([FIFConfig], {"surrogate_fraction": 0}, "surrogate_fraction=0"),
    ([DNFConfig], {"noise": 0.0}, "noise=0.0: should be greater than 0"),
    ([TrumpetConfig], {"manifold_share": 1.0}, "manifold_share=1.0"),
]


@pytest.mark.parametrize(
    "config, options, message",
    [
        pytest.param(config, options, message, id=f"{config.__name__}-{options}")
        for configs, options, message in WRONG
        for config in configs
    ],
)
def test_an_error_is_one_line(config, options, message, tmp_path):
    values = {"input_dim": [4, 2, 2], "latent_dim": 3, **options}
    path = tmp_path / "model_config.json"
    path.write_text(json.dumps({"name": config.__name__, **values}))
    for read in (
        lambda: config(**values),
        lambda: config.from_dict(values),
        lambda: config.from_json_file(str(path)),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        line = str(caught.value)
        assert line.startswith(f"{config.__name__}: ")
        assert message in line


def test_beta_schedule():
    fixed = FIFConfig(input_dim=(8,), latent_dim=3, beta=7)
    assert [fixed.beta_at(share) for share in (None, 0.3)] == [7, 7]
    scheduled = FIFConfig(input_dim=(8,), latent_dim=3, beta=20, beta_final=40)
    assert [scheduled.beta_at(share) for share in (0.0, 0.25, 1.0)] == [20, 25, 40]
    with pytest.raises(ConfigError, match="use FIFTrainer"):
        scheduled.beta_at()
