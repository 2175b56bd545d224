"""Tables 6 and 7: FIFs of tables by estimator and network, on or off the manifold."""

import numpy as np
import pandas as pd

from pythae_fif.reports.tables import DASH
from pythae_fif.study import TABLES, Study, StudyOptions, StudyReport
from studies.tabular.models import CONFIGURATIONS, FREE_FORM
from studies.tabular.tables import (
    CLOSED_FORM,
    compare_with_published,
    published_value,
    spread,
)


def run_ablation(options: StudyOptions) -> list[StudyReport]:
    """Trains the models of tables 6 and 7: all configurations by default.

    They differ in the estimator, in the network, and in training on or off the manifold.
    """
    caption = (
        "FIF estimates with the encoder's Jacobian (eqs. 10 and 15), RF by conjugate gradients "
        "(eq. 6). On manifold, the Jacobian is taken at the projection. Off manifold, it is taken "
        "at the data point; there RF uses the encoder's volume change, as we read the paper."
    )
    autoencoders = [
        name for name, configuration in CONFIGURATIONS.items() if configuration.jacobian_at
    ]
    models = [*autoencoders, *CLOSED_FORM]
    table6 = compare_with_published("ablation", models, caption, options)
    table7 = _reconstruction_table(table6.numbers, str(options.dataset))
    if table7.empty:
        return [table6]

    reconstruction = StudyReport(
        f"{table6.name}-reconstruction",
        f"{table6.title}: reconstruction of free-form FIF (table 7)",
        "Mean squared error of a test row, for models trained on and off manifold. Outliers "
        "removed: without the seed of the largest error.",
        table7,
        table7,
        notes=table6.notes,
    )
    return [table6, reconstruction]


def _reconstruction_table(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Returns the lines of table 7: the errors of free-form FIFs, with and without outliers."""
    lines = []
    for name, errors in scores.groupby("configuration", sort=False).reconstruction:
        configuration = CONFIGURATIONS[name]
        net = configuration.net
        if configuration.model != "fif" or net not in FREE_FORM:
            continue

        place = configuration.place.capitalize()
        trainings = {place: errors}
        if place != "Off manifold" and len(errors) > 1:
            largest = errors.fillna(np.inf).idxmax()
            trainings[f"{place} (outliers removed)"] = errors.drop(largest)

        for training, selected_errors in trainings.items():
            published = published_value(7, dataset=dataset, row=training)
            lines.append(
                {
                    "Training": training + net.removeprefix("free-form"),
                    "reconstruction loss ↓": spread(selected_errors),
                    "published": published if net == "free-form" else DASH,
                }
            )
    return pd.DataFrame(lines)


STUDY = Study(
    run_ablation,
    seeds=None,
    datasets=(*TABLES, "csv"),
    options=("latent_dim", "data", "models"),
)
