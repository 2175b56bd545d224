"""What a model tells of itself on the Hugging Face hub."""

__all__ = ["ModelCard"]

import math
from dataclasses import dataclass
from typing import Any

import pythae_fif
from pythae_fif.nn.recipe import recipe_of


@dataclass(frozen=True)
class ModelCard:
    """What only its owner knows of a model; the rest is read from the model.

    Attributes:
        data: What it was trained on.
        license: A name that the hub knows, such as `apache-2.0`; None says that there is none yet.
        scores: What is known of its samples, as Markdown.
    """

    data: str = "not told"
    license: str | None = None
    scores: str = "It was not scored."

    def text(self, model: Any, hf_hub_path: str) -> str:
        """The card of a model, Markdown with the hub's keys on top.

        Args:
            model: A model of this package.
            hf_hub_path: Its place on the hub, `owner/name`.
        """
        config, name = model.model_config, type(model).__name__
        parameters = sum(parameter.numel() for parameter in model.parameters())
        data = self.data
        if config.input_dim is not None:
            shape = " x ".join(map(str, config.input_dim))
            data += f"; {shape}, of {math.prod(config.input_dim)} numbers"
        facts = {
            "Data": data,
            "Latent dimension d": config.latent_dim,
            "Reconstruction weight beta": getattr(config, "beta", None),
            "Hutchinson vectors K": getattr(config, "hutchinson_samples", None),
            "Parameters": f"{parameters:,}",
            "Licence": self.license or "none is given: ask the owner",
            "Made with": f"pythae-fif {pythae_fif.__version__}",
        }
        notes = [
            getattr(config, f"uses_default_{side}") or recipe_of(getattr(model, side))
            for side in ("encoder", "decoder")
        ]
        trust = "" if all(notes) else ", allow_pickle=True"
        keys = ["library_name: pythae", "tags: [pythae, pythae-fif, injective-flow]"]
        keys += [f"license: {self.license}"] if self.license else []
        lines = ["---", *keys, "---", "", f"# {name}", "", "| | |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in facts.items() if value is not None]
        lines += ["", "## Scores", "", self.scores, "", "## Use", ""]
        lines += [
            "```python",
            "import pythae_fif  # which makes the model known to AutoModel",
            "from pythae.models import AutoModel",
            "",
            f'model = AutoModel.load_from_hf_hub("{hf_hub_path}"{trust}).eval()',
            f"samples = model.sample(64{', labels=0' if model.condition_dim else ''})",
            "```",
        ]
        return "\n".join(lines) + "\n"
