"""Are the synthetic rows of a FIF better than those of a copula or a mixture of Gaussians?

Method and criterion, fixed before the runs:

* *Tables*: they differ in size and in kinds of column, and each has a column to predict.
  Diabetes of scikit-learn: 442 rows, 11 columns, most of them whole numbers, and one category.
  Breast cancer of scikit-learn: 569 rows of 30 real numbers that depend on each other, and a class.
  POWER: 9,000 rows of 8 columns, with whole numbers that are mostly 0, a column that is nearly a
  function of two others (intensity), and one that is nearly uniform (minute).
* *Splits*: by the seed, two thirds of the rows are for fitting and the others for the test. All
  methods model all columns, the one to predict among them, and draw as many rows as they fit.
* *FIF*: networks `tabular_small`, `beta="auto"`, on `load_table`'s standardised and one-hot rows;
  a fifth of the rows for fitting is its validation data. The latent dimension is the number of
  principal components that have 90 or 99 % of the variance, whichever has the higher marginal
  likelihood of the validation rows. Rows are drawn from the standard normal prior and from a
  mixture of ten Gaussians fitted to the codes, with noise around the manifold.
* *Gaussian copula*: columns are mapped to a normal distribution by their ranks, ties in random
  order, with the correlation of these scores; it draws values that occur. (scikit-learn's
  `QuantileTransformer` would map all equal lowest values to -5.2.)
* *Mixture of Gaussians*: of the same standardised rows; number and regularisation by
  cross-validated likelihood.
* *Rounding*: rows of all methods are rounded and clipped by the columns of the same table.
* *Measures*, on test rows: the score of gradient boosting that is trained on synthetic rows (R^2 or
  area under the ROC curve); the area of gradient boosting that tells test rows from synthetic
  ones, cross-fitted, for which 0.5 is ideal; and the mean over the columns of the
  Kolmogorov-Smirnov distance. Real rows, those for fitting, show what can be reached.
* *Criterion*: a method wins over another on a table by a measure if the paired t-test of their
  differences over the seeds has p < 0.01. By a measure, a FIF is worth a training if it wins over
  the copula and over the mixture on two of the three tables or more.

Seeds share the rows of a table: the test is about these tables, not about others. Profile `paper`
has five seeds, `quick` one with short trainings, which decides nothing.
"""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import ks_2samp, norm, ttest_1samp
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    train_test_split,
)

from pythae_fif import FIF, FIFConfig, FIFTrainer, FIFTrainerConfig
from pythae_fif.columns import Columns
from pythae_fif.data import Splits, load_table
from pythae_fif.data.sets.papamakarios import ARCHIVE
from pythae_fif.errors import DataError, pluralized
from pythae_fif.files import digest
from pythae_fif.models.saved import require_columns
from pythae_fif.names import DATA_VARIABLE, DataOptions, data_home
from pythae_fif.nn import build_networks
from pythae_fif.runs.local import LocalEngine
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)

POWER_COLUMNS = (
    "active_power",
    "reactive_power",
    "voltage",
    "intensity",
    "sub_metering_1",
    "sub_metering_2",
    "sub_metering_3",
    "minute",
)
POWER_ROWS = 9_000
TEST_SHARE = 1 / 3

FIFS = {"normal": "FIF, standard normal", "mixture": "FIF, mixture"}
"""Prior of the FIF -> the method's name on the page."""
COPULA = "Gaussian copula"
MIXTURE = "mixture of Gaussians"
OTHERS = (COPULA, MIXTURE)
METHODS = (*FIFS.values(), *OTHERS)
REAL = "real rows"

PREDICTION = "prediction"
DETECTION = "detection"
COLUMNS = "columns"
MEASURES: dict[str, Callable[[pd.Series], pd.Series]] = {
    PREDICTION: lambda scores: -scores,
    DETECTION: lambda areas: (areas - 0.5).abs(),
    COLUMNS: lambda distances: distances,
}
"""Measure -> its loss, which is low for good rows."""
MEASURE_NAMES = {
    PREDICTION: "prediction, R² or area",
    DETECTION: "detection, area",
    COLUMNS: "columns, distance",
}
"""Measure -> its name on the page."""

STEPS = {"quick": 100, "paper": 4000}
"""Training steps of a FIF."""
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
EXPLAINED_VARIANCES = (0.9, 0.99)
MIXTURE_GRID = {"n_components": [1, 2, 4, 8, 16], "reg_covar": [1e-3, 1e-2, 1e-1]}
MAX_P_VALUE = 0.01
NEEDED_TABLES = 2


class RealTable(NamedTuple):
    """A table, the column to predict, and its categories."""

    frame: pd.DataFrame
    target: str
    categories: tuple[str, ...] = ()

    @property
    def content_hash(self) -> str:
        """A hash of the rows."""
        return digest(self.frame.to_numpy(np.float64).tobytes())

    @property
    def is_classification(self) -> bool:
        """Whether the column to predict is a class."""
        return self.target in self.categories


def load_diabetes_table(location: DataOptions) -> RealTable:
    """Loads diabetes in original units; `target` is the progression after a year."""
    frame = load_diabetes(as_frame=True, scaled=False).frame
    return RealTable(frame, "target", ("sex",))


def load_breast_cancer_table(location: DataOptions) -> RealTable:
    """Loads breast cancer; `target` is 0 for malignant and 1 for benign."""
    return RealTable(load_breast_cancer(as_frame=True).frame, "target", ("target",))


def load_power_table(location: DataOptions) -> RealTable:
    """Loads random rows of POWER, without noise; `sub_metering_3` is the use of two devices."""
    path = data_home(location.data_root) / "power/data.npy"
    if not path.is_file():
        raise DataError(
            f"no POWER data in {path}: unpack {ARCHIVE} there, or set --data-root or "
            f"{DATA_VARIABLE}"
        )
    rows = np.load(path)
    frame = pd.DataFrame(rows, columns=[*POWER_COLUMNS])
    return RealTable(frame.sample(POWER_ROWS, random_state=0), "sub_metering_3")


TABLES: dict[str, Callable[[DataOptions], RealTable]] = {
    "diabetes": load_diabetes_table,
    "breast cancer": load_breast_cancer_table,
    "POWER": load_power_table,
}


# ------------------------------------------------------------------ one table and seed


@dataclass(frozen=True)
class RowScores:
    """How good the synthetic rows of each method are.

    Attributes:
        scores: Method -> measure -> its value.
        latent_dim: The FIF's latent dimension.
        component_count: Number of Gaussians of the mixture of rows.
    """

    scores: dict[str, dict[str, float]]
    latent_dim: int
    component_count: int


class RowsRun(StudySpec):
    """All methods on one table, with a seed of the split and of the methods."""

    kind: ClassVar[str] = "rows"
    result: ClassVar[Any] = RowScores
    on_cpu: ClassVar[bool] = True

    table: str
    seed: int
    steps: int
    data_hash: str

    def compute(self, report_progress: ProgressCallback) -> RowScores:
        """Fits all methods and scores their rows, on one thread."""
        torch.set_num_threads(1)
        table = TABLES[self.table](self.location)
        fit_frame, test_frame = train_test_split(
            table.frame, test_size=TEST_SHARE, random_state=self.seed
        )
        splits = load_table(fit_frame, categories=table.categories)
        count = len(fit_frame)

        model = choose_fif(splits, self.steps, self.seed)
        columns = require_columns(model)
        report_progress(0.7)
        mixture = fit_mixture(splits, self.seed)

        frames = draw_fif_rows(model, splits, count, self.seed)
        frames[COPULA] = draw_copula_rows(fit_frame, count, self.seed)
        frames[MIXTURE] = columns.to_frame(draw_mixture_rows(mixture, count, self.seed))
        frames[REAL] = fit_frame
        report_progress(0.8)

        scores = {
            method: score_rows(possible_rows(frame, columns), test_frame, table, self.seed)
            for method, frame in frames.items()
        }
        return RowScores(scores, model.latent_dim, mixture.n_components)


def possible_rows(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Rounds and clips rows as `columns` does for the samples of a model."""
    return columns.to_frame(columns.transform(frame))


# ------------------------------------------------------------------ methods


def choose_fif(splits: Splits, steps: int, seed: int) -> FIF:
    """Trains a FIF for each latent dimension.

    Returns:
        The one of the highest marginal likelihood of the validation rows.
    """
    val = np.concatenate([splits.val, splits.test])
    models = {}
    for share in EXPLAINED_VARIANCES:
        latent_dim = PCA(share, svd_solver="full").fit(splits.train).n_components_
        model = train_fif(splits.train, val, int(latent_dim), steps, seed)
        log_prob = model.marginal_log_prob(torch.from_numpy(val), model.noise_std)
        models[float(log_prob.mean())] = model
    chosen = models[max(models)]
    chosen.columns = splits.columns
    return chosen


def train_fif(train: np.ndarray, val: np.ndarray, latent_dim: int, steps: int, seed: int) -> FIF:
    """Trains a FIF on standardised rows (N, D), float32."""
    torch.manual_seed(seed)
    input_dim = train.shape[1:]
    networks = build_networks("tabular_small", input_dim, latent_dim)
    config = FIFConfig(input_dim=input_dim, latent_dim=latent_dim, beta="auto")
    model = FIF(config, *networks)

    with tempfile.TemporaryDirectory() as folder:
        training_config = FIFTrainerConfig(
            output_dir=folder,
            num_epochs=math.ceil(steps / math.ceil(len(train) / BATCH_SIZE)),
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=BATCH_SIZE,
            scheduler_cls="OneCycleLR",
            scheduler_params={"max_lr": LEARNING_RATE},
            scheduler_interval="step",
            no_cuda=True,
            seed=seed,
        )
        FIFTrainer(model, train, val, training_config).train()
    return model


def draw_fif_rows(model: FIF, splits: Splits, count: int, seed: int) -> dict[str, pd.DataFrame]:
    """Draws rows from the standard normal prior, and then from a mixture fitted to the codes.

    Returns:
        Method -> its rows.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = {}
    for prior, method in FIFS.items():
        if prior == "mixture":
            model.fit_prior(torch.from_numpy(splits.train), prior, seed=seed)
        frames[method] = model.sample(count, generator=generator, as_frame=True)
    return frames


def draw_copula_rows(frame: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Fits a Gaussian copula to rows of numbers, and draws rows of values that occur in them."""
    rng = np.random.default_rng(seed)
    scores = {}
    for name, column in frame.items():
        order = np.lexsort((rng.random(len(column)), column))
        ranks = order.argsort()
        scores[name] = norm.ppf((ranks + 0.5) / len(column))
    correlation = pd.DataFrame(scores).corr()

    normal = rng.multivariate_normal(np.zeros(len(correlation)), correlation, count)
    levels = dict(zip(frame, norm.cdf(normal).T, strict=True))
    return pd.DataFrame(
        {
            name: np.quantile(column, levels[name], method="inverted_cdf")
            for name, column in frame.items()
        }
    )


def fit_mixture(splits: Splits, seed: int) -> GaussianMixture:
    """Fits a mixture of Gaussians to all standardised rows for fitting."""
    rows = np.concatenate([splits.train, splits.val, splits.test]).astype(np.float64)
    search = GridSearchCV(GaussianMixture(random_state=seed), MIXTURE_GRID)
    return search.fit(rows).best_estimator_


def draw_mixture_rows(mixture: GaussianMixture, count: int, seed: int) -> np.ndarray:
    """Draws standardised rows (N, D) in random order; the mixture's are in that of components."""
    return np.random.default_rng(seed).permutation(mixture.sample(count)[0])


# ------------------------------------------------------------------ measures


def score_rows(
    synthetic: pd.DataFrame, test: pd.DataFrame, table: RealTable, seed: int
) -> dict[str, float]:
    """Computes all measures.

    Args:
        synthetic: Synthetic rows, at least as many as test rows.
        test: Real rows that no method has seen.
        table: The table that both are rows of.
        seed: Seed of gradient boosting and of the folds.
    """
    test = test[synthetic.columns]
    distances = [ks_2samp(synthetic[name], test[name]).statistic for name in test]
    return {
        PREDICTION: train_on_synthetic(synthetic, test, table, seed),
        DETECTION: detection_area(synthetic[: len(test)], test, seed),
        COLUMNS: float(np.mean(distances)),
    }


def train_on_synthetic(
    synthetic: pd.DataFrame, test: pd.DataFrame, table: RealTable, seed: int
) -> float:
    """Trains gradient boosting on synthetic rows and returns its score of the test rows."""
    features = synthetic.drop(columns=table.target).to_numpy(np.float64)
    test_features = test.drop(columns=table.target).to_numpy(np.float64)
    target, test_target = synthetic[table.target], test[table.target]
    if table.is_classification and target.nunique() == 1:
        return 0.5  # there is nothing to learn from rows of one class
    if table.is_classification:
        classifier = HistGradientBoostingClassifier(random_state=seed).fit(features, target)
        return float(roc_auc_score(test_target, classifier.predict_proba(test_features)[:, 1]))
    regressor = HistGradientBoostingRegressor(random_state=seed).fit(features, target)
    return float(r2_score(test_target, regressor.predict(test_features)))


def detection_area(synthetic: pd.DataFrame, test: pd.DataFrame, seed: int) -> float:
    """Returns the area under the ROC curve of gradient boosting that finds synthetic rows."""
    rows = pd.concat([synthetic, test]).to_numpy(np.float64)
    is_synthetic = np.arange(len(rows)) < len(synthetic)
    folds = StratifiedKFold(shuffle=True, random_state=seed)
    classifier = HistGradientBoostingClassifier(random_state=seed)
    probabilities = cross_val_predict(
        classifier, rows, is_synthetic, cv=folds, method="predict_proba"
    )
    return float(roc_auc_score(is_synthetic, probabilities[:, 1]))


# ------------------------------------------------------------------ all runs


def run_rows(options: StudyOptions) -> list[StudyPage]:
    """Runs all methods, and makes the table."""
    hashes = {table: load(options.location).content_hash for table, load in TABLES.items()}
    runs = [
        RowsRun(
            table=table,
            seed=seed,
            steps=STEPS[options.profile],
            data_hash=hashes[table],
            location=options.location,
        )
        for table in TABLES
        for seed in options.seeds
    ]
    engine = options.engine or LocalEngine(cpus_per_run=1)
    results = collect_results(runs, replace(options, engine=engine))

    lines = [
        {"table": run.table, "seed": run.seed, "measure": measure, "method": method, "value": value}
        for run, result in zip(runs, results, strict=True)
        for method, values in result.scores.items()
        for measure, value in values.items()
    ]
    numbers = pd.DataFrame(lines)
    by_seed = numbers.pivot_table("value", ["measure", "table", "seed"], "method", sort=False)
    return [
        StudyPage.of_table(
            name="rows" + ("" if options.profile == "paper" else f"-{options.profile}"),
            title="Synthetic rows of tables",
            caption="Mean ± standard deviation over "
            f"{pluralized(len(options.seeds), 'seed')}. *Prediction* is the score, on test rows, "
            "of gradient boosting that is trained on the rows: R² for diabetes and POWER, area "
            "under the ROC curve for breast cancer; high is good. *Detection* is the area of "
            "gradient boosting that tells the rows from test rows; 0.5 is good. *Columns* is the "
            "mean Kolmogorov-Smirnov distance of the columns to those of test rows; low is good. "
            f"*{REAL.capitalize()}* are those that the methods are fitted to. *Best* marks the "
            "synthetic rows of the lowest mean loss, and *level* those that do not differ from "
            f"them by a paired t-test over the seeds (p < {MAX_P_VALUE}).",
            table=_make_table(by_seed),
            numbers=numbers,
            notes=[*_verdicts(by_seed), _describe_choices(runs, results)],
        )
    ]


def _p_value(differences: pd.Series) -> float:
    """Returns the p-value of a paired t-test over seeds; NaN for one seed."""
    return float(ttest_1samp(differences, 0.0).pvalue)


def _make_table(by_seed: pd.DataFrame) -> pd.DataFrame:
    """Returns the cells of the page's table, from the values (measure, table and seed, method)."""
    parts = []
    for measure, name in MEASURE_NAMES.items():
        columns = {"measure": [name] * len((*METHODS, REAL)), "rows of": [*METHODS, REAL]}
        columns |= {table: _make_cells(by_seed.loc[measure, table], measure) for table in TABLES}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _make_cells(values: pd.DataFrame, measure: str) -> list[str]:
    """Returns the cells of one measure and table, from its values (seed, method)."""
    losses = values.apply(MEASURES[measure])
    best = losses[[*METHODS]].mean().idxmin()

    cells = []
    for method in (*METHODS, REAL):
        cell = f"{values[method].mean():.3f}"
        if len(values) > 1:
            cell += f" ± {values[method].std():.3f}"
        if method == best:
            cell += ", best"
        elif method != REAL and len(values) > 1:
            is_level = _p_value(losses[method] - losses[best]) >= MAX_P_VALUE
            cell += ", level" if is_level else ""
        cells.append(cell)
    return cells


def _verdicts(by_seed: pd.DataFrame) -> list[str]:
    """Returns one line for each measure and prior: on how many tables the FIF wins over whom."""
    if by_seed.index.get_level_values("seed").nunique() == 1:
        return ["One seed decides nothing."]
    notes = []

    for measure, loss in MEASURES.items():
        for method in FIFS.values():
            results = []
            is_worth = True

            for other in OTHERS:
                wins = losses = 0
                for table in TABLES:
                    values = by_seed.loc[measure, table]
                    differences = loss(values[method]) - loss(values[other])
                    if _p_value(differences) < MAX_P_VALUE:
                        wins += bool(differences.mean() < 0)
                        losses += bool(differences.mean() > 0)
                results.append(f"{other} {wins}:{losses}")
                is_worth &= wins >= NEEDED_TABLES

            verdict = "is worth a training" if is_worth else "is not worth a training"
            notes.append(
                f"{method}, by {measure}: tables on which it wins and loses: {', '.join(results)}. "
                f"By the criterion of the study it {verdict}."
            )
    return notes


def _describe_choices(runs: Sequence[RowsRun], results: Sequence[RowScores]) -> str:
    """Returns a sentence with the chosen latent dimensions and numbers of Gaussians."""
    sentences = []
    for table in TABLES:
        of_table = [result for run, result in zip(runs, results, strict=True) if run.table == table]
        latent_dims = ", ".join(str(result.latent_dim) for result in of_table)
        counts = ", ".join(str(result.component_count) for result in of_table)
        sentences.append(f"{table} {latent_dims} and {counts}")
    return (
        "Chosen latent dimensions of the FIF and numbers of Gaussians of the mixture, by seed: "
        f"{'; '.join(sentences)}."
    )


STUDY = Study(run_rows, seeds=(1, 5))
"""The study `rows`: its methods, their scores, and its verdict."""
