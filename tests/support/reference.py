"""Paths of the checkout and of its committed runs."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
