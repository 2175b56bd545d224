"""Trains FIF on the digits in several processes, on a GPU each or, without any, on the CPU.

torchrun --nproc-per-node 2 -m examples.distributed --output fif_digits

After an interrupt the same command goes on. When it is done, give another folder.
"""

import argparse

import torch
from sklearn.datasets import load_digits

from pythae_fif import FIF, FIFConfig, FIFTrainerConfig
from pythae_fif.data import ImageDataset
from pythae_fif.training import FIFTrainer

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--output", default="fif_digits", help="folder of log, checkpoint and model")
parser.add_argument("--epochs", type=int, default=20)
flags = parser.parse_args()

images = torch.tensor(load_digits().images / 16 * 255, dtype=torch.uint8)[:, None]
model = FIF(FIFConfig(input_dim=(1, 8, 8), latent_dim=8, beta=10.0))
config = FIFTrainerConfig(num_epochs=flags.epochs, learning_rate=1e-3)
train, evaluation = ImageDataset(images[:1500]), ImageDataset(images[1500:])
trainer = FIFTrainer(model, train, evaluation, config, run_dir=flags.output)
result = trainer.train()
if trainer.is_main_process:
    print(f"best epoch {result.best_epoch}, evaluation loss {result.best_eval_loss:.2f} nats")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
