"""A model's folder: Pythae's, and a file that tells how networks of this package are rebuilt."""

__all__ = ["SavedModel", "loading"]

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import cloudpickle
import torch
from pythae.models import BaseAE
from typing_extensions import Self

import pythae_fif.nn.build
import pythae_fif.nn.coupling  # noqa: F401 - whose builders are noted
from pythae_fif.errors import ConfigError, DataError, FIFError, first_line, importing
from pythae_fif.files import read_json, write_json
from pythae_fif.models.hub import ModelCard
from pythae_fif.nn.conditional import GivenEncoder
from pythae_fif.nn.recipe import rebuild, recipe_of

NETWORKS = "networks.json"
SHARED = "one flow"
"""The key there for whether encoder and decoder share a flow, which Pythae saves twice."""


class SavedModel(BaseAE):
    """A model that is loaded without opening a pickle, where its networks can be rebuilt."""

    config_class: ClassVar[type[Any]]

    def save(self, dir_path: str) -> None:
        """Writes configuration, weights and networks to a folder, as Pythae does."""
        for network in (self.encoder, self.decoder):
            if type(network).__module__ == GivenEncoder.__module__:
                network = network.network  # Pythae looks at the outer one alone
            if (module := inspect.getmodule(network)) is not None:
                cloudpickle.register_pickle_by_value(module)
        super().save(dir_path)
        flows = [getattr(network, "flow", None) for network in (self.encoder, self.decoder)]
        notes: dict[str, Any] = {SHARED: flows[0] is not None and flows[0] is flows[1]}
        notes |= {side: recipe_of(getattr(self, side)) for side in ("encoder", "decoder")}
        write_json(Path(dir_path, NETWORKS), notes)

    @classmethod
    def load_from_folder(cls, dir_path: str, trust: bool = False) -> Self:
        """The model in a folder. ``AutoModel.load_from_folder`` takes the same arguments.

        Default networks, and those of ``build_networks``, ``smooth_networks`` and
        ``build_coupling``, are rebuilt, and their weights read. Any other is a pickle, which can
        run code when it is opened.

        Args:
            dir_path (str): The folder.
            trust (bool): Whether pickles may be opened: those of somebody whom you trust.

        Raises:
            ConfigError: A network is a pickle and ``trust`` is not given, or the configuration has
                an unknown key.
            DataError: A file is missing or damaged.
        """
        with loading(dir_path):
            config = cls.config_class.from_json_file(f"{dir_path}/model_config.json")
            path = Path(dir_path, "model.pt")
            # Versions of torch differ in the default of weights_only.
            weights = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
            recipes, networks = read_json(Path(dir_path, NETWORKS)), {}
            for side in ("encoder", "decoder"):
                recipe = recipes.get(side) if isinstance(recipes, dict) else None
                if getattr(config, f"uses_default_{side}"):
                    continue
                if recipe is not None:
                    networks[side] = rebuild(recipe, side)
                elif trust:
                    networks[side] = getattr(cls, f"_load_custom_{side}_from_folder")(dir_path)
                else:
                    raise ConfigError(
                        f"{Path(dir_path, side)}.pkl can run any code when it is opened: "
                        "load_from_folder(..., trust=True), of the hub load_from_hf_hub(..., "
                        "allow_pickle=True), opens it, if you trust whoever wrote it"
                    )
            model = cls(config, **networks)
            kinds = [v.dtype for v in weights.values() if v.is_floating_point()]
            most = max(kinds, key=kinds.count, default=torch.float32)
            model._apply(lambda v: v.to(most) if v.is_floating_point() else v)
            for name, value in model.state_dict(keep_vars=True).items():
                if name in weights:  # single ones may be of another type
                    value.data = value.data.to(weights[name].dtype)
            model.load_state_dict(weights)
            if isinstance(recipes, dict) and recipes.get(SHARED):
                model.encoder.flow = model.decoder.flow
            return model

    def push_to_hf_hub(self, hf_hub_path: str, card: ModelCard | None = None) -> None:
        """Uploads the model's folder and a model card to the Hugging Face hub (extra `hub`).

        The repository is made where there is none.

        Args:
            hf_hub_path (str): Its place, `owner/name`.
            card (ModelCard): What only the owner knows of the model.

        Raises:
            ConfigError: The package `huggingface_hub` is not installed.
        """
        api = _hub().HfApi()
        with TemporaryDirectory() as folder:
            self.save(folder)
            text = (card or ModelCard()).text(self, hf_hub_path)
            Path(folder, "README.md").write_text(text, "utf-8")
            api.create_repo(hf_hub_path, exist_ok=True)
            message = f"{type(self).__name__} of pythae-fif"
            api.upload_folder(repo_id=hf_hub_path, folder_path=folder, commit_message=message)

    @classmethod
    def load_from_hf_hub(cls, hf_hub_path: str, allow_pickle: bool = False) -> Self:
        """The model of a repository. ``AutoModel.load_from_hf_hub`` takes the same arguments.

        Args:
            hf_hub_path (str): Its place, `owner/name`.
            allow_pickle (bool): Whether networks that are pickles may be downloaded and opened;
                see :meth:`load_from_folder`.

        Raises:
            ConfigError: As of :meth:`load_from_folder`, or `huggingface_hub` is not installed.
        """
        kinds = ["*.json", "model.pt", *(["*.pkl"] if allow_pickle else [])]
        folder = _hub().snapshot_download(hf_hub_path, allow_patterns=kinds)
        return cls.load_from_folder(folder, trust=allow_pickle)


def _hub() -> Any:
    with importing("hub", "the hub"):
        import huggingface_hub

    return huggingface_hub


@contextmanager
def loading(folder: str | Path) -> Iterator[None]:
    """Within it a model is loaded; what torch and Pythae raise of missing or damaged files is one
    line.

    Raises:
        DataError: In place of any error that is not of this package, but a MemoryError, which says
            nothing of the files.
    """
    try:
        yield
    except (FIFError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{folder}: no whole saved model ({first_line(error)})") from error
