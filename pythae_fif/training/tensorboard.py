"""The training log as TensorBoard events."""

__all__ = ["tensorboard_writer"]

from pathlib import Path

from pythae_fif.errors import importing
from pythae_fif.training.progress import EpochRow, OnEpoch

FOLDER = "tensorboard"


def tensorboard_writer(run_dir: str | Path) -> OnEpoch:
    """An `on_epoch` that writes the rows of `train_log.jsonl` as scalars below `tensorboard`.

    `train_loss` is `loss/train` there and `eval_loss` is `loss/eval`, one chart for both. Where
    a resumed training writes an epoch again, TensorBoard shows the later one.

    Args:
        run_dir: The run's folder.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    with importing("tensorboard", "--tensorboard"):
        from torch.utils.tensorboard import SummaryWriter

    writer: SummaryWriter | None = None

    def on_epoch(epoch: int, num_epochs: int, row: EpochRow) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(str(Path(run_dir) / FOLDER), purge_step=epoch)
        for name, value in row.to_json().items():
            split, _, rest = name.partition("_")
            if split in ("train", "eval"):
                name = f"{rest}/{split}"
            if name not in ("epoch", "stage"):  # the latter is no number
                writer.add_scalar(name, value, epoch)
        writer.flush()

    return on_epoch
