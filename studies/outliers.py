"""Does a FIF find outliers in tables better than the detectors that everyone has?

A detector sees rows of one class only, and gives each unseen row a score. Method and criterion,
fixed before the runs:

* *Tables*: breast cancer, wine and digits of scikit-learn. Each class is the normal one in turn,
  and rows of the others are the outliers. Of MINIBOONE, which has one class here, the outliers are
  rows whose columns are shuffled, each by itself: only dependences between columns give them away.
* *Splits*: by the seed, one half of the normal rows is for training and the other one for the test.
* *Detectors*: isolation forest, one Gaussian (Ledoit-Wolf covariance), a mixture of Gaussians
  (number and regularisation by cross-validated likelihood), the reconstruction error of PCA (90 %
  of the variance), local outlier factor, and the three scores of `FIFOutlierDetector`. All others
  are scikit-learn's with its defaults, on rows that are standardised by the training rows.
* *Measure*: area under the ROC curve, mean over the classes of a table.
* *Criterion*: a detector wins over another on a table if the paired t-test of their differences
  over the seeds has p < 0.01. A FIF's score is worth a training if it wins over each of the five
  others on two of the four tables or more, and loses to none of them on more tables than it wins.

Seeds share the rows of a table: the test is about these tables, not about others. Profile `paper`
has five seeds, `quick` one with short trainings, which decides nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import ttest_1samp
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from pythae_fif import FIFOutlierDetector
from pythae_fif.data.sets.papamakarios import load_tabular
from pythae_fif.errors import pluralized
from pythae_fif.files import digest
from pythae_fif.names import DataOptions
from pythae_fif.outlier_detector import EXPLAINED_VARIANCE
from pythae_fif.runs.local import LocalEngine
from pythae_fif.study import (
    ProgressCallback,
    Study,
    StudyOptions,
    StudyPage,
    StudySpec,
    collect_results,
)

SCIKIT_LEARN: dict[str, Callable[..., Any]] = {
    "breast cancer": load_breast_cancer,
    "wine": load_wine,
    "digits": load_digits,
}
"""Tables of scikit-learn, and the functions that load them."""
TABLES = (*SCIKIT_LEARN, "MINIBOONE")
MINIBOONE_ROWS = 3_000

FIF_SCORES = {
    "marginal_log_likelihood": "FIF, marginal log-likelihood",
    "log_likelihood": "FIF, log-likelihood",
    "distance": "FIF, distance",
}
"""Criterion of the detector -> its name on the page."""
OTHERS = (
    "isolation forest",
    "one Gaussian",
    "mixture of Gaussians",
    "PCA, reconstruction error",
    "local outlier factor",
)
METHODS = (*FIF_SCORES.values(), *OTHERS)

STEPS = {"quick": 100, "paper": 2000}
"""Training steps of a FIF."""
MAX_P_VALUE = 0.01
NEEDED_TABLES = 2
MIXTURE_GRID = {"n_components": [1, 2, 4, 8], "reg_covar": [1e-3, 1e-2, 1e-1]}

Scores = Callable[[np.ndarray], np.ndarray]
"""Returns the scores (N,) of rows (N, D); they are low for outliers."""


class Rows(NamedTuple):
    """The rows of a table (N, D), and their classes (N,); one class if outliers are shuffled."""

    rows: np.ndarray
    classes: np.ndarray

    @property
    def content_hash(self) -> str:
        """A hash of the rows and classes."""
        return digest(self.rows.tobytes(), self.classes.tobytes())


def load_rows(table: str, location: DataOptions) -> Rows:
    """Loads a table."""
    if table in SCIKIT_LEARN:
        return Rows(*SCIKIT_LEARN[table](return_X_y=True))
    rows = load_tabular("miniboone", location.data_root).train[:MINIBOONE_ROWS].astype(np.float64)
    return Rows(rows, np.zeros(len(rows), dtype=np.int64))


@dataclass(frozen=True)
class OutlierAreas:
    """How well each detector separates outliers.

    Attributes:
        areas: Normal class -> detector -> area under the ROC curve.
        latent_dims: Normal class -> latent dimension of the FIF.
    """

    areas: dict[str, dict[str, float]]
    latent_dims: dict[str, int]


class OutlierRun(StudySpec):
    """All detectors on one table, with a seed of the split and of the detectors."""

    kind: ClassVar[str] = "outliers"
    result: ClassVar[Any] = OutlierAreas
    on_cpu: ClassVar[bool] = True

    table: str
    seed: int
    steps: int
    data_hash: str

    def compute(self, report_progress: ProgressCallback) -> OutlierAreas:
        """Fits the detectors to each class in turn, on one thread."""
        torch.set_num_threads(1)
        rows, classes = load_rows(self.table, self.location)
        names = np.unique(classes)
        areas = {}
        latent_dims = {}
        for index, name in enumerate(names):
            report_progress(index / len(names))
            rng = np.random.default_rng(self.seed)
            normal = rng.permutation(rows[classes == name])
            train, test = np.split(normal, [len(normal) // 2])
            outliers = rows[classes != name]
            if not len(outliers):
                outliers = rng.permuted(test, axis=0)

            scaler = StandardScaler().fit(train)
            detector = FIFOutlierDetector(max_steps=self.steps, random_state=self.seed).fit(train)
            scores = fif_scores(detector, test, outliers)
            for method, score in fit_others(scaler.transform(train), self.seed).items():
                scores[method] = score(scaler.transform(np.concatenate([test, outliers])))
            is_normal = np.arange(len(test) + len(outliers)) < len(test)
            areas[str(name)] = {
                method: float(roc_auc_score(is_normal, values)) for method, values in scores.items()
            }
            latent_dims[str(name)] = detector.model_.latent_dim
        return OutlierAreas(areas, latent_dims)


def fif_scores(
    detector: FIFOutlierDetector, test: np.ndarray, outliers: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the name of each score of a FIF -> its values for test rows and outliers."""
    rows = np.concatenate([test, outliers])
    scores = {}
    for criterion, name in FIF_SCORES.items():
        scores[name] = detector.set_params(criterion=criterion).score_samples(rows)
    return scores


def fit_others(train: np.ndarray, seed: int) -> Mapping[str, Scores]:
    """Fits the other detectors to standardised rows (N, D).

    Returns:
        Name of each detector -> its scores.
    """
    forest = IsolationForest(random_state=seed).fit(train)
    gaussian = LedoitWolf().fit(train)
    mixture = GridSearchCV(GaussianMixture(random_state=seed), MIXTURE_GRID).fit(train)
    pca = PCA(EXPLAINED_VARIANCE, svd_solver="full").fit(train)
    neighbours = LocalOutlierFactor(novelty=True).fit(train)

    def reconstruction_score(rows: np.ndarray) -> np.ndarray:
        projection = pca.inverse_transform(pca.transform(rows))
        return -np.square(rows - projection).sum(1)

    functions: list[Scores] = [
        forest.score_samples,
        lambda rows: -gaussian.mahalanobis(rows),
        mixture.best_estimator_.score_samples,
        reconstruction_score,
        neighbours.score_samples,
    ]
    return dict(zip(OTHERS, functions, strict=True))


def run_outliers(options: StudyOptions) -> list[StudyPage]:
    """Runs all detectors, and makes the table."""
    hashes = {table: load_rows(table, options.location).content_hash for table in TABLES}
    runs = [
        OutlierRun(
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
        {"table": run.table, "seed": run.seed, "normal": name, "detector": method, "area": area}
        for run, result in zip(runs, results, strict=True)
        for name, areas in result.areas.items()
        for method, area in areas.items()
    ]
    numbers = pd.DataFrame(lines)
    by_seed = numbers.pivot_table("area", ["table", "seed"], "detector", sort=False)
    return [
        StudyPage.of_table(
            name="outliers" + ("" if options.profile == "paper" else f"-{options.profile}"),
            title="Outliers in tables: area under the ROC curve",
            caption="Mean ± standard deviation over "
            f"{pluralized(len(options.seeds), 'seed')}, each a mean over the classes of the table; "
            "0.5 is chance. *Best* marks the highest mean of a table, and *level* those that do "
            f"not differ from it by a paired t-test over the seeds (p < {MAX_P_VALUE}).",
            table=_make_table(by_seed),
            numbers=numbers,
            notes=_verdicts(by_seed),
        )
    ]


def _p_value(differences: pd.Series) -> float:
    """Returns the p-value of a paired t-test over seeds; NaN for one seed."""
    return float(ttest_1samp(differences, 0.0).pvalue)


def _make_table(by_seed: pd.DataFrame) -> pd.DataFrame:
    """Returns the cells of the page's table, from the areas (table and seed, detector)."""
    columns: dict[str, list[str]] = {"detector": [*METHODS]}
    for table in TABLES:
        areas = by_seed.loc[table]
        best = areas.mean().idxmax()
        cells = []

        for method in METHODS:
            cell = f"{areas[method].mean():.3f}"
            if len(areas) > 1:
                cell += f" ± {areas[method].std():.3f}"
            if method == best:
                cell += ", best"
            elif len(areas) > 1 and _p_value(areas[best] - areas[method]) >= MAX_P_VALUE:
                cell += ", level"
            cells.append(cell)
        columns[table] = cells

    means = by_seed.groupby(level="table").mean().mean()
    columns["mean"] = [f"{means[method]:.3f}" for method in METHODS]
    return pd.DataFrame(columns)


def _verdicts(by_seed: pd.DataFrame) -> list[str]:
    """Returns one line for each score of a FIF: on how many tables it wins over whom."""
    if by_seed.index.get_level_values("seed").nunique() == 1:
        return ["One seed decides nothing."]
    notes = []

    for score in FIF_SCORES.values():
        results = []
        is_worth = True

        for other in OTHERS:
            wins = losses = 0
            for table in TABLES:
                differences = by_seed.loc[table, score] - by_seed.loc[table, other]
                if _p_value(differences) < MAX_P_VALUE:
                    wins += bool(differences.mean() > 0)
                    losses += bool(differences.mean() < 0)
            results.append(f"{other} {wins}:{losses}")
            is_worth &= wins >= NEEDED_TABLES and losses <= wins

        verdict = "is worth a training" if is_worth else "is not worth a training"
        notes.append(
            f"{score}: tables on which it wins and loses: {', '.join(results)}. By the criterion "
            f"of the study it {verdict}."
        )
    return notes


STUDY = Study(run_outliers, seeds=(1, 5))
