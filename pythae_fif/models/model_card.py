"""The card of a model on the Hugging Face hub: what it is, and how to load and cite it."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from pythae_fif import __version__
from pythae_fif.nn.recipe import get_recipe

MAX_NAMES = 20
"""Columns or classes that the card names."""

CARD = """---
library_name: pythae-fif
license: {license}
{pipeline_tag}tags:
- pythae
- pythae-fif
- {kind}
---

# {model}

This model was trained with pythae-fif {version}, a plugin for Pythae.

| | |
|---|---|
{properties}

## Load it and draw samples

```python
import pythae_fif  # makes the model known to AutoModel
from pythae.models import AutoModel

model = AutoModel.load_from_hf_hub({arguments}).eval()
samples = model.sample({sample_arguments})
```

## Cite

The method of a free-form injective flow (FIF):

```bibtex
@inproceedings{{sorrenson2024lifting,
  title = {{Lifting Architectural Constraints of Injective Flows}},
  author = {{Sorrenson, Peter and Draxler, Felix and Rousselot, Armand and Hummerich, Sander and
            Zimmermann, Lea and K{{\\"o}}the, Ullrich}},
  booktitle = {{International Conference on Learning Representations}},
  year = {{2024}},
  url = {{https://arxiv.org/abs/2306.01843}}
}}
```
"""


def model_card(model: Any, repository: str, license: str) -> str:
    """Writes the card of a model of this package.

    Args:
        model: The model.
        repository: Its repository on the hub, `owner/name`.
        license: The hub's name of the model's licence.

    Returns:
        The content of `README.md`, in Markdown.
    """
    is_image = len(model.model_config.input_dim or ()) == 3
    is_conditional = model.condition_dim > 0

    pipeline_tag = ""  # the hub has no task for samples of tables, nor for those of a class
    if is_image and not is_conditional:
        pipeline_tag = "pipeline_tag: unconditional-image-generation\n"
    lines = [f"| {name} | {_escape(value)} |" for name, value in _properties(model).items()]

    arguments = [f'"{repository}"']
    if _has_pickles(model):
        arguments.append("allow_pickle=True")
    sample_arguments = ["16"]
    if is_conditional:
        sample_arguments.append("labels=0")
    if model.columns is not None:
        sample_arguments.append("as_frame=True")

    return CARD.format(
        license=license,
        pipeline_tag=pipeline_tag,
        kind="image" if is_image else "tabular",
        model=model.model_name,
        version=__version__,
        properties="\n".join(lines),
        arguments=", ".join(arguments),
        sample_arguments=", ".join(sample_arguments),
    )


def _properties(model: Any) -> dict[str, str]:
    """Returns what a user of the model must know, by name."""
    config = model.model_config
    properties = {
        "input_dim": str(tuple(config.input_dim)) if config.input_dim else "unknown",
        "range of the data": _describe_range(model),
        "latent_dim": str(model.latent_dim),
    }
    if hasattr(config, "beta"):
        properties["beta"] = _describe_beta(model)

    properties["prior of the codes"] = config.latent_distribution
    if config.fitted_prior:
        properties["prior of the codes"] = f"{config.fitted_prior}, fitted to the training codes"

    if model.condition_dim > 0:
        properties["condition_dim"] = str(model.condition_dim)
    if model.class_names:
        properties["classes"] = _join_names(model.class_names)
    if model.columns is not None:
        properties["columns"] = _join_names(model.columns.names)
    if _has_pickles(model):
        properties["pickles"] = "yes: they can run any code when they are opened"
    return properties


def _describe_range(model: Any) -> str:
    """Says which numbers the model takes, as far as it knows."""
    if model.columns is not None:
        return "a DataFrame in original units, or an array of standardised rows"
    *_, last_layer = model.decoder.modules()
    if isinstance(last_layer, nn.Sigmoid):
        return "[0, 1]"
    return "that of the training data; this package loads images in [0, 1], and standardises tables"


def _describe_beta(model: Any) -> str:
    """Returns the weight of the reconstruction error in training."""
    beta = model.model_config.beta
    if beta == "auto":
        return f"auto, {float(model.adaptive_beta.value):.3g} in the saved model"
    if model.model_config.beta_final is not None:
        return f"{beta} to {model.model_config.beta_final}"
    return str(beta)


def _has_pickles(model: Any) -> bool:
    """Returns whether a network is saved as a pickle."""
    return any(
        get_recipe(getattr(model, name)) is None
        and not getattr(model.model_config, f"uses_default_{name}")
        for name in ("encoder", "decoder")
    )


def _join_names(names: Sequence[Any]) -> str:
    """Joins the first names, with the number of all if there are more."""
    shown = ", ".join(map(str, names[:MAX_NAMES]))
    return f"{shown}, ... ({len(names)})" if len(names) > MAX_NAMES else shown


def _escape(text: str) -> str:
    """Returns the text of a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
