"""A script that loads each of Pythae's models before and after an import: FOLDER PACKAGE.

It is a process of its own, so that it can load them without importing this package.
"""

import hashlib
import importlib
import json
import sys
import warnings
from pathlib import Path

import torch
from pythae import models
from pythae.models import AutoModel, normalizing_flows
from pythae.models.auto_model import AutoConfig

SHAPE = (1, 8, 8)
OPTIONS = {
    "VAMP": {"number_components": 5},
    "VQVAE": {"num_embeddings": 4},
    "MADE": {"output_dim": SHAPE},
}
FLOWS = ("MADE", "MAF", "IAF", "PlanarFlow", "RadialFlow", "PixelCNN")


def save(folder: str) -> None:
    """Saves each model twice: with default networks, and with the same ones as custom networks."""
    for config_name in models.__all__:
        name = config_name.removesuffix("Config").removesuffix("_")
        if not config_name.endswith("Config") or name == "BaseAE":
            continue
        torch.manual_seed(0)
        config = getattr(models, config_name)(
            input_dim=SHAPE, latent_dim=2, **OPTIONS.get(name, {})
        )
        model = getattr(models, name)(config)
        model.save(f"{folder}/{name}")

        for key in vars(config):
            if key.startswith("uses_default_"):
                setattr(config, key, False)  # so that the network is pickled
        model.save(f"{folder}/{name}-custom")

    for name in FLOWS:
        config = getattr(normalizing_flows, f"{name}Config")(
            input_dim=SHAPE, **OPTIONS.get(name, {})
        )
        getattr(normalizing_flows, name)(config).save(f"{folder}/{name}")


def describe(function, *arguments, **options) -> str:
    """Describes what a function returns or raises, with its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = function(*arguments, **options)
        except Exception as error:
            return repr(error)

    text = repr(value)
    if isinstance(value, torch.nn.Module):
        tensors = [tensor.numpy().tobytes() for tensor in value.state_dict().values()]
        weights = hashlib.sha256(b"".join(tensors)).hexdigest()
        text = f"{type(value)} {value.model_config} {value} {weights}"
    return " ".join([text, *(str(warning.message) for warning in caught)])


def load(folder: str) -> dict[str, str]:
    """Describes what Pythae's two classes load, and leaves the folder as it was."""
    results = {}
    for path in sorted(Path(folder).iterdir()):
        results[path.name] = describe(AutoModel.load_from_folder, str(path))
        results[f"{path.name}, config"] = describe(
            AutoConfig.from_json_file, str(path / "model_config.json")
        )

    some_model = f"{folder}/AE"
    results["keyword"] = describe(AutoModel.load_from_folder, dir_path=some_model)
    results["no argument"] = describe(AutoModel.load_from_folder)
    results["unknown argument"] = describe(AutoModel.load_from_folder, some_model, trust=True)
    results["no folder"] = describe(AutoModel.load_from_folder, "no-such-folder")
    results["no file"] = describe(AutoConfig.from_json_file, "no-such-file.json")

    config_file = Path(some_model, "model_config.json")
    original_content = config_file.read_text()
    for content in ("{}", "[1]", "{", '{"name": "NoSuchConfig"}', '{"name": ["AEConfig"]}'):
        config_file.write_text(content)
        results[content] = describe(AutoModel.load_from_folder, some_model)
    config_file.write_text(original_content)
    return results


if __name__ == "__main__":
    folder, package = sys.argv[1:]
    results_without_import = load(folder)
    assert package not in sys.modules
    importlib.import_module(package)
    print(json.dumps([results_without_import, load(folder)]))
