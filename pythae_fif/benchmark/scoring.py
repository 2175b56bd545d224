"""The specification of samples of a trained model, and of how they are scored."""

from pythae_fif.validation import StrictModel


class Scoring(StrictModel):
    """Samples of a trained model and the features by which they are scored.

    Attributes:
        sampler: Name of the sampler.
        extractor: Name of the extractor.
        num_samples: Number of samples.
        fit_steps: Steps that fit the sampler; see :class:`~pythae_fif.benchmark.config.Profile`.
    """

    sampler: str
    extractor: str
    num_samples: int
    fit_steps: int | None = None

    @property
    def name(self) -> str:
        """`<sampler>-<extractor>-<samples>`, with the steps if they are not the default."""
        steps = "" if self.fit_steps is None else f"-{self.fit_steps}steps"
        return f"{self.sampler}-{self.extractor}-{self.num_samples}{steps}"

    @property
    def file(self) -> str:
        """Name of the record's file in the run's folder."""
        return f"scores/{self.name}.json"

    @property
    def protocol(self) -> tuple[str, int, int | None]:
        """What is equal for scores that can be compared: all but the sampler."""
        return self.extractor, self.num_samples, self.fit_steps
