"""Where the codes of FIF come to rest, and how long that takes, by activation, rate, width and K.

    OMP_NUM_THREADS=1 python benchmarks/code_scale.py --store DIR [--cases relu silu] [--draw]

Scaling the code (f to s f, g to g(. / s)) leaves the reconstructions alone and moves no kink, so
that the gradient of the loss along it is E|z|^2 - E tr f'(x) g'(z), whatever the activation. Where
training rests, the two are equal; while they differ, it does not rest. The free-form nets of
appendix E.2, of less width, are trained on POWER at constant rates, without weight decay, and then
for a tenth of the steps at a tenth of the rate. At numbers of steps that grow by a constant factor
the gradient of the mean loss, with the exact trace, is taken in float64 on the same noisy rows.

A case is one ensemble: the seeds of all its rates. Its measurements are a file in the store, row by
row; a case whose file is whole is not trained again. Figure and table show what the store has.
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import publish, with_range
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pythae_fif import FIF, FIFConfig
from pythae_fif.ensemble import Ensemble
from pythae_fif.ensemble.stacking import Nets
from pythae_fif.files import write_text
from pythae_fif.nn.tabular import TabularDecoder, TabularEncoder
from pythae_fif.pictures import new_figure
from pythae_fif.reports.grid import Cell, Grid
from pythae_fif.studies import StudyOptions
from pythae_fif.studies.output import Drawing
from pythae_fif.studies.tabular_protocol import APPENDIX, Table, load_table
from pythae_fif.training import keep_freed_memory
from pythae_fif.volume_change import SurrogateOutput, fif_loss
from pythae_fif.volume_change.loss import Map
from pythae_fif.volume_change.replay import record

BATCH, WIDTH, WIDE = 128, 40, 80  # the latter is that of the tables' profile `quick`
MEASURED, CHUNK = 4096, 1024  # rows
RATES, LAST = (1e-3, 1e-2), 0.1  # what comes at a tenth of the rate, in units of `--steps`
POINTS = 20  # measurements at the constant rate
TITLE = "POWER: where the codes come to rest"
KINKED, SHARP = ("relu", "leaky_relu"), "softplus100"  # the latter is ReLU but for 0.007
LOST = 5.0  # squared error; the mean row of the six standardised columns has 5.7
EARLY, LATER = 1_000, 10_000  # steps of the table's first columns

ACTIVATIONS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "relu": ("ReLU", nn.ReLU),
    "leaky_relu": ("LeakyReLU, slope 0.01", nn.LeakyReLU),
    "softplus100": ("softplus, sharpness 100", partial(nn.Softplus, beta=100)),
    "softplus10": ("softplus, sharpness 10", partial(nn.Softplus, beta=10)),
    "softplus1": ("softplus, sharpness 1", nn.Softplus),
    "gelu": ("GELU", nn.GELU),
    "silu": ("SiLU", nn.SiLU),
}


@dataclass(frozen=True)
class Case:
    """An ensemble.

    Attributes:
        activation: Of all hidden layers.
        exact: Whether the trace is exact, K = d, instead of K = 1.
        width: Of all hidden layers.
        rates: Of its members, each with all seeds.
        step: That of central differences, which see kinks, in place of f'; None for f'.
    """

    activation: str
    exact: bool = False
    width: int = WIDTH
    rates: tuple[float, ...] = RATES
    step: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is of the cases that differ in the activation alone."""
        return not self.exact and self.width == WIDTH and self.step is None


CASES = {
    "relu": Case("relu"),
    "silu": Case("silu"),
    "relu_differences": Case("relu", step=0.03),
    "softplus100": Case("softplus100"),
    "softplus10": Case("softplus10"),
    "leaky_relu": Case("leaky_relu"),
    "relu_exact": Case("relu", exact=True, rates=RATES[:1]),
    "gelu": Case("gelu"),
    "softplus1": Case("softplus1"),
    "relu_wide": Case("relu", width=WIDE, rates=RATES[:1]),
    "silu_wide": Case("silu", width=WIDE, rates=RATES[:1]),
    "silu_exact": Case("silu", exact=True, rates=RATES[:1]),
}  # in the order of their training


@dataclass(frozen=True)
class Point:
    """The state of a case's members after a number of steps, in the order rate, seed.

    Attributes:
        steps, seconds: Of training, all members together.
        code: |z|^2 / d of each.
        trace: tr f'(x) g'(z) / d.
        weights: Norm of all parameters.
        gradient: Norm of the mean loss's gradient.
        along: Its component along the scaling of the code, a direction of norm 1.
        derivative: Its product with that direction itself, over d: `code` - `trace`, in theory.
        reconstruction: Squared error a row.
    """

    steps: int
    seconds: float
    code: list[float]
    trace: list[float]
    weights: list[float]
    gradient: list[float]
    along: list[float]
    derivative: list[float]
    reconstruction: list[float]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--store", type=Path, required=True, help="folder of the measurements")
    p.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    p.add_argument("--steps", type=int, default=100_000)
    p.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    p.add_argument("--draw", action="store_true", help="trains nothing")
    p.add_argument("--data-root")
    p.add_argument("--results", type=Path, default=Path("results"))
    flags = p.parse_args()
    options = StudyOptions(
        results=flags.results,
        data_root=flags.data_root,
        dataset="power",
        command="python benchmarks/code_scale.py --store DIR",
    )
    table = load_table("power", options)
    if not flags.draw:
        keep_freed_memory()
        for name in flags.cases:
            file = flags.store / f"{name}.jsonl"
            settings = asdict(CASES[name]) | {"steps": flags.steps, "seeds": flags.seeds}
            if not is_whole(file, settings):
                print(name, flush=True)
                train(CASES[name], settings, table, file)
    draw(list(read(flags.store)), table, options)


def is_whole(file: Path, settings: dict[str, Any]) -> bool:
    """Whether a case's measurements are complete; an error where they have other settings."""
    if not file.exists():
        return False
    head, *points = map(json.loads, file.read_text().splitlines())
    if asdict(Case("")) | head != json.loads(json.dumps(settings)):  # a later field has its default
        raise SystemExit(f"{file} has measurements of other settings: give another --store")
    return bool(points) and points[-1]["last"]


def build(case: Case, seed: int, table: Table) -> FIF:
    """A freshly initialised member."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"input_dim": table.splits.input_dim, "latent_dim": table.latent_dim}
    config = FIFConfig(**shape, beta=APPENDIX.beta, noise=APPENDIX.noise)
    sizes: Any = {"hidden_dim": case.width, "activation": ACTIVATIONS[case.activation][1]}
    return FIF(config, TabularEncoder(**shape, **sizes), TabularDecoder(**shape, **sizes))


def train(case: Case, settings: dict[str, Any], table: Table, file: Path) -> None:
    """Trains a case and writes its measurements."""
    pairs = [(rate, seed) for rate in case.rates for seed in settings["seeds"]]
    kind = Differences if case.step else ExactEnsemble if case.exact else Ensemble
    ensemble = kind([build(case, seed, table) for _, seed in pairs], [seed for _, seed in pairs])
    ensemble.step = case.step
    epoch_steps = len(table.train) // BATCH
    constant = math.ceil(settings["steps"] / epoch_steps)
    epochs = math.ceil((1 + LAST) * constant)
    growth = constant ** (1 / (POINTS - 1))
    measured = {round(growth**point) for point in range(POINTS)} | {epochs}
    x = table.train[torch.randperm(len(table.train), generator=torch.Generator().manual_seed(1))]
    x = x[:MEASURED].double()
    x += APPENDIX.noise * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype
    )
    write_text(file, json.dumps(settings) + "\n")
    spent, since = 0.0, time.process_time()

    def on_epoch(epoch: int) -> None:
        nonlocal spent, since
        if epoch not in measured:
            return
        spent += time.process_time() - since
        found = [measure(model, x) for model in ensemble.members()]
        columns = {name: [of[name] for of in found] for name in found[0]}
        point = asdict(Point(epoch * epoch_steps, spent, **columns)) | {"last": epoch == epochs}
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(point) + "\n")
        shown = [round(a - b, 3) for a, b in zip(point["code"], point["trace"], strict=True)]
        print(f"  {point['steps']:,} steps, {spent:.0f} s", shown, flush=True)
        since = time.process_time()

    ensemble.train(
        table.train,
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=[rate for rate, _ in pairs],
        schedule=lambda optimizer, steps: LambdaLR(
            optimizer, lambda step: 1.0 if step < constant * epoch_steps else 0.1
        ),
        on_epoch=on_epoch,
    )


class ExactEnsemble(Ensemble):
    """An ensemble with the exact trace, of K = d vectors along the axes, in place of the drawn."""

    def _loss(self, nets: Nets, x: Tensor, eps: Tensor, terms: Tensor) -> Tensor:
        vectors = axes(eps.shape[-1], eps)[:, None].expand(-1, *eps.shape[1:])
        return super()._loss(nets, x, vectors, terms)


class Differences(Ensemble):
    """An ensemble whose f' g' eps is a central difference of f along g' eps, with K = 1.

    Its gradient is through f at both ends, so that a kink between them is seen: it is that of the
    volume term with f averaged over the step. The smaller the step, the noisier the gradient. The
    package's mode ``central_difference`` has a smaller step, which is accurate where there are no
    kinks.
    """

    step: float

    def _loss(self, nets: Nets, x: Tensor, eps: Tensor, terms: Tensor) -> Tensor:
        def surrogate(encode: Map, decode: Map, x: Tensor, eps: Tensor) -> SurrogateOutput:
            z = encode(x)
            tape = record(decode, z)
            with torch.no_grad():
                move = self.step * tape.jvps(eps)[0]
            difference = (encode(x + move) - encode(x - move)) / (2 * self.step)
            return SurrogateOutput(-(eps[0] * difference).sum(-1), z, tape.value)

        prior = self.models[0].latent_distribution(x).log_prob
        return fif_loss(
            nets.encode,
            nets.decode,
            prior,
            x,
            eps,
            terms[1],
            surrogate=surrogate,
            likelihood_weight=terms[0],
            reduce=lambda of_samples: of_samples.mean(1),
        ).loss


def axes(d: int, like: Tensor) -> Tensor:
    """Hutchinson vectors along the axes, (d, 1, d), of which the estimate is the trace itself."""
    return math.sqrt(d) * torch.eye(d, dtype=like.dtype, device=like.device)[:, None]


def measure(model: FIF, x: Tensor) -> dict[str, float]:
    """The numbers of a :class:`Point` for one member, at rows in float64."""
    model, d = copy.deepcopy(model).double(), model.latent_dim
    normal = model.latent_distribution(x)
    code, trace, error = 0.0, 0.0, 0.0
    for rows in x.split(CHUNK):
        share = len(rows) / len(x)
        loss = fif_loss(
            lambda rows: model.encoder(rows).embedding,
            lambda z: model.decoder(z)["reconstruction"],
            normal.log_prob,
            rows,
            axes(d, x).expand(-1, len(rows), -1),
            APPENDIX.beta,
            reduce=lambda values, share=share: share * values.mean(),
        )
        loss.loss.backward()
        code += share * float(loss.z.detach().square().mean())
        log_prob = share * float(normal.log_prob(loss.z.detach()).mean())
        trace -= (float(loss.nll.detach()) + log_prob) / d
        error += float(loss.reconstruction.detach())
    product, direction_square = 0.0, 0.0
    for parameter, sign in scaled_parameters(model):
        assert parameter.grad is not None
        product += sign * float((parameter.grad * parameter.detach()).sum())
        direction_square += float(parameter.detach().square().sum())
    return {
        "code": code,
        "trace": trace,
        "weights": norm(model.parameters()),
        "gradient": norm(parameter.grad for parameter in model.parameters()),
        "along": product / math.sqrt(direction_square),
        "derivative": product / d,
        "reconstruction": error,
    }


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Of all tensors together."""
    return math.sqrt(
        sum(float(tensor.detach().square().sum()) for tensor in tensors if tensor is not None)
    )


def scaled_parameters(model: FIF) -> Iterator[tuple[nn.Parameter, int]]:
    """The parameters that a scaling of the code by s multiplies by s (1) or divides by it (-1)."""
    (before, *encoder_blocks), (*decoder_blocks, after) = model.encoder.layers, model.decoder.layers
    blocks = [block.layers for block in (*encoder_blocks, *decoder_blocks)]
    for layers in (before, *blocks):
        yield layers[-1].weight, 1
        yield layers[-1].bias, 1
    for layers in (after, *blocks):
        yield layers[0].weight, -1


@dataclass(frozen=True)
class Curve:
    """What was measured of one case at one rate, of which the seeds are columns.

    Attributes:
        case, rate, seeds: Which it is.
        points: At the constant rate, one a number of steps.
        last: After the steps at a tenth of the rate.
    """

    case: Case
    rate: float
    seeds: list[int]
    points: list[Point]
    last: Point

    @property
    def name(self) -> str:
        k = ", exact trace" if self.case.exact else ""
        width = f", width {self.case.width}" if self.case.width != WIDTH else ""
        differences = f", central differences, step {self.case.step:g}" if self.case.step else ""
        return ACTIVATIONS[self.case.activation][0] + k + width + differences

    def median(self, of: Callable[[Point], list[float]]) -> list[float]:
        """The median over seeds at each of the points: at high rates some diverge."""
        return [statistics.median(of(point)) for point in self.points]

    @property
    def end(self) -> Point:
        """The last at the constant rate."""
        return self.points[-1]

    def after(self, steps: int) -> Point:
        """The one nearest to a number of steps."""
        return min(self.points, key=lambda point: abs(math.log(point.steps / steps)))

    @property
    def is_lost(self) -> bool:
        """Whether half of the seeds or more end about as bad as the mean row, or worse."""
        return statistics.median(self.last.reconstruction) > LOST


def gap(point: Point) -> list[float]:
    """|z|^2/d - tr f'g'/d of each member."""
    return [code - trace for code, trace in zip(point.code, point.trace, strict=True)]


def read(store: Path) -> Iterator[Curve]:
    """The curves of all cases that the store has whole, in their order."""
    for name, case in CASES.items():
        file = store / f"{name}.jsonl"
        head, *rows = map(json.loads, file.read_text().splitlines()) if file.exists() else [{}]
        if not rows or not rows[-1].pop("last"):
            continue
        points = [Point(**{k: v for k, v in row.items() if k != "last"}) for row in rows]
        count = len(head["seeds"])
        for i, rate in enumerate(head["rates"]):
            of_rate = [of_members(point, slice(i * count, (i + 1) * count)) for point in points]
            yield Curve(case, rate, head["seeds"], of_rate[:-1], of_rate[-1])


def of_members(point: Point, members: slice) -> Point:
    """The point of some members alone."""
    values = {k: v[members] for k, v in asdict(point).items() if isinstance(v, list)}
    return replace(point, **values)


def draw(curves: list[Curve], table: Table, options: StudyOptions) -> None:
    """The figure with its caption, and the table."""
    if not curves:
        return
    missing = [name for name, case in CASES.items() if all(c.case != case for c in curves)]
    rows = []
    for c in curves:
        early, later, end = c.after(EARLY), c.after(LATER), c.end
        means = [with_range(of) for of in (early.code, gap(early), gap(later), end.code, end.trace)]
        means += [with_range(of) for of in (gap(end), end.gradient, end.along, end.weights)]
        rest = [with_range(of) for of in (c.last.code, gap(c.last), c.last.reconstruction)]
        rows.append([Cell(c.name), Cell(f"{c.rate:g}", c.rate), *means, *rest])
    steps, last = curves[0].points[-1].steps, curves[0].last.steps
    notes = [
        f"Data: {table.splits.source}. Nets of appendix E.2 with width {WIDTH}, d = "
        f"{table.latent_dim}, beta {APPENDIX.beta:g}, noise {APPENDIX.noise:g}, K = 1, "
        f"batch {BATCH}, Adam without weight decay; {steps:,} steps at a constant rate, "
        f"{last - steps:,} at a tenth of it. "
        f"Median, with lowest and highest, of seeds {', '.join(map(str, curves[0].seeds))}, on "
        f"{MEASURED:,} training rows with noise, in float64 with the exact trace.",
        f"Difference: |z|²/d - tr f'(x) g'(z)/d. At {EARLY:,} and {LATER:,} steps: at the nearest "
        "measurement. Gradient: norm of that of the mean loss, and its component along the scale "
        "of the code; weights: norm of all parameters; these and |z|²/d, tr/d and the difference "
        "beside them are of the end of the constant rate. The last columns: after the steps at a "
        "tenth of it.",
        *([f"Not yet in the store: {', '.join(missing)}."] if missing else []),
        f"Made by `{options.command}`.",
    ]
    headings = [
        "Nets", "rate", f"|z|²/d at {EARLY:,}", f"difference at {EARLY:,}",
        f"difference at {LATER:,}", "|z|²/d", "tr/d", "difference", "gradient", "along", "weights",
        "|z|²/d after", "difference after", "recon. after ↓",
    ]  # fmt: skip
    grid = Grid("power: where the codes come to rest", headings, "l" + 13 * "r", rows, notes)
    drawing = Drawing("code-scale-power", figure(curves), TITLE, caption(curves))
    publish(options.results, options.command, grid, drawing)


def figure(curves: list[Curve]) -> Any:
    """Code and trace, their difference, and the gradient, against steps; a column a rate."""
    shown = [c for c in curves if c.case.is_plain or c.case.step]
    picture = new_figure(9, 8)
    axes: Any = picture.subplots(3, len(RATES), sharex=True, sharey="row", squeeze=False)
    for column, rate in enumerate(RATES):
        top, middle, bottom = axes[:, column]
        top.set_title(f"rate {rate:g}", fontsize=10)
        for c in (c for c in shown if c.rate == rate):
            style: Any = {
                "color": f"C{list(ACTIVATIONS).index(c.case.activation)}",
                "linewidth": 1.2,
            }
            style["color"] = "k" if c.case.step else style["color"]
            steps = [point.steps for point in c.points]
            top.plot(steps, c.median(lambda point: point.code), label=c.name, **style)
            top.plot(steps, c.median(lambda point: point.trace), ":", **style)
            middle.plot(steps, c.median(gap), **style)
            bottom.plot(steps, c.median(lambda point: point.gradient), **style)
            bottom.plot(steps, c.median(lambda p: [abs(a) for a in p.along]), ":", **style)
        middle.axhline(0, color="0.8", linewidth=0.8)
        top.set_ylim(0, 1.8)  # what diverges leaves the picture
        middle.set_ylim(-0.7, 0.3)
        bottom.set_xlabel("steps")
        bottom.set_yscale("log")
        top.set_xscale("log")
        for axis in (top, middle, bottom):
            axis.spines[["top", "right"]].set_visible(False)
    labels = (
        "|z|²/d, and tr f′g′/d (dotted)",
        "their difference",
        "gradient, along scale (dotted)",
    )
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label)
    entries = axes[0, 0].get_legend_handles_labels()
    picture.legend(*entries, loc="outside upper center", ncols=3, fontsize=8)
    return picture


def caption(curves: list[Curve]) -> str:
    """What the numbers say, and what they leave open."""
    lost = [c for c in curves if c.is_lost]
    curves = [c for c in curves if not c.is_lost]
    base = [c for c in curves if c.case.is_plain]
    exact = max(
        abs(difference - derivative)
        for c in curves
        for point in (*c.points, c.last)
        for difference, derivative in zip(gap(point), point.derivative, strict=True)
    )
    text = [
        "|z|²/d (solid) and tr f'(x) g'(z)/d (dotted), their difference, and the norm of the mean "
        "loss's gradient with its component along the scale of the code, medians over seeds. In "
        "all of these measurements the gradient along the scale is d times the difference, to "
        f"{exact:.0e}, with kinks and without."
    ]
    kinked = [c for c in base if c.case.activation in KINKED]
    for name, group in (
        ("kinks", kinked),
        ("smooth activations", [c for c in base if c not in kinked]),
    ):
        for rate in RATES:
            found = [c for c in group if c.rate == rate]
            if found:
                text.append(
                    f"With {name} ({'; '.join(c.name for c in found)}) at a rate of {rate:g} the "
                    f"median difference is {medians(found, lambda c: gap(c.after(EARLY)))} after "
                    f"{EARLY:,} steps, {medians(found, lambda c: gap(c.after(LATER)))} after "
                    f"{LATER:,} and {medians(found, lambda c: gap(c.end))} at the end, where "
                    f"|z|²/d is {medians(found, lambda c: c.end.code)}."
                )
    relu = {c.rate: c for c in base if c.case.activation == "relu"}
    sharp = {c.rate: c for c in base if c.case.activation == SHARP}
    if pairs := [(relu[rate], sharp[rate]) for rate in relu if rate in sharp]:
        told = "; ".join(
            f"at {of_relu.rate:g}, {span(of_sharp.after(EARLY).code)} against "
            f"{span(of_relu.after(EARLY).code)} after {EARLY:,} steps and "
            f"{span(of_sharp.end.code)} against {span(of_relu.end.code)} at the end, squared error "
            f"{span(of_sharp.last.reconstruction, '.3f')} against "
            f"{span(of_relu.last.reconstruction, '.3f')}"
            for of_relu, of_sharp in pairs
        )
        apart = all(
            min(place(of_sharp)) > max(place(of_relu))
            for of_relu, of_sharp in pairs
            for place in (lambda c: c.after(EARLY).code, lambda c: c.end.code)
        )
        text.append(
            "Softplus of sharpness 100 is ReLU's map to 0.007, but automatic differentiation sees "
            f"its bends: all seeds' |z|²/d {told}. "
            + (
                "So what automatic differentiation misses of ReLU's kinks narrows the codes, both "
                "on the way and where training ends; that the difference closes is no sign of "
                "wide codes."
                if apart
                else "Whether what automatic differentiation misses of ReLU's kinks narrows the "
                "codes stays open: the seeds overlap."
            )
        )
    for c in curves:
        if c.case.step and c.rate in relu:
            text.append(
                f"{c.name}, at {c.rate:g}: |z|²/d {span(c.after(EARLY).code)} after {EARLY:,} "
                f"steps, against {span(relu[c.rate].after(EARLY).code)}; a noisier gradient, with "
                f"{span(c.end.code)} and a squared error of {span(c.end.reconstruction)} at the "
                "end of the constant rate."
            )
        twin = [b for b in base if (b.case.activation, b.rate) == (c.case.activation, c.rate)]
        if (c.case.exact or c.case.width != WIDTH) and twin:
            text.append(
                f"{c.name}, at {c.rate:g}: |z|²/d {span(c.end.code)} and a difference of "
                f"{span(gap(c.end))} at the end, against {span(twin[0].end.code)} and "
                f"{span(gap(twin[0].end))}."
            )
    if lost:
        names = "; ".join(f"{c.name}, at {c.rate:g}" for c in lost)
        text.append(
            "Left out, since most of their trainings collapse or diverge at this constant rate and "
            f"end no better than the mean row: {names}."
        )
    steps = max(c.end.steps for c in curves)
    text.append(f"All after at most {steps:,} steps: what happens later is not shown.")
    return " ".join(text)


def medians(curves: list[Curve], of: Callable[[Curve], list[float]]) -> str:
    """The range of the curves' medians over seeds."""
    return span([statistics.median(of(c)) for c in curves])


def span(values: Sequence[float], form: str = ".2f") -> str:
    """The range of some numbers."""
    return " to ".join(dict.fromkeys(format(end, form) for end in (min(values), max(values))))


if __name__ == "__main__":
    main()
