"""Tables 1 and 5: FIF against rectangular flows on tables of numbers."""

from pythae_fif.study import TABLES, Study
from studies.tabular.tables import run_tabular

STUDY = Study(
    run_tabular,
    seeds=None,
    datasets=(*TABLES, "csv"),
    options=("latent_dim", "data", "models"),
)
