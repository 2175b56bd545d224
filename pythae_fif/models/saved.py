"""A model's folder: Pythae's, and a file that tells how networks of this package are rebuilt."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import torch
from pythae.models import BaseAE
from pythae.models.base.base_config import EnvironmentConfig
from torch import nn
from typing_extensions import Self

import pythae_fif.nn.build
import pythae_fif.nn.coupling  # noqa: F401 - whose builders are noted
from pythae_fif.device import fork_rng
from pythae_fif.errors import ConfigError, DataError, FIFError, format_error, requires_extra
from pythae_fif.files import read_json, write_json
from pythae_fif.nn.recipe import get_recipe, rebuild

NETWORKS_FILE = "networks.json"


class SavedModel(BaseAE):
    """A model that is loaded without opening a pickle, where its networks can be rebuilt."""

    config_class: ClassVar[type[Any]]

    def save(self, dir_path: str) -> None:
        """Writes configuration, weights and networks to a folder, by Pythae's names."""
        folder = Path(dir_path)
        folder.mkdir(parents=True, exist_ok=True)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if getattr(self, "prior", None) is None:  # one that was fitted may have been taken away
            self.model_config.fitted_prior = None
        EnvironmentConfig(python_version=version).save_json(dir_path, "environment")
        self.model_config.save_json(dir_path, "model_config")
        recipes = {side: get_recipe(getattr(self, side)) for side in ("encoder", "decoder")}
        write_json(folder / NETWORKS_FILE, recipes)
        for side, recipe in recipes.items():
            if recipe is None and not getattr(self.model_config, f"uses_default_{side}"):
                network = getattr(self, side)
                if (module := inspect.getmodule(network)) is not None:  # as when it is pickled
                    cloudpickle.register_pickle_by_value(module)
                (folder / f"{side}.pkl").write_bytes(cloudpickle.dumps(network))
        torch.save({"model_state_dict": self.state_dict()}, folder / "model.pt")

    @classmethod
    def load_from_folder(cls, dir_path: str, trust: bool = False) -> Self:
        """The model in a folder. ``AutoModel.load_from_folder`` takes the same arguments.

        Default networks and those of ``build_networks`` and ``build_coupling`` are rebuilt. Any
        other is a pickle, which can run code when it is opened.

        Args:
            dir_path (str): The folder.
            trust (bool): Whether pickles may be opened: those of somebody whom you trust.

        Raises:
            ConfigError: A network is an untrusted pickle, or the configuration has an unknown key.
            DataError: A file is missing or damaged.
        """
        with (
            load_errors_as_config_error(dir_path),
            fork_rng(),
        ):  # to load is to draw no random numbers
            config = cls.config_class.from_json_file(f"{dir_path}/model_config.json")
            path = Path(dir_path, "model.pt")
            weights = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
            recipes, networks = read_json(Path(dir_path, NETWORKS_FILE)) or {}, {}
            for side in ("encoder", "decoder"):
                if getattr(config, f"uses_default_{side}"):
                    continue
                if recipes.get(side) is not None:
                    networks[side] = rebuild(recipes[side], side)
                elif trust:
                    networks[side] = getattr(cls, f"_load_custom_{side}_from_folder")(dir_path)
                else:
                    raise ConfigError(
                        f"{Path(dir_path, side)}.pkl can run any code when it is opened: "
                        "load_from_folder(..., trust=True), of the hub load_from_hf_hub(..., "
                        "allow_pickle=True), opens it, if you trust whoever wrote it"
                    )
            model = cls(config, **networks)
            model.load_state_dict(weights, assign=True)  # each keeps its type
            held: dict[Any, nn.Parameter] = {}  # what was one parameter has one memory in the file
            for name, parameter in [*model.named_parameters(remove_duplicate=False)]:
                owner, _, last = name.rpartition(".")
                of = weights[name]  # a transposed view shares the memory and is another
                one = held.setdefault((of.data_ptr(), of.shape, of.stride()), parameter)
                setattr(model.get_submodule(owner), last, one)
            return model

    @classmethod
    def load_from_hf_hub(cls, hf_hub_path: str, allow_pickle: bool = False) -> Self:
        """The model of a repository of the Hugging Face hub, to which `push_to_hf_hub` of Pythae
        uploads what :meth:`save` writes. ``AutoModel.load_from_hf_hub`` takes the same arguments.

        Args:
            hf_hub_path (str): Its place, `owner/name`.
            allow_pickle (bool): Whether networks that are pickles may be downloaded and opened;
                see :meth:`load_from_folder`.

        Raises:
            ConfigError: See :meth:`load_from_folder`; or `huggingface_hub` is not installed.
        """
        with requires_extra("hub", "the hub"):
            from huggingface_hub import snapshot_download
        kinds = ["*.json", "model.pt", *(["*.pkl"] if allow_pickle else [])]
        folder = snapshot_download(hf_hub_path, allow_patterns=kinds)
        return cls.load_from_folder(folder, trust=allow_pickle)


@contextmanager
def load_errors_as_config_error(folder: str | Path) -> Iterator[None]:
    """Within it a model is loaded; what torch and Pythae raise of its files is one DataError."""
    try:
        yield
    except FIFError:
        raise
    except Exception as error:
        raise DataError(f"{folder}: no whole saved model ({format_error(error)})") from error
