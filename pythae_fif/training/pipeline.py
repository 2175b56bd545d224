"""`FIFTrainingPipeline`: Pythae's training pipeline with `FIFTrainer`."""

from typing import Any

from pythae.pipelines import TrainingPipeline
from pythae.trainers.training_callbacks import TrainingCallback

from pythae_fif.training.progress import TrainingResult
from pythae_fif.training.trainer import FIFTrainer


class FIFTrainingPipeline(TrainingPipeline):
    """Pythae's `TrainingPipeline`, which trains by :class:`FIFTrainer`.

    Pythae's own pipeline trains by Pythae's trainers, whichever configuration it gets.

    Args:
        model: The model, one of this package or of Pythae.
        training_config: A `FIFTrainerConfig`, or Pythae's configuration for the model. By default
            it is the one that Pythae's pipeline chooses.

    Attributes:
        trainer: The trainer, once the pipeline has been called.

    Raises:
        AssertionError: The configuration is for another kind of model.

    Example:
        >>> import tempfile, torch
        >>> from pythae_fif import FIF, FIFConfig, FIFTrainerConfig
        >>> model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=2))
        >>> config = FIFTrainerConfig(output_dir=tempfile.mkdtemp(), num_epochs=2)
        >>> FIFTrainingPipeline(model, config)(torch.rand(64, 1, 8, 8)).epochs
        2
    """

    def __call__(
        self,
        train_data: Any,
        eval_data: Any = None,
        callbacks: list[TrainingCallback] | None = None,
    ) -> TrainingResult:
        """Trains the model.

        Args:
            train_data: Training data, an array, tensor or data set, as for :class:`FIFTrainer`.
            eval_data: The same, or None to keep the weights of the lowest training loss.
            callbacks: Pythae's callbacks.

        Returns:
            The result of the training.

        Raises:
            ConfigError: See :class:`FIFTrainer`.
            DataError: See :class:`FIFTrainer`.
            NonFiniteError: See :meth:`FIFTrainer.train`.
        """
        self.trainer = FIFTrainer(
            self.model, train_data, eval_data, self.training_config, callbacks
        )
        return self.trainer.train()
