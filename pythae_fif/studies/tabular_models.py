"""Models of rows of numbers: the configurations of tables 1, 5, 6 and 7, training and scores."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from pythae.models.base.base_utils import ModelOutput
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from pythae_fif.data.splits import Splits
from pythae_fif.data.tables import load_tabular
from pythae_fif.errors import DataError, NonFiniteError, requires_extra
from pythae_fif.evaluation import Features, frechet_distance
from pythae_fif.models import FIF, FIFConfig, RectangularFlow, RectangularFlowConfig
from pythae_fif.nn.coupling import build_coupling
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.runs.worker import Run
from pythae_fif.studies.spec import ProgressCallback, StudySpec
from pythae_fif.validation import AtLeastOne, StrictModel
from pythae_fif.volume_change import squared_error
from pythae_fif.volume_change.hutchinson import HutchinsonKind

LIKELIHOOD_ROWS = 1000
FLOW_STEPS = 50
"""Of the midpoint rule, by which a sample takes twice as many evaluations of the net."""
# The free-form nets by the paper's text, and by its authors' released code.
FREE_FORM: dict[str, type[nn.Module]] = {"free-form": nn.ReLU, "free-form, SiLU": nn.SiLU}
COUPLING = {"coupling": "ReLU", "coupling, tanh": "Tanh"}


class FlowMatching(nn.Module):
    """A flow of D dimensions on straight paths from noise to data (Lipman et al. 2023).

    It has no codes of fewer dimensions, and no density on a manifold.

    Args:
        input_dim: Shape (D,) of a row.
        hidden_dim: Width of the net of the velocity, which is of the kind of FIF's encoder.
    """

    def __init__(self, input_dim: tuple[int, ...], hidden_dim: int) -> None:
        super().__init__()
        with requires_extra("flow-matching", "model flow_matching"):
            from flow_matching.path import CondOTProbPath
            from flow_matching.solver import ODESolver
        (self.dim,) = input_dim
        self.net = TabularEncoder((self.dim + 1,), self.dim, hidden_dim, nn.SiLU)
        self.path, self.solver = CondOTProbPath(), ODESolver(self._velocity)

    def forward(self, inputs: Any) -> ModelOutput:
        """The squared error of the velocity at a random time of each row's path, as `nll_loss`."""
        x = inputs["data"]
        at = self.path.sample(x_0=torch.randn_like(x), x_1=x, t=torch.rand(len(x)))
        loss = squared_error(self._velocity(at.x_t, at.t), at.dx_t).mean()
        return ModelOutput(nll_loss=loss, recon_loss=torch.zeros(()))

    def sample(self, num_samples: int) -> Tensor:
        """Rows, (n, D)."""
        noise, step = torch.randn(num_samples, self.dim), 1 / FLOW_STEPS
        return self.solver.sample(noise, step_size=step, method="midpoint")

    def _velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x, t.expand(len(x))[:, None]], 1)).embedding


Model = FIF | RectangularFlow | FlowMatching
ModelName = Literal["fif", "rectangular_flow", "flow_matching"]


class TabularSettings(StrictModel):
    """Of the training of one model, whatever the data set; the defaults are appendix E.2's.

    Attributes:
        one_cycle: Whether the learning rate goes through one cycle, or is constant.
        data_hidden, latent_hidden: Hidden layers of the coupling flow's nets in data and in latent
            space at the paper's sizes, narrower where the other nets are.
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
"""Of layer6ai-labs/rectangular-flows, RNFs-ML; its batch and warm-up are in the profiles."""


class NetSizes(StrictModel):
    """Width of free-form nets, blocks and width of the coupling flow; by default the paper's."""

    hidden_dim: AtLeastOne = 256
    data_blocks: AtLeastOne = 10
    latent_blocks: AtLeastOne = 5
    block_dim: AtLeastOne = 160


class TabularBudget(StrictModel):
    """What one training may spend.

    Attributes:
        train_size: First training rows that are used; all if None.
        warmup: The epochs between which the likelihood's weight rises from 0 to 1; none if None.
    """

    epochs: AtLeastOne
    batch_size: AtLeastOne
    train_size: AtLeastOne | None = None
    nets: NetSizes = NetSizes()
    warmup: Annotated[tuple[AtLeastOne, AtLeastOne] | None, Field(strict=False)] = None

    def steps(self, rows: int) -> int:
        """Those of all epochs over that many rows; what fills no batch is left out."""
        return self.epochs * (rows // min(self.batch_size, rows))


class Configuration(StrictModel):
    """A row of tables 1 and 6, with the settings of the text or of somebody's code.

    Attributes:
        model: Whose estimator it uses.
        net: Of `FREE_FORM` or `COUPLING`.
    """

    name: str
    model: ModelName
    net: str
    jacobian_at: str
    settings: TabularSettings = TabularSettings()

    @property
    def place(self) -> str:
        """Where the Jacobian is taken, in the words of table 6."""
        at = {"data": "off manifold", "reconstruction": "on manifold", "": "–"}
        return at.get(self.jacobian_at, "on manifold, detached")

    def build(self, input_dim: tuple[int, ...], latent_dim: int, nets: NetSizes) -> Model:
        """A freshly initialised model; seed torch before calling."""
        if self.model == "flow_matching":  # one net, of as many parameters as FIF's two
            return FlowMatching(input_dim, round(math.sqrt(2) * nets.hidden_dim))
        shape: dict[str, Any] = {"input_dim": input_dim, "latent_dim": latent_dim}
        settings = self.settings
        choices: Any = settings.model_dump(include={"beta", "noise", "hutchinson_kind"})
        choices |= {"jacobian_at": self.jacobian_at, **shape}
        if self.net in FREE_FORM:
            sizes: Any = {"hidden_dim": nets.hidden_dim, "activation": FREE_FORM[self.net]}
            networks = TabularEncoder(**shape, **sizes), TabularDecoder(**shape, **sizes)
            return FIF(FIFConfig(**choices), *networks)
        data_hidden, latent_hidden = (
            [width * nets.block_dim // NetSizes().block_dim for width in hidden or (160, 160)]
            for hidden in (settings.data_hidden, settings.latent_hidden)
        )
        flow = build_coupling(
            **shape,
            data_blocks=nets.data_blocks,
            latent_blocks=nets.latent_blocks,
            data_hidden=data_hidden,
            latent_hidden=latent_hidden,
            activation=COUPLING[self.net],
        )
        if self.model == "rectangular_flow":
            return RectangularFlow(RectangularFlowConfig(**choices), *flow)
        model = FIF(FIFConfig(**choices), *flow)
        model.surrogate_mode = "published"  # most operations of these nets have no rule
        return model


_ROWS: tuple[tuple[str, str, str], ...] = (
    ("fif", "free-form", "data"),
    ("fif_on", "free-form", "reconstruction"),
    ("fif_on_detached", "free-form", "detached_reconstruction"),
    ("fif_silu", "free-form, SiLU", "data"),
    ("fif_silu_on", "free-form, SiLU", "reconstruction"),
    ("fif_silu_on_detached", "free-form, SiLU", "detached_reconstruction"),
    ("fif_coupling", "coupling", "data"),
    ("rectangular_flow_off", "coupling", "data"),
    ("fif_coupling_on", "coupling", "reconstruction"),
    ("rectangular_flow", "coupling", "reconstruction"),
    ("rectangular_flow_published", "coupling, tanh", "reconstruction"),
    ("flow_matching", "free-form, SiLU", ""),
)
CONFIGURATIONS = {
    name: Configuration(
        name=name,
        model=next(of for of in get_args(ModelName) if name.startswith(of)),
        net=net,
        jacobian_at=at,
        settings=RF_CODE if name == "rectangular_flow_published" else TabularSettings(),
    )
    for name, net, at in _ROWS
}
"""In the order of table 6, and flow matching."""


def train(
    model: Model,
    rows: Tensor,
    budget: TabularBudget,
    settings: TabularSettings,
    learning_rate: float,
    report_progress: ProgressCallback = lambda share: None,
) -> float | None:
    """Trains a fresh model on rows (N, D) with Adam; seed torch before. It gives the mean number of
    conjugate gradient steps, None where there are none."""
    batch_size = min(budget.batch_size, len(rows))
    used, steps = len(rows) // batch_size * batch_size, budget.steps(len(rows))
    optimizer = torch.optim.Adam(
        model.parameters(), lr=learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule: LRScheduler = ConstantLR(optimizer, 1.0, 0)
    if settings.one_cycle:
        schedule = OneCycleLR(optimizer, learning_rate, total_steps=steps)
    iterations: list[Tensor] = []
    model.train()
    for epoch in range(1, budget.epochs + 1):
        weight = float(np.interp(epoch, budget.warmup or (0, 1), (0, 1)))
        for batch in torch.randperm(len(rows))[:used].split(batch_size):
            out = model({"data": rows[batch]})
            optimizer.zero_grad()
            (weight * out.nll_loss + settings.beta * out.recon_loss).backward()
            optimizer.step()
            schedule.step()
            if isinstance(model, RectangularFlow) and model.cg_iterations is not None:
                iterations.append(model.cg_iterations.double().mean())
        report_progress(epoch / budget.epochs)
    model.eval()
    return float(torch.stack(iterations).mean()) if iterations else None


@dataclass(frozen=True)
class TabularScores:
    """Of one trained model; NaN where it gives no finite numbers, or none as flow matching.

    Attributes:
        wasserstein, validation_wasserstein: Squared Wasserstein-2 distance of Gaussian fits to as
            many samples as test or validation rows.
        reconstruction: Squared error a test row.
        log_likelihood: Exact, of the first test rows, in nats.
        seconds: Of the processor, for its training.
        cg_iterations: Conjugate gradient steps a Hutchinson vector; None where there are none.
    """

    wasserstein: float
    reconstruction: float
    validation_wasserstein: float
    log_likelihood: float
    seconds: float
    cg_iterations: float | None


@torch.no_grad()
def score_model(
    model: Model, splits: Splits, seed: int, seconds: float, steps: float | None
) -> TabularScores:
    """A model's scores, with draws by a seed and what its training took."""

    def finite(score: Callable[[], Any]) -> float:
        try:
            return float(score())
        except NonFiniteError:
            return math.nan

    def distance(rows: Tensor) -> float:
        samples = model.sample(len(rows))
        return finite(lambda: frechet_distance(Features(samples), Features(rows)))

    torch.manual_seed(seed)
    test, val = torch.from_numpy(splits.test), torch.from_numpy(splits.val)
    likelihood = error = math.nan
    if not isinstance(model, FlowMatching):
        likelihood = finite(lambda: model.log_prob(test[:LIKELIHOOD_ROWS]).mean())
        error = float(squared_error(model.reconstruct(test), test).mean())
    return TabularScores(distance(test), error, distance(val), likelihood, seconds, steps)


class TabularModels(StudySpec):
    """Models of one configuration, each with its learning rate, its seed and a record of its own.
    New runs are of one model; some that are committed are of several."""

    kind: ClassVar[str] = "tabular"

    dataset: str
    configuration: Configuration
    data_hash: str
    latent_dim: int
    budget: TabularBudget
    learning_rates: list[float]
    seeds: list[int]

    @property
    def folder(self) -> str:
        """`studies/tabular/<dataset>/<configuration>`."""
        return f"studies/tabular/{self.dataset}/{self.configuration.name}"

    @property
    def outputs(self) -> Mapping[str, type]:
        models = zip(self.seeds, self.learning_rates, strict=True)
        return {f"scores/seed{seed}-{rate:g}.json": TabularScores for seed, rate in models}

    def run(self, run: Run) -> None:
        """Trains and scores the models of the table that was planned; DataError if it changed."""
        run.report("loading data")
        location, budget = self.location, self.budget
        splits = load_tabular(self.dataset, location.data_root, data=location.data)
        if splits.content_hash != self.data_hash:
            raise DataError(f"the table {self.dataset} changed since the plan: start again")
        rows = torch.from_numpy(splits.train[: budget.train_size])
        for name, seed, rate in zip(self.outputs, self.seeds, self.learning_rates, strict=True):
            torch.manual_seed(seed)
            model = self.configuration.build(splits.input_dim, self.latent_dim, budget.nets)
            torch.manual_seed(seed)
            start = time.process_time()  # does not count when others have the machine
            settings, report_progress = (
                self.configuration.settings,
                lambda of: run.report("training", of),
            )
            iterations = train(model, rows, budget, settings, rate, report_progress)
            costs = time.process_time() - start, iterations
            run.save(name, score_model(model, splits, seed, *costs))
