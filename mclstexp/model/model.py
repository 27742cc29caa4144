"""The model: a pair of encoders that share a space, with its settings, gene panel, calibration and provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from mclstexp.config import EncoderSpec, ModelConfig
from mclstexp.data.anndata_file import reason
from mclstexp.data.genes.expression import expression_for
from mclstexp.data.tile_features import TileFeatures
from mclstexp.errors import FormatError, InputError, MismatchError
from mclstexp.model.calibration import Calibration
from mclstexp.model.card import model_card
from mclstexp.model.folder import ModelFiles, read_model, write_model
from mclstexp.model.image.cache import Cache, feature_cache
from mclstexp.model.image.cost import Cost
from mclstexp.model.image.digest import PREFIX, member_digests, state_digest
from mclstexp.model.image.kept import is_kept, kept_features
from mclstexp.model.linear_features import Features, HeldFeatures, Plan
from mclstexp.model.space.base import Space, fused_keys
from mclstexp.model.space.shared import SharedSpace
from mclstexp.panel import GenePanel
from mclstexp.settings import identity_dict
from mclstexp.slide import Slide, count_patients
from mclstexp.text import counted
from mclstexp.types import Device, FloatArray, Progress, StrPath

if TYPE_CHECKING:  # torch and timm take seconds to load, and a query whose features are kept needs neither
    import torch

    from mclstexp.model.image.encoder import ImageEncoder


HELD_BYTES = 2 * 10**9
"""Bytes up to which the features of a slide's spots are held, and cached, where tissue is encoded tile by tile."""

_MISFITS = (
    LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError, RuntimeError, InputError
)  # fmt: skip
"""What parts of a model's folder that do not fit each other raise."""


@dataclass(frozen=True, eq=False)
class Keys:
    """What a slide brings to a reference.

    Attributes
    ----------
    embedding
        ``(n, d)`` unit float32: the key that queries are compared with.
    image_embedding
        ``(n, d)`` unit float32 of the slide's own patches, or None when it has no image.
    familiarity
        ``(n,)`` percentile of its patches among held-out training patches, by the distance of their features; None
        where it has no image, or the model no calibration.
    """

    embedding: FloatArray
    image_embedding: FloatArray | None
    familiarity: FloatArray | None = None


class Model:
    """A trained model. `mclstexp.train` makes one, `load` reads one, `save` writes one.

    A slide's embeddings are a function of the slide alone: not of the batch size, of the order of the slides, nor of
    which other slides are encoded.

    Attributes
    ----------
    config
        Settings, :class:`~mclstexp.config.ModelConfig`.
    panel
        The gene panel that it was trained on.
    encoder, space
        The image encoder, and the space that patches and spots share.
    calibration
        How sure its predictions are, or None where that is not known.
    slides
        What it was trained on: ``slide``, ``patient``, ``cohort``, ``spots`` and ``image_sha256`` of each slide.
    history
        One entry an epoch or step of the training.

    Examples
    --------
    >>> model = Model.load("model/")
    >>> model  # doctest: +ELLIPSIS
    Model('default', ..., trained on 2 slides of 2 patients)
    """

    def __init__(
        self,
        config: ModelConfig,
        panel: GenePanel,
        encoder: ImageEncoder | SavedEncoder,
        space: Space,
        *,
        calibration: Calibration | None = None,
        slides: Sequence[Mapping[str, Any]] = (),
        history: Sequence[Mapping[str, Any]] = (),
        cache: Cache = False,
    ) -> None:
        self.config, self.panel, self.space = config, panel, space
        self._given = encoder
        self.calibration = calibration
        self.slides = tuple(dict(slide) for slide in slides)
        self.history = [dict(entry) for entry in history]
        self._cache = feature_cache(cache)

    @classmethod
    def load(cls, folder: StrPath, *, device: Device = "auto", cache: Cache = True) -> Model:
        """Read a model's folder.

        Parameters
        ----------
        folder
            What `save` wrote.
        device
            ``auto`` takes a GPU when there is one.
        cache
            Folder that keeps image features between runs; True takes the user's, False keeps none.

        Raises
        ------
        InputError, FormatError
            There is no such folder; it is no model, damaged, or of another format version.
        """
        files = read_model(Path(folder))
        encoder = SavedEncoder(files.config.encoder, files.arrays, str(folder), device)
        try:
            return cls(
                files.config,
                files.panel,
                encoder,
                _space(files),
                calibration=Calibration.from_state(files.arrays, files.facts),
                slides=_trained_on(files.facts),
                history=files.history,
                cache=cache,
            )
        except _MISFITS as error:
            raise _damaged(folder, error) from error

    def save(self, folder: StrPath, *, force: bool = False) -> None:
        """Write the model's folder, wholly or not at all.

        Raises
        ------
        ExistsAlreadyError, StorageError
            The folder exists and ``force`` is not set; the disk refused.
        """
        arrays, facts = self._state
        facts = {**facts, "slides": [dict(slide) for slide in self.slides]}
        card = model_card(self.slides, self.panel, self.config, self.calibration, self.history)
        files = ModelFiles(self.config, self.panel, arrays, facts, self.history, card)
        write_model(Path(folder), files, digest=self.digest, force=force)

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The image encoder; that of a model that was loaded is built when it is first needed."""
        return self._given.built()

    @property
    def device(self) -> Device:
        """Where it computes: ``cpu`` or ``cuda``."""
        return "cuda" if next(self.encoder.parameters()).is_cuda else "cpu"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over weights, settings and panel: two models agree exactly when their digests do."""
        digest = hashlib.sha256(state_digest(self._state[0]).encode())
        digest.update(json.dumps(identity_dict(self.config), sort_keys=True).encode())
        digest.update(self.panel.digest.encode())
        return digest.hexdigest()

    @cached_property
    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Every array by name, and the facts that rebuild the rest."""
        arrays, facts = self.space.state()
        if self.calibration is not None:
            more, calibration_facts = self.calibration.state()
            arrays, facts = arrays | more, facts | calibration_facts
        return arrays | self._given.state(), facts

    def features(self, slide: Slide, *, on_progress: Progress | None = None) -> FloatArray:
        """Return the image features ``(n, F)`` float32 of a slide's spots."""
        kept = kept_features(slide, self.config.encoder, self._given.digests(), self.config.patch, self._cache)
        if kept is not None:
            return kept
        from mclstexp.model.image.features import slide_features

        return slide_features(slide, self.encoder, self.config.patch, cache=self._cache, on_progress=on_progress)

    def seen(self, slide: Slide, *, on_progress: Progress | None = None) -> Features:
        """Return a slide's image features, or, where they would not fit into memory, what the model asks of them.

        They would not where tissue is encoded tile by tile and the spots are so many that their features take more than
        `HELD_BYTES`: then they are added up as they come, and not cached.
        """
        asks, known = self.space.asks, self.calibration
        if asks is None or not self.config.encoder.dense or 4 * len(slide) * len(asks[0]) <= HELD_BYTES:
            return HeldFeatures(self.features(slide, on_progress=on_progress))
        from mclstexp.model.image.features import summed_features

        origin, maps = asks
        plan = Plan(origin, maps)
        if known is not None:
            plan = Plan(origin, (*maps, known.distance.scaled_axes), known.distance.mean, known.distance.scale)
        return summed_features(slide, self.encoder, self.config.patch, plan, on_progress=on_progress)

    def cost(self, slides: Sequence[Slide]) -> Cost:
        """Return what encoding slides costs: their patches that are not cached, and how long they take here.

        One batch of each backbone is encoded to measure its pace, where there is something to encode.
        """
        spec, patch, digests = self.config.encoder, self.config.patch, self._given.digests()
        if all(is_kept(slide, spec, digests, patch, self._cache) for slide in slides):
            return Cost.of_cached(spec, slides)
        from mclstexp.model.image.cost import cost_of

        return cost_of(slides, self.encoder, patch, self._cache)

    def check_features(self, features: TileFeatures, slide: Slide) -> str:
        """Refuse features of another encoder than the model's own; return how that was checked, in a sentence.

        Raises
        ------
        MismatchError
            When they differ, with both values.
        """
        from mclstexp.model.image.given import check_given

        return check_given(features, slide, self.encoder, self.config.patch)

    def embed_patches(self, slide: Slide, *, on_progress: Progress | None = None) -> FloatArray:
        """Return unit embeddings ``(n, d)`` float32 of a slide's patches.

        Raises
        ------
        InputError
            When the slide has no image, or no pixel size where the patch is defined in um.
        """
        return self.space.embed_images(self.seen(slide, on_progress=on_progress), slide)

    def embed_spots(self, slide: Slide) -> FloatArray:
        """Return unit embeddings ``(n, d)`` float32 of a slide's spots, from counts and positions.

        Raises
        ------
        MismatchError
            When the slide measured none of the model's genes.
        """
        expression, measured = expression_for(slide.spots, self.panel, self.config.normalisation)
        if not measured.any():
            raise MismatchError(
                f"Slide {slide.slide_id} measured none of the model's {len(self.panel)} genes; check the gene names "
                "(symbols or Ensembl ids) of its counts."
            )
        return self.space.embed_spots(expression, measured, slide)

    def keys(self, slide: Slide, *, on_progress: Progress | None = None) -> Keys:
        """Return the slide's keys: spot embeddings, mixed with its patches' where it has an image."""
        spot = self.embed_spots(slide)
        if slide.image is None:
            return Keys(spot, None)
        features, known = self.seen(slide, on_progress=on_progress), self.calibration
        image = self.space.embed_images(features, slide)
        familiarity = None if known is None else known.familiarity(known.distance(features))
        return Keys(fused_keys(spot, image, self.config.key_mix), image, familiarity)

    def summary(self) -> list[str]:
        """Return what users may expect of it, a sentence a line."""
        lines = self.space.summary()
        return lines if self.calibration is None else [*lines, self.calibration.summary()]

    def __repr__(self) -> str:
        n_patients = count_patients((slide["cohort"], slide["patient"], slide["slide"]) for slide in self.slides)
        trained = f"{counted(len(self.slides), 'slide')} of {counted(n_patients, 'patient')}"
        return (
            f"Model({self.config.recipe!r}, {self.config.encoder.name}, {len(self.panel)} genes, trained on {trained})"
        )


def identity(slide: Slide) -> dict[str, Any]:
    """Return what a model records of a training slide."""
    return {
        "slide": slide.slide_id,
        "patient": slide.patient,
        "cohort": slide.cohort,
        "spots": len(slide),
        "image_sha256": None if slide.image is None else slide.image.digest(),
    }


def _trained_on(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a model's folder says of its training slides.

    Raises
    ------
    KeyError, TypeError, ValueError
        When that is not what `identity` records.
    """
    slides = [dict(slide) for slide in facts.get("slides", ())]
    for slide in slides:
        for name in ("slide", "patient", "cohort"):
            if not isinstance(slide[name], str):
                raise TypeError(f"the {name} of a training slide is {slide[name]!r}")
        int(slide["spots"])
    return slides


@dataclass(frozen=True, eq=False)
class SavedEncoder:
    """An image encoder as a model's folder holds it: known by name, built when a patch has to be encoded."""

    spec: EncoderSpec
    arrays: Mapping[str, NDArray[Any]]
    folder: str
    device: Device

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu"):
            self._target()  # refused now where it does not exist

    def digests(self) -> list[str]:
        """Return the digest of each backbone's weights."""
        return member_digests(self.arrays, len(self.spec.members))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return every weight by name, as `ImageEncoder.state` does."""
        return {name: values for name, values in self.arrays.items() if name.startswith(PREFIX)}

    def built(self) -> ImageEncoder:
        """Return the encoder.

        Raises
        ------
        FormatError
            When the weights are not those of such an encoder.
        """
        from mclstexp.model.image.encoder import ImageEncoder

        try:
            encoder = ImageEncoder.create(self.spec, "random")
            encoder.load_state(self.arrays)
        except _MISFITS as error:
            raise _damaged(self.folder, error) from error
        return encoder.to(self._target())

    def _target(self) -> torch.device:
        from mclstexp.device import resolve_device

        return resolve_device(self.device)


def _damaged(folder: StrPath, error: Exception) -> FormatError:
    return FormatError(
        f"Model {folder} is damaged: its parts do not fit each other ({reason(error)}); "
        "train it again or restore a copy."
    )


def _tensors(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, torch.Tensor]:
    import torch

    return {
        name.removeprefix(prefix): torch.from_numpy(values.copy())
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def _space(files: ModelFiles) -> Space:
    """Rebuild the space of a model that was read."""
    if files.config.space == "shared":
        if "refined" not in files.facts:
            return SharedSpace.from_state(files.arrays, files.facts)
        from mclstexp.model.space.refined import RefinedSpace

        return RefinedSpace.from_state(files.arrays, files.facts)
    from mclstexp.model.network.layers import ContrastiveNetwork
    from mclstexp.model.network.space import NetworkSpace

    rows, cols = files.facts["array_shape"]
    network = ContrastiveNetwork(files.facts["n_features"], len(files.panel), (rows, cols), files.config.network)
    network.load_state_dict(_tensors(files.arrays, "network."))
    return NetworkSpace(network.eval())
