"""Tables 6 and 7: estimator, network, and on- or off-manifold training on tabular data."""

__all__ = ["run"]

import numpy as np
import pandas as pd

from pythae_fif.reports.tables import DASH
from pythae_fif.runs.launch import OnChange
from pythae_fif.studies.spec import Finding
from pythae_fif.studies.study import StudyOptions
from pythae_fif.studies.tabular import compare, printed, spread
from pythae_fif.studies.tabular_models import CONFIGURATIONS


def run(options: StudyOptions, on_change: OnChange) -> list[Finding]:
    """Tables 6 and 7 of a data set; see :func:`~pythae_fif.studies.tabular.compare`."""
    caption = (
        "FIF estimates with the encoder's Jacobian (eqs. 10 and 15), RF by conjugate gradients "
        "(eq. 6). On manifold the Jacobian is taken at the projection; off manifold at the data "
        "point, for which RF, as we read the paper, takes the encoder's volume change."
    )
    trained, six = compare("ablation", list(CONFIGURATIONS), caption, options, on_change)
    rows = []
    for of, records in trained:
        if "free-form" not in of.configuration.net:
            continue
        label, of_text = of.configuration.place.capitalize(), of.configuration.net == "free-form"
        errors = pd.Series([record.result["reconstruction"] for record in records])
        trainings = {label: errors}
        if label != "Off manifold" and len(errors) > 1:
            worst = errors.fillna(np.inf).idxmax()
            trainings[f"{label} (outliers removed)"] = errors.drop(worst)
        for training, values in trainings.items():
            row = {"Training": training if of_text else f"{training}, SiLU"}
            row["reconstruction loss ↓"] = spread(values)
            row["published"] = DASH
            if of_text and options.data is None:
                row["published"] = printed(7, dataset=str(options.dataset), row=training)
            rows.append(row)
    seven = Finding(
        f"{six.name}-reconstruction",
        f"{six.title}: reconstruction of free-form FIF (table 7)",
        "Squared error a row of models trained on and off manifold. Outliers removed: without the "
        "largest of the seeds.",
        pd.DataFrame(rows),
        notes=six.notes,
    )
    return [six, seven] if rows else [six]
