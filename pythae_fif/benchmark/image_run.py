"""One run of the benchmark: what defines it, and how it trains, samples and scores."""

import dataclasses
import shutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from pythae.models import BaseAE
from pythae.trainers.trainer_utils import set_seed

from pythae_fif.benchmark.config import DataLocation, Settings
from pythae_fif.benchmark.models import ModelClasses
from pythae_fif.benchmark.pictures import samples_picture
from pythae_fif.benchmark.pythae_patches import patch_slow_ops
from pythae_fif.benchmark.record import DataUsed, Evaluation, Training
from pythae_fif.data import ImageDataset, Splits
from pythae_fif.data.load import ExpectedHashes, load
from pythae_fif.data.splits import SPLIT_NAMES, as_tensor
from pythae_fif.errors import ConfigError, FIFError, did_you_mean, format_error
from pythae_fif.evaluation import Features, load_extractor, score_codes, score_samples
from pythae_fif.evaluation.extractors import rounded_images
from pythae_fif.evaluation.likelihood import fit_priors, marginal_likelihoods
from pythae_fif.evaluation.scores import Scores
from pythae_fif.files import atomic_folder, quarantine, read_json
from pythae_fif.models.fitted_priors import FIT_STEPS
from pythae_fif.names import import_object
from pythae_fif.nn import build_networks
from pythae_fif.runs.spec import Spec
from pythae_fif.runs.worker import Run
from pythae_fif.sampling.samplers import embed, generate, generate_by_class, reconstruction_mse
from pythae_fif.training import FIFTrainer, OnEpoch, keep_freed_memory
from pythae_fif.training.checkpoint import RESULT_NAME
from pythae_fif.training.updates import network_prefixes

WEIGHTS = "model/model.pt"
PER_MODEL_SETTINGS = {"batch_size", "epochs", "learning_rate", "weight_decay"}
"""Settings that may be one model's alone; epochs follow from steps and its batch size."""
Name = Annotated[str, Field(pattern=r"^[\w=+@-][\w.=+@-]*$")]
"""A part of a path that leads nowhere else."""
Labels = Mapping[str, np.ndarray]
"""Split -> class of each image; empty where the model is not told them."""


class ImageSpec(Spec):
    """Everything that defines the result of a run of the benchmark, and what is asked of it.

    Attributes:
        dataset, arch, model: Names.
        classes: Of the model's entry.
        parameters: Hyper-parameters of the model, the varied and the fixed ones.
        varied: Names of those that the grid varies.
        latent_dim, image_size, seed, extractor, profile: As in the experiment.
        settings: The profile's values for this model.
        data_hash: Of the images in use, after the profile's cut.
        labels_hash: Of their labels, if the model is told them; else None.
        samplers: Those whose scores are wanted.
        location: The data and the extractor's files.
    """

    kind: ClassVar[str] = "images"
    fields_outside_id: ClassVar[frozenset[str]] = frozenset({"samplers", "location"})

    dataset: Name
    arch: Name
    model: Name
    classes: ModelClasses
    parameters: dict[str, Any]
    varied: list[str]
    latent_dim: int
    image_size: int | None
    seed: int = 0
    extractor: str
    profile: str
    settings: Settings
    data_hash: str
    labels_hash: str | None = None
    samplers: list[str] = Field(default_factory=list)
    location: DataLocation = Field(default_factory=DataLocation)

    @property
    def folder(self) -> str:
        """`<dataset>/<arch>/<model>`."""
        return f"{self.dataset}/{self.arch}/{self.model}"

    @property
    def configuration(self) -> str:
        """The varied hyper-parameters as `name=value`, or a dash."""
        return ", ".join(f"{n}={_format_value(self.parameters[n])}" for n in self.varied) or "–"

    @property
    def title(self) -> str:
        return f"{self.model} {self.configuration} seed {self.seed}"

    @property
    def training_id(self) -> str:
        """The id of the training, which no extractor and no number of samples changes."""
        settings = self.settings.model_copy(update={"num_samples": 0, "fit_steps": None})
        return self.model_copy(update={"settings": settings, "extractor": "", "profile": ""}).run_id

    @property
    def comparable(self) -> str:
        """What two runs share that may stand in one table."""
        shared = {"dataset", "arch", "image_size", "extractor", "profile", "data_hash"}
        return repr(
            (self.model_dump(include=shared), self.settings.model_dump(exclude=PER_MODEL_SETTINGS))
        )

    @property
    def outputs(self) -> Mapping[str, type]:
        """Training, evaluation and the scores of each sampler that is wanted."""
        scores = {f"scores/{sampler}.json": Scores for sampler in self.samplers}
        return {"training.json": Training, "evaluation.json": Evaluation, **scores}

    def configure(self, input_dim: tuple[int, ...]) -> Any:
        """The model's configuration for samples of a shape.

        Raises:
            ConfigError: An unknown hyper-parameter, which Pythae's own classes would drop; their
                errors, and pydantic's, for a value that is not right.
        """
        config_class = import_object(self.classes.config)
        known = [field.name for field in dataclasses.fields(config_class) if field.init]
        if unknown := [key for key in self.parameters if key not in known]:
            raise ConfigError(f"unknown key {unknown[0]!r}: {did_you_mean(unknown[0], known)}")
        return config_class(input_dim=input_dim, latent_dim=self.latent_dim, **self.parameters)

    def build(self, input_dim: tuple[int, ...]) -> BaseAE:
        """A fresh model for samples of a shape; seed torch before.

        Raises:
            ConfigError: The architecture does not serve the data or the model; the errors of
                :meth:`configure`.
        """
        named, shape = self.classes, (self.arch, input_dim, self.latent_dim)
        # First the parameters: of a wrong one and a wrong architecture it is the nearer mistake.
        config = self.configure(input_dim)
        networks: tuple[Any, ...] = ()
        if named.networks is None:
            told = self.parameters.get("condition_dim", 0)
            networks = build_networks(*shape, variational=named.variational, condition_dim=told)
        elif named.networks != "own":
            networks = import_object(named.networks)(*shape)
        if named.discriminator is not None:
            networks = (*networks, import_object(named.discriminator)(input_dim))
        parts = zip(("encoder", "decoder", "discriminator"), networks, strict=False)
        return patch_slow_ops(import_object(named.model)(config, **dict(parts)))

    def run(self, run: Run) -> None:
        """Trains and scores: a training that was cut off is resumed, no sampler scored twice.

        Raises:
            FIFError: Of a sampler that failed; the records of the others are there.
        """
        if not torch.cuda.is_available():
            keep_freed_memory()
        run.report("loading data")
        planned, cut = ExpectedHashes(self.data_hash, self.labels_hash), self.settings.data_subset
        splits = load(
            self.dataset, self.location, planned=planned, image_size=self.image_size, **cut
        )
        labels = (splits.labels or {}) if self.labels_hash else {}
        self._take_trained(run)
        trainer = build_trainer(
            self,
            splits,
            labels,
            run.folder,
            lambda row: run.report("training", 0.9 * row.share_done),
        )
        run.report("training")  # an epoch may take minutes
        result, model = trainer.train(), trainer.model
        del trainer  # with the images that it keeps on a GPU
        run.device = str(next(model.parameters()).device)
        self._save_training(run, vars(result), model)
        run.report("features of the data", 0.9)
        files: Any = {"weights": self.location.extractor_weights, "offline": self.location.offline}
        of_data = splits.input_dim, splits.name
        extractor = load_extractor(self.extractor, *of_data, device=run.device, **files)
        codes = embed(model, splits.train, labels=labels.get("train"), seed=self.seed)
        known = run.load("evaluation.json", Evaluation)
        evaluation = known.result if known else self._evaluate(model, splits, labels, codes)
        if known is None:
            run.save("evaluation.json", evaluation)
        references = {
            of: Features.from_images(
                as_tensor(splits[of]), extractor, f"{of} of {splits.content_hash}"
            )
            for of in SPLIT_NAMES
        }
        training = references.pop("train")
        failures, steps = [], self.settings.fit_steps or FIT_STEPS
        how: Any = {"num_samples": self.settings.num_samples, "seed": self.seed}
        how |= {"fit_steps": steps, "transform": rounded_images}
        left = [of for of in self.samplers if run.load(f"scores/{of}.json", Scores) is None]
        run.report("likelihood", 0.9)
        priors = fit_priors(model, left, codes, labels.get("train"), seed=self.seed, steps=steps)
        val_mse = evaluation.reconstruction_mse["val"]
        tubes = marginal_likelihoods(model, priors, splits, labels, val_mse, self.seed)
        for number, sampler in enumerate(left):
            run.report(f"sampler {sampler}", 0.9 + 0.1 * number / len(left))
            try:
                if labels:
                    given = labels["train"]
                    samples, classes = generate_by_class(sampler, model, codes, given, **how)
                else:
                    prior, classes = priors.get(sampler), None
                    samples = generate(sampler, model, codes, prior=prior, **how)
                scores = score_samples(
                    samples, extractor, references, seed=self.seed, training=training
                )
                scores = dataclasses.replace(scores, tube=tubes.get(sampler))
            except Exception as error:  # of this sampler alone; it is raised below
                traceback.print_exc()
                failures.append(f"sampler {sampler}: {format_error(error)}")
                continue
            sheet = samples_picture(samples, classes) if samples.ndim == 4 else None
            files = run.write(f"samples-{sampler}.png", sheet) if sheet else {}
            run.save(f"scores/{sampler}.json", scores, files)
        if failures:
            raise FIFError("; ".join(failures))

    def _take_trained(self, run: Run) -> None:
        """Copies the model of a run of the same training, if there is one and this has none."""
        store, ours, name = run.store, run.folder / "model", "training.json"
        fresh = not (ours.exists() or (run.folder / name).exists())
        for other in store.specs(ImageSpec, self.folder) if fresh else ():
            theirs, record = store.folder(other) / "model", store.record(other, name, Training)
            if other.training_id == self.training_id and record and theirs.exists():
                with atomic_folder(ours) as folder:
                    shutil.copytree(theirs, folder, dirs_exist_ok=True)
                run.write(name, record.model_copy(update={"run_id": self.run_id}).to_bytes())
                return

    def _save_training(self, run: Run, result: Mapping[str, Any], model: BaseAE) -> None:
        """Saves how a model was trained if that is new; what is of other weights goes aside."""
        written = read_json(run.folder / "model" / RESULT_NAME)["files"]
        files = {f"model/{name}": checksum for name, checksum in written.items()}
        before = run.load("training.json", Training)
        if before is None or before.files.get(WEIGHTS) != files[WEIGHTS]:
            for path in [*run.folder.glob("evaluation.json"), *run.folder.glob("scores/*.json")]:
                quarantine(path, "it is of other weights")
        if before is None or before.files != files:
            surrogate = getattr(model, "surrogate_mode", None)
            run.save("training.json", Training(**result, surrogate=surrogate), files)

    def _evaluate(
        self, model: BaseAE, splits: Splits, labels: Labels, codes: torch.Tensor
    ) -> Evaluation:
        """What is found of a model beside samples."""
        errors = {}
        for split in ("val", "test"):
            set_seed(self.seed)
            errors[split] = reconstruction_mse(model, splits[split], labels.get(split))
        sizes = {split: len(splits[split]) for split in SPLIT_NAMES}
        return Evaluation(
            reconstruction_mse=errors,
            codes=score_codes(codes),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            data=DataUsed(source=splits.source, partial=splits.partial, sizes=sizes),
        )


def _format_value(value: Any) -> str:
    """A hyper-parameter for people: 0.5 of 0.50, Planar+Radial of a list."""
    if isinstance(value, list):
        return "+".join(map(_format_value, value))
    return f"{value:g}" if type(value) in (int, float) else str(value)


def build_trainer(
    spec: ImageSpec, splits: Splits, labels: Labels, folder: Path, on_epoch: OnEpoch | None = None
) -> FIFTrainer:
    """A fresh model of a run, seeded, in the trainer that trains it, or finds it trained."""
    set_seed(spec.seed)
    return FIFTrainer(
        spec.build(splits.input_dim),
        ImageDataset(splits.train, labels.get("train")),
        ImageDataset(splits.val, labels.get("val")),
        training_config(spec),
        run_dir=folder,
        run_id=spec.training_id,
        on_epoch=on_epoch,
        wall_clock=spec.settings.wall_clock,
        keep_last=spec.classes.keep_last,
        precision=spec.settings.precision,
    )


def training_config(spec: ImageSpec) -> Any:
    """Pythae's training configuration of a run: Adam, with the profile's plateau schedule."""
    settings = spec.settings
    config_class = import_object(spec.classes.trainer)
    options: dict[str, Any] = {"learning_rate": settings.learning_rate}
    if settings.weight_decay is not None:
        options["optimizer_params"] = {"weight_decay": settings.weight_decay}
    if settings.plateau_factor is not None:  # appendix E.4
        options["scheduler_cls"] = "ReduceLROnPlateau"
        options["scheduler_params"] = {"factor": settings.plateau_factor, "patience": 10}
    parts = network_prefixes(config_class)
    return config_class(
        num_epochs=settings.epochs or 10**9,  # a wall clock knows none
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        seed=spec.seed,
        **{f"{part}{key}": value for part in parts for key, value in options.items()},
    )
