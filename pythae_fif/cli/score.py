"""`score`: scores of two sets of images, or of a saved model's samples, by any extractor."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from pythae.models import AutoModel, BaseAE
from pythae.samplers import NormalSampler
from torch import Tensor

from pythae_fif.benchmark.config import AtLeastTen, ExtractorName, Seed
from pythae_fif.benchmark.image_run import ImageSpec
from pythae_fif.cli.display import Terminal
from pythae_fif.cli.flags import Parser
from pythae_fif.data.images import decode_files, find_images, read_npz, to_uint8
from pythae_fif.device import default_device
from pythae_fif.errors import ConfigError, DataError, StoreError
from pythae_fif.evaluation import Features, load_extractor, score_samples
from pythae_fif.files import write_json
from pythae_fif.models.saved import load_errors_as_config_error
from pythae_fif.runs.spec import SPEC_FILE, read_spec
from pythae_fif.runs.store import read_file
from pythae_fif.sampling.samplers import draw_samples
from pythae_fif.validation import Flag, StrictModel

MODEL = "model_config.json"  # by which the folder of a saved model is known


class ScoreFlags(StrictModel):
    """The words of `score`."""

    samples: str
    reference: str
    extractor: Annotated[ExtractorName, Flag("of `list`, or your own (inception)")] = "inception"
    num_samples: Annotated[AtLeastTen, Flag("of a model (10000)", "N")] = 10_000
    training: Annotated[str | None, Flag("images trained on, for memorisation", "PATH")] = None
    seed: Annotated[Seed, Flag("of samples and subsets", "SEED")] = 0
    extractor_weights: Annotated[str | None, Flag("if they are elsewhere", "FILE")] = None
    offline: Annotated[bool, Flag("never download")] = False
    trust: Annotated[bool, Flag("open a model's pickles, which can run any code")] = False
    to_json: Annotated[str | None, Flag("write the scores there", "FILE")] = None


def score_command(words: list[str]) -> bool:
    """Prints the scores of samples against a reference; True."""
    about = "Scores samples against a reference, each a folder of images or .npz."
    parser = Parser("score", words, about)
    parser.add_argument("samples", metavar="SAMPLES", help="images, or folder of a run or model")
    parser.add_argument("reference", metavar="REFERENCE", help="images")
    parser.add_flags(ScoreFlags)
    flags, device = parser.read(ScoreFlags), default_device()
    model = _load_model(Path(flags.samples).expanduser(), flags.trust)
    wanted = None if model is None else model.model_config.input_dim
    held = _images(flags.reference, wanted and tuple(wanted))
    shape = tuple(held.shape[1:])
    trained = None if flags.training is None else _images(flags.training, shape, "train")
    if model is None:
        drawn = _images(flags.samples, shape)
    else:
        torch.manual_seed(flags.seed)
        parts = draw_samples(NormalSampler(model.to(device).eval()), flags.num_samples)
        drawn = torch.cat([part.cpu() for part in parts])[: flags.num_samples]
    files: Any = {"weights": flags.extractor_weights, "offline": flags.offline}
    extractor = load_extractor(flags.extractor, shape, device=device, **files)
    training = None if trained is None else Features.from_images(trained, extractor)
    references = {"reference": Features.from_images(held, extractor)}
    scores = score_samples(drawn, extractor, references, seed=flags.seed, training=training)
    Terminal().say(str(scores))
    if flags.to_json is not None:
        write_json(Path(flags.to_json).expanduser(), asdict(scores))
    return True


def _load_model(folder: Path, trust: bool) -> BaseAE | None:
    """The model of a run or a saved one, None if there is none. No file runs code untrusted: a
    ConfigError says what would. A DataError tells of a missing file."""
    folder = folder / "model" if (folder / "model" / MODEL).is_file() else folder
    if not (folder / MODEL).is_file():
        return None
    spec = None
    with contextlib.suppress(StoreError):
        spec = read_spec(read_file(folder.parent / SPEC_FILE) or b"")
    with load_errors_as_config_error(folder):
        if isinstance(spec, ImageSpec) and (trust or _is_trusted(spec)):
            weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
            model = spec.build(tuple(json.loads((folder / MODEL).read_text())["input_dim"]))
            model.load_state_dict(weights["model_state_dict"])
            return model
        try:
            return AutoModel.load_from_folder(str(folder), trust=trust)
        except ConfigError as error:  # it speaks of an argument
            raise ConfigError(f"{error}: here --trust") from error


def _is_trusted(spec: ImageSpec) -> bool:
    """Whether all code that a specification names is Pythae's or ours."""
    named = spec.classes
    paths = (named.model, named.config, named.networks or "own", named.discriminator or "own")
    return {path.split(".")[0] for path in paths} <= {"pythae", "pythae_fif", "own"}


def _images(word: str, shape: tuple[int, ...] | None, split: str = "test") -> Tensor:
    """The images of a folder, resized, or of an .npz file, as uint8 (N, C, H, W), of a shape that
    is wanted or the first one's; grey images serve all. Of a file `data`, or the split's key."""
    path = Path(word).expanduser()
    if path.is_file():
        arrays = read_npz(path)
        key = next((key for key in ("data", split, *arrays) if key in arrays), "data")
        images = torch.from_numpy(to_uint8(arrays[key], f"{path}, key {key!r}"))
    elif path.exists() and (names := find_images(path)):
        with Image.open(path / names[0]) as first:
            sides = shape or first.size
        images = torch.from_numpy(decode_files(path, names, min(sides[-2:])))
    else:
        raise DataError(f"{path}: neither a folder of images, an .npz file nor a saved model")
    if shape and images.shape[1] != shape[0] and bool((images == images[:, :1]).all()):
        images = images[:, :1].expand(-1, shape[0], -1, -1)
    if shape and images.shape[1:] != shape:
        raise DataError(f"{path} has images of {tuple(images.shape[1:])}, not {shape}")
    return images
