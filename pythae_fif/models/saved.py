"""Saved models: Pythae's files, and a file that describes how to rebuild the networks."""

import inspect
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import cloudpickle
import torch
from pydantic import Field, ValidationError
from pythae.models import AutoModel, BaseAE
from pythae.models.base.base_config import EnvironmentConfig
from torch import Tensor, nn
from typing_extensions import Self

from pythae_fif.columns import Columns
from pythae_fif.device import fork_rng
from pythae_fif.errors import (
    ConfigError,
    DataError,
    FIFError,
    MissingFileError,
    format_error,
    requires_extra,
)
from pythae_fif.files import check_regular_file, read_bytes, read_json, write_json
from pythae_fif.models.model_card import model_card
from pythae_fif.nn import build, coupling  # noqa: F401 - their builders record recipes
from pythae_fif.nn.recipe import get_recipe, rebuild
from pythae_fif.register import MODEL_FILE, find_model, find_model_class
from pythae_fif.validation import StrictModel, as_config_error

NETWORKS_FILE = "networks.json"
"""File with the recipes to rebuild `encoder` and `decoder`; null for a pickled network."""

DATA_FILE = "data.json"
"""File with what a model knows of its training data: a :class:`DataDescription`."""

NETWORK_NAMES = ("encoder", "decoder")


class DataDescription(StrictModel):
    """What a saved model knows of its training data. The fields are attributes of the model.

    Attributes:
        columns: The columns of the table that the model was trained on; None for other data.
        class_names: Names of the classes that a conditional model was trained on, in the order of
            their indices; None if they are unknown.
        code_mean: Mean of the codes of the training data, (d,); None if it is unknown.
        code_std: Their standard deviations, (d,).
        noise_std: Standard deviation of the noise around the manifold; 0 if it is unknown.
    """

    columns: Columns | None = None
    class_names: list[str] | None = None
    code_mean: list[float] | None = None
    code_std: list[float] | None = None
    noise_std: Annotated[float, Field(ge=0)] = 0.0

    @classmethod
    def of(cls, model: Any) -> "DataDescription":
        """Returns what a model knows; a model of Pythae may lack any of the attributes."""
        known = {name: getattr(model, name, None) for name in cls.model_fields}
        return cls.model_construct(**{name: value for name, value in known.items() if value})

    def set_on(self, model: Any) -> None:
        """Sets the attributes of a model."""
        for name in type(self).model_fields:
            setattr(model, name, getattr(self, name))


class SavedModel(BaseAE):
    """A model that is loaded without opening a pickle if its networks can be rebuilt.

    Its attributes `columns`, `class_names`, `code_mean`, `code_std` and `noise_std` are those of
    :class:`DataDescription`.
    """

    config_class: ClassVar[type[Any]]
    columns: Columns | None = None
    class_names: Sequence[str] | None = None
    code_mean: Sequence[float] | None = None
    code_std: Sequence[float] | None = None
    noise_std: float = 0.0

    def note_codes(self, codes: Tensor) -> None:
        """Sets `code_mean` and `code_std` to those of codes (N, d), if they are finite."""
        mean = codes.double().mean(0)
        std = codes.double().std(0, correction=0)
        if (mean + std).isfinite().all():
            self.code_mean = mean.tolist()
            self.code_std = std.tolist()

    def save(self, dir_path: str) -> None:
        """Writes the configuration, the weights and the networks to a folder, as Pythae names them.

        Args:
            dir_path (str): The folder, which is created if it is missing.
        """
        folder = Path(dir_path)
        folder.mkdir(parents=True, exist_ok=True)
        if getattr(self, "prior", None) is None:  # the user may have removed a fitted prior
            self.model_config.fitted_prior = None
        python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
        EnvironmentConfig(python_version=python_version).save_json(dir_path, "environment")
        self.model_config.save_json(dir_path, "model_config")

        recipes = {name: get_recipe(getattr(self, name)) for name in NETWORK_NAMES}
        write_json(folder / NETWORKS_FILE, recipes)
        for name, recipe in recipes.items():
            if recipe is None and not getattr(self.model_config, f"uses_default_{name}"):
                _pickle_network(getattr(self, name), folder / f"{name}.pkl")

        torch.save({"model_state_dict": self.state_dict()}, folder / "model.pt")
        save_data_description(self, folder)

    @classmethod
    def load_from_folder(cls, dir_path: str, trust: bool = False) -> Self:
        """Loads a model. ``AutoModel.load_from_folder`` takes the same arguments.

        Default networks and networks of ``build_networks`` and ``build_coupling`` are rebuilt. Any
        other network is a pickle, which can run code when it is opened.

        Args:
            dir_path (str): The folder of the model, or of a run of the benchmark.
            trust (bool): Whether pickles may be opened. Open only those of people you trust.

        Returns:
            The model.

        Raises:
            ConfigError: A network is an untrusted pickle, or the configuration has an unknown key.
            DataError: A file is missing or damaged.
        """
        dir_path = str(find_model(dir_path) or dir_path)
        # Networks are built with random weights, which must not change the caller's random state.
        with load_errors_as_data_error(dir_path), fork_rng():
            config = cls.config_class.from_json_file(f"{dir_path}/{MODEL_FILE}")
            path = Path(dir_path, "model.pt")
            weights = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
            model = cls(config, **cls._load_networks(config, dir_path, trust))
            model.load_state_dict(weights, assign=True)  # so that each tensor keeps its saved type
            _tie_shared_parameters(model, weights)
            load_data_description(model, dir_path)
            return model

    def push_to_hf_hub(self, hf_hub_path: str, license: str = "unknown") -> None:
        """Uploads what `save` writes, and a card that says what the model is and how to load it.

        Args:
            hf_hub_path (str): The repository, `owner/name`, which is created if it is missing.
            license (str): The hub's name of the model's licence, such as 'apache-2.0'.

        Raises:
            ConfigError: `huggingface_hub` is not installed.
        """
        with requires_extra("hub", "the hub"):
            from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            card = model_card(self, hf_hub_path, license)
            Path(folder, "README.md").write_text(card, encoding="utf-8")
            HfApi().create_repo(hf_hub_path, exist_ok=True)
            HfApi().upload_folder(repo_id=hf_hub_path, folder_path=folder)

    @classmethod
    def load_from_hf_hub(cls, hf_hub_path: str, allow_pickle: bool = False) -> Self:
        """Loads a model from the Hugging Face hub.

        ``AutoModel.load_from_hf_hub`` takes the same arguments.

        Args:
            hf_hub_path (str): The repository, `owner/name`.
            allow_pickle (bool): Whether pickled networks may be downloaded and opened; see
                `load_from_folder`.

        Returns:
            The model.

        Raises:
            ConfigError: See `load_from_folder`; or `huggingface_hub` is not installed.
        """
        with requires_extra("hub", "the hub"):
            from huggingface_hub import snapshot_download
        pickles = ["*.pkl"] if allow_pickle else []
        folder = snapshot_download(hf_hub_path, allow_patterns=["*.json", "model.pt", *pickles])
        return cls.load_from_folder(folder, trust=allow_pickle)

    @classmethod
    def _load_networks(cls, config: Any, dir_path: str, trust: bool) -> dict[str, nn.Module]:
        """Returns the networks that are not the model's defaults, by name."""
        recipes = read_json(Path(dir_path, NETWORKS_FILE)) or {}
        networks = {}

        for name in NETWORK_NAMES:
            if getattr(config, f"uses_default_{name}"):
                continue
            pickle = Path(dir_path, f"{name}.pkl")
            if recipes.get(name) is not None:
                networks[name] = rebuild(recipes[name], name)
            elif not trust and (name in recipes or pickle.exists()):
                raise _untrusted(pickle)  # it may not even have been downloaded
            else:
                # The method is Pythae's. It says that a pickle is missing.
                networks[name] = getattr(cls, f"_load_custom_{name}_from_folder")(dir_path)
        return networks


def require_columns(model: BaseAE) -> Columns:
    """Returns the columns of a model of a table; ConfigError if it has none."""
    columns: Columns | None = getattr(model, "columns", None)
    if columns is None:
        raise ConfigError(
            f"{model.model_name} does not know the columns of a table: set model.columns to the "
            "`columns` of load_table(...)"
        )
    return columns


def save_data_description(model: BaseAE, folder: Path) -> None:
    """Saves what a model knows of its training data into the model's folder."""
    (folder / DATA_FILE).unlink(missing_ok=True)
    content = DataDescription.of(model).model_dump(exclude_defaults=True, warnings=False)
    if content:
        write_json(folder / DATA_FILE, content)


def load_data_description(model: Any, dir_path: str | Path) -> None:
    """Sets the attributes of a model to those in its folder, if there are any.

    Raises:
        DataError: The file is damaged, or does not fit the model.
    """
    path = Path(dir_path, DATA_FILE)
    if not path.is_file():
        return

    try:
        description = DataDescription.model_validate_json(read_bytes(path))
        if description.columns is not None:
            description.columns.check(model.model_config.input_dim)
        for name, values in (
            ("code_mean", description.code_mean),
            ("code_std", description.code_std),
        ):
            if values is not None and len(values) != model.latent_dim:
                raise DataError(f"{name} has {len(values)} numbers, needs {model.latent_dim}")
    except ValidationError as error:
        raise DataError(str(as_config_error(error, str(path), DataDescription))) from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error

    description.set_on(model)


def load_model(dir_path: str, trust: bool = False) -> BaseAE:
    """Loads a model of this package or of Pythae, without opening untrusted pickles.

    `AutoModel` opens the pickles of Pythae's own models without a question.

    Args:
        dir_path (str): The folder.
        trust (bool): Whether pickles may be opened.

    Returns:
        The model.

    Raises:
        ConfigError: A network is an untrusted pickle.
    """
    model_class = find_model_class(Path(dir_path, MODEL_FILE))
    if model_class is not None:
        return model_class.load_from_folder(dir_path, trust)
    pickles = sorted(Path(dir_path).glob("*.pkl"))
    for name in (MODEL_FILE, "model.pt"):
        if pickles and not Path(dir_path, name).is_file():
            raise MissingFileError(f"cannot load a model from {dir_path}: {name} is missing")
    if pickles and not trust:
        raise _untrusted(pickles[0])
    model = AutoModel.load_from_folder(dir_path)
    load_data_description(model, dir_path)
    return model


def _untrusted(pickle: Path) -> ConfigError:
    """Returns the error for a pickle that may not be opened."""
    return ConfigError(
        f"{pickle} can run any code when it is opened: if you trust its author, pass trust=True to "
        "load_from_folder, or allow_pickle=True to load_from_hf_hub"
    )


def _pickle_network(network: nn.Module, path: Path) -> None:
    """Pickles a network together with the source of its module, so that any process can load it."""
    module = inspect.getmodule(network)
    if module is not None:  # None for a network that was itself loaded from such a pickle
        cloudpickle.register_pickle_by_value(module)
    path.write_bytes(cloudpickle.dumps(network))


def _tie_shared_parameters(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Makes parameters that shared storage when they were saved share it again.

    The storage address does not identify a parameter: a transposed view has the same address.
    """
    parameter_at: dict[Any, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        saved = weights[name]
        location = (saved.data_ptr(), saved.shape, saved.stride())
        shared = parameter_at.setdefault(location, parameter)
        module_name, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module_name), attribute, shared)


@contextmanager
def load_errors_as_data_error(folder: str | Path) -> Iterator[None]:
    """Converts any error of torch and Pythae in the block, which loads a model, to a DataError.

    A pipe or a device in the folder, which could be read without an end, is an error, too.

    Args:
        folder: The model's folder, which the error names.
    """
    try:
        for path in sorted(Path(folder).iterdir()):
            if not path.is_dir():
                check_regular_file(path)
        yield
    except FIFError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(
            f"cannot load a model from {folder}: {format_error(error)}"
        ) from error
    except Exception as error:
        raise DataError(f"cannot load a model from {folder}: {format_error(error)}") from error
