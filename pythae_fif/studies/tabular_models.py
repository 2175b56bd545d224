"""Models of tabular data: the configurations of tables 1, 5, 6 and 7, their training and scores."""

import time
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from pythae_fif.data.tables import load_tabular
from pythae_fif.errors import DataError
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.reports.tables import DASH
from pythae_fif.runs.worker import Run
from pythae_fif.studies.spec import ProgressCallback, StudySpec
from pythae_fif.studies.tabular_baselines import FlowMatching, LinearGaussian
from pythae_fif.studies.tabular_scores import Model, TabularScores, TrainedModel, score_model
from pythae_fif.validation import AtLeastOne, StrictModel
from pythae_fif.volume_change.hutchinson import HutchinsonKind

# ReLU is the activation of the paper's text, SiLU is in its authors' released code.
FREE_FORM: dict[str, type[nn.Module]] = {"free-form": nn.ReLU, "free-form, SiLU": nn.SiLU}
COUPLING = {"coupling": "ReLU", "coupling, tanh": "Tanh"}


ModelName = Literal["fif", "rectangular_flow", "flow_matching", "gaussian", "ppca"]


class TabularSettings(StrictModel):
    """Settings of a model's training, the same for every data set.

    The defaults are from appendix E.2.

    Attributes:
        beta: Reconstruction weight.
        noise: Standard deviation of the noise that is added to the data.
        weight_decay: Adam's weight decay.
        hutchinson_kind: Distribution of the Hutchinson vectors.
        one_cycle: Whether the learning rate follows a one-cycle schedule; otherwise it is constant.
        data_hidden: Widths of the hidden layers of the coupling flow's nets in data space, at the
            paper's sizes. They shrink with the other nets.
        latent_hidden: The same in latent space.
    """

    beta: float = 10.0
    noise: float = 0.01
    weight_decay: float = 1e-4
    hutchinson_kind: HutchinsonKind = "orthogonal"
    one_cycle: bool = True
    data_hidden: tuple[int, ...] = ()
    latent_hidden: tuple[int, ...] = ()


RF_CODE = TabularSettings(
    beta=50.0,
    noise=0.0,
    weight_decay=0.0,
    hutchinson_kind="gaussian",
    one_cycle=False,
    data_hidden=(128,) * 4,
    latent_hidden=(32,) * 2,
)
"""Settings of RNFs-ML in layer6ai-labs/rectangular-flows; batch size and warm-up are in the
profiles."""


class NetSizes(StrictModel):
    """Sizes of the networks; the defaults are the paper's.

    Attributes:
        hidden_dim: Width of the free-form nets.
        data_blocks: Blocks of the coupling flow in data space.
        latent_blocks: Blocks of the coupling flow in latent space.
        block_dim: Width of the coupling flow's nets.
    """

    hidden_dim: AtLeastOne = 256
    data_blocks: AtLeastOne = 10
    latent_blocks: AtLeastOne = 5
    block_dim: AtLeastOne = 160


class TabularBudget(StrictModel):
    """Length of one training and sizes of its networks.

    Attributes:
        epochs: Number of epochs.
        batch_size: Rows in a batch.
        train_size: First training rows that are used; all if None.
        nets: Sizes of the networks.
        warmup: First and last epoch of the rise of the likelihood's weight from 0 to 1; the weight
            is always 1 if None.
    """

    epochs: AtLeastOne
    batch_size: AtLeastOne
    train_size: AtLeastOne | None = None
    nets: NetSizes = NetSizes()
    warmup: Annotated[tuple[AtLeastOne, AtLeastOne] | None, Field(strict=False)] = None

    def steps(self, rows: int) -> int:
        """Returns the number of training steps for this many rows, without incomplete batches."""
        return self.epochs * (rows // min(self.batch_size, rows))


class Configuration(StrictModel):
    """A row of tables 1 and 6.

    Attributes:
        name: Key of the row.
        model: The model that provides the estimator.
        net: A key of `FREE_FORM` or `COUPLING`; a dash if the model has none.
        jacobian_at: Point of the Jacobian, see :class:`~pythae_fif.FIFConfig`; empty if the model
            has none.
        settings: Settings of the training, from the paper's text or from released code.
    """

    name: str
    model: ModelName
    net: str
    jacobian_at: str
    settings: TabularSettings = TabularSettings()

    @property
    def place(self) -> str:
        """The point of the Jacobian in the words of table 6."""
        places = {"data": "off manifold", "reconstruction": "on manifold", "": "–"}
        return places.get(self.jacobian_at, "on manifold, detached")

    def build(self, input_dim: tuple[int, ...], latent_dim: int, nets: NetSizes) -> Model:
        """Builds a freshly initialised model; seed torch before calling.

        Args:
            input_dim: Shape (D,) of a row.
            latent_dim: Latent dimension d.
            nets: Sizes of the networks.
        """
        if self.model == "gaussian":
            return LinearGaussian(*input_dim)
        if self.model == "ppca":
            return LinearGaussian(latent_dim)
        if self.model == "flow_matching":  # one net with as many parameters as FIF's two
            return FlowMatching(input_dim, round(np.sqrt(2) * nets.hidden_dim))

        shape: dict[str, Any] = {"input_dim": input_dim, "latent_dim": latent_dim}
        config: Any = self.settings.model_dump(include={"beta", "noise", "hutchinson_kind"})
        config |= {"jacobian_at": self.jacobian_at, **shape}
        if self.net in FREE_FORM:
            options: Any = {"hidden_dim": nets.hidden_dim, "activation": FREE_FORM[self.net]}
            return FIF(
                FIFConfig(**config),
                TabularEncoder(**shape, **options),
                TabularDecoder(**shape, **options),
            )

        flow = build_coupling(
            **shape,
            data_blocks=nets.data_blocks,
            latent_blocks=nets.latent_blocks,
            data_hidden=_scale_widths(self.settings.data_hidden, nets),
            latent_hidden=_scale_widths(self.settings.latent_hidden, nets),
            activation=COUPLING[self.net],
        )
        if self.model == "rectangular_flow":
            return RectangularFlow(RectangularFlowConfig(**config), *flow)

        model = FIF(FIFConfig(**config), *flow)
        model.surrogate_mode = "published"  # most operations of these nets have no replay rule
        return model


def _scale_widths(hidden: tuple[int, ...], nets: NetSizes) -> list[int]:
    """Scales the widths of hidden layers from the paper's sizes to these."""
    paper_width = NetSizes().block_dim
    return [width * nets.block_dim // paper_width for width in hidden or (160, 160)]


_ROWS: tuple[tuple[str, ModelName, str, str], ...] = (
    ("fif", "fif", "free-form", "data"),
    ("fif_on", "fif", "free-form", "reconstruction"),
    ("fif_on_detached", "fif", "free-form", "detached_reconstruction"),
    ("fif_silu", "fif", "free-form, SiLU", "data"),
    ("fif_silu_on", "fif", "free-form, SiLU", "reconstruction"),
    ("fif_silu_on_detached", "fif", "free-form, SiLU", "detached_reconstruction"),
    ("fif_coupling", "fif", "coupling", "data"),
    ("rectangular_flow_off", "rectangular_flow", "coupling", "data"),
    ("fif_coupling_on", "fif", "coupling", "reconstruction"),
    ("rectangular_flow", "rectangular_flow", "coupling", "reconstruction"),
    ("rectangular_flow_published", "rectangular_flow", "coupling, tanh", "reconstruction"),
    ("flow_matching", "flow_matching", "free-form, SiLU", ""),
    ("gaussian", "gaussian", DASH, ""),
    ("ppca", "ppca", DASH, ""),
)
"""Name, model, net and point of the Jacobian of every configuration."""

CONFIGURATIONS = {
    name: Configuration(
        name=name,
        model=model,
        net=net,
        jacobian_at=jacobian_at,
        settings=RF_CODE if name == "rectangular_flow_published" else TabularSettings(),
    )
    for name, model, net, jacobian_at in _ROWS
}
"""In the order of table 6, and models for comparison."""


def train(
    model: TrainedModel,
    rows: Tensor,
    budget: TabularBudget,
    settings: TabularSettings,
    learning_rate: float,
    report_progress: ProgressCallback = lambda share: None,
) -> float | None:
    """Trains a fresh model with Adam; seed torch before calling.

    Args:
        model: The model.
        rows: Training rows, (N, D).
        budget: Epochs, batch size and warm-up.
        settings: Weight decay and schedule of the learning rate. Beta is the model's.
        learning_rate: Learning rate, the highest one of a one-cycle schedule.
        report_progress: Called after every epoch.

    Returns:
        The mean number of conjugate gradient steps; None if the model takes none.
    """
    batch_size = min(budget.batch_size, len(rows))
    rows_per_epoch = len(rows) // batch_size * batch_size  # without an incomplete batch
    optimizer = torch.optim.Adam(
        model.parameters(), lr=learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule: LRScheduler = ConstantLR(optimizer, 1.0, 0)
    if settings.one_cycle:
        schedule = OneCycleLR(optimizer, learning_rate, total_steps=budget.steps(len(rows)))

    cg_iterations: list[Tensor] = []
    model.train()
    for epoch in range(1, budget.epochs + 1):
        nll_weight = float(np.interp(epoch, budget.warmup or (0, 1), (0, 1)))
        permutation = torch.randperm(len(rows))[:rows_per_epoch]
        for indices in permutation.split(batch_size):
            optimizer.zero_grad()
            model({"data": rows[indices]}, nll_weight=nll_weight).loss.backward()
            optimizer.step()
            schedule.step()
            if isinstance(model, RectangularFlow) and model.cg_iterations is not None:
                cg_iterations.append(model.cg_iterations.double().mean())
        report_progress(epoch / budget.epochs)

    model.eval()
    return float(torch.stack(cg_iterations).mean()) if cg_iterations else None


class TabularModels(StudySpec):
    """A run of models of one configuration, with one record for each.

    New runs have one model; some of the committed runs have several.

    Attributes:
        learning_rates: The learning rate of every model.
        seeds: The seed of every model.
        scored_rows: Number of first test rows for the log-likelihoods and the energy distance. Runs
            before version 0.3.0 have 1,000, and no energy distance.
    """

    kind: ClassVar[str] = "tabular"

    dataset: str
    configuration: Configuration
    data_hash: str
    latent_dim: int
    budget: TabularBudget
    learning_rates: list[float]
    seeds: list[int]
    scored_rows: int = 1000

    @property
    def folder(self) -> str:
        """`studies/tabular/<dataset>/<configuration>`."""
        return f"studies/tabular/{self.dataset}/{self.configuration.name}"

    @property
    def outputs(self) -> Mapping[str, type]:
        return {
            f"scores/seed{seed}-{rate:g}.json": TabularScores
            for seed, rate in zip(self.seeds, self.learning_rates, strict=True)
        }

    def execute(self, run: Run) -> None:
        """Trains and scores the models.

        Raises:
            DataError: The table changed since the run was planned.
        """
        run.report("loading data")
        splits = load_tabular(self.dataset, self.location.data_root, data=self.location.data)
        if splits.content_hash != self.data_hash:
            raise DataError(f"the table {self.dataset} changed since the plan: start again")

        rows = torch.from_numpy(splits.train[: self.budget.train_size])
        for name, seed, rate in zip(self.outputs, self.seeds, self.learning_rates, strict=True):
            torch.manual_seed(seed)
            model = self.configuration.build(splits.input_dim, self.latent_dim, self.budget.nets)
            torch.manual_seed(seed)
            start = time.process_time()  # does not count the time of other processes
            cg_iterations = None
            if isinstance(model, LinearGaussian):
                model.fit(rows)
            else:
                cg_iterations = train(
                    model,
                    rows,
                    self.budget,
                    self.configuration.settings,
                    rate,
                    lambda share: run.report("training", share),
                )
            seconds = time.process_time() - start
            run.report("scoring")
            run.save(
                name, score_model(model, splits, seed, self.scored_rows, seconds, cg_iterations)
            )
