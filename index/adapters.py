"""A reference as a model of LazySlide (``tl.feature_prediction``) and of tiatoolbox (``DeepFeatureExtractor``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mclstexp.data.images import open_image
from mclstexp.data.paths import require_file
from mclstexp.data.tile_features import TileFeatures
from mclstexp.errors import InputError
from mclstexp.index.filter import Filter
from mclstexp.index.reference import Reference
from mclstexp.notes import warn
from mclstexp.predict.prediction import Prediction
from mclstexp.types import BoolArray, FloatArray, StrPath


class FeatureModel:
    """A reference that takes the features of a slide's tiles, and returns their expression.

    It is what LazySlide calls a feature prediction model: a spot's prediction depends on its whole slide, so that it
    asks for all tiles at once (``whole_slide``), with their corners (``needs_coords``). Features are refused unless
    they are of the reference's own encoder: by digest of its weights, by encoding some tiles of ``image`` anew, or at
    least by name.

    Parameters
    ----------
    reference
        What to ask.
    genes
        Genes to predict; None for the model's panel.
    filter
        Which reference spots may be neighbours.
    mpp
        Pixel size of the slide in um.
    tile_px
        Side of a tile in pixels of full resolution.
    image
        The slide's image, to check the features against.
    encoder, weights_sha256
        Which encoder made the features: its name, and the digest of its weights as ``model.encoder.digest()`` has it.

    Attributes
    ----------
    prediction
        The last prediction with its evidence, to be saved or drawn; None before the first.

    Examples
    --------
    >>> import mclstexp as mst
    >>> reference = mst.Reference.open("reference/")
    >>> slide = mst.read_query("slide.tif", "coords.csv")
    >>> model = FeatureModel(reference, genes=["ERBB2"], mpp=0.5, tile_px=224, encoder="resnet50")
    >>> model.name, model.whole_slide
    ('mclstexp', True)
    >>> import numpy as np
    >>> model.predict(np.ones((2, 2048)), np.array([[0, 0], [224, 0]]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    mclstexp.errors.MismatchError: The model's features are covariance pooling over ... at 3 fields of view; ...
    """

    name = "mclstexp"
    needs_coords = True
    whole_slide = True

    def __init__(
        self,
        reference: Reference,
        *,
        genes: Sequence[str] | None = None,
        filter: Filter | None = None,
        mpp: float | None = None,
        tile_px: float,
        image: StrPath | None = None,
        encoder: str = "",
        weights_sha256: str = "",
    ) -> None:
        self.reference, self._genes, self._filter = reference, genes, filter
        self._mpp, self._tile_px, self._image = mpp, tile_px, image
        self._encoder, self._weights = encoder, weights_sha256
        self.prediction: Prediction | None = None

    @classmethod
    def for_wsi(cls, reference: Reference, wsi: Any, *, tile_key: str = "tiles", **options: Any) -> FeatureModel:
        """Return the model for a slide that LazySlide has opened and tiled: its pixel size, tiles and image.

        Raises
        ------
        InputError
            When the slide has not been tiled.
        """
        spec = wsi.tile_spec(tile_key) if tile_key in wsi.shapes else None
        if spec is None:
            raise InputError(f"The slide has no tiles {tile_key!r}; run LazySlide's pp.tile_tissues first.")
        own = {"mpp": wsi.properties.mpp, "tile_px": float(spec.base_width), "image": wsi.reader.file}
        return cls(reference, **{**own, **options})

    @property
    def model(self) -> torch.nn.Module:
        """The reference's image encoder."""
        return self.reference.model.encoder

    @property
    def features_model_name(self) -> str:
        """Name under which LazySlide finds the features: those that `PatchEncoder` made, unless it is told another."""
        return PatchEncoder.name

    def predict(
        self, features: Any, coords: NDArray[Any] | None = None, *args: Any, **keywords: Any
    ) -> dict[str, FloatArray]:
        """Return expected expression ``(n,)`` float32 by gene, NaN where nothing is known.

        Parameters
        ----------
        features
            ``(n, F)`` features of all tiles of one slide, an array or a tensor.
        coords
            ``(n, 2)`` top left corners at full resolution, or ``(n, 4)`` corners as tiatoolbox has them.

        Raises
        ------
        InputError, MismatchError
            Coordinates are missing; the features are of another encoder, with both values.
        """
        if coords is None:
            raise InputError("A spot's prediction depends on where it lies: give coords, the corners of the tiles.")
        values, corners = _array(features), np.asarray(coords, dtype=np.float64)
        inside = self._inside(corners)
        prediction = self.predict_slide(values[inside], corners[inside])
        expression = np.full((len(prediction.genes), len(inside)), np.nan, dtype=np.float32)
        expression[:, inside] = prediction.mean.T
        return dict(zip(prediction.genes.symbols, expression, strict=True))

    def _inside(self, corners: NDArray[np.float64]) -> BoolArray:
        """Whether each tile has its centre in the image; tiatoolbox lays tiles over the edge, too."""
        inside: BoolArray = np.ones(len(corners), dtype=bool)
        if self._image is not None:
            with open_image(require_file(self._image, "Image")) as image:
                centre = corners[:, :2] + self._tile_px / 2
                inside = np.all((centre >= 0) & (centre < image.size_px), axis=1)
        if not inside.all():
            warn(f"{int((~inside).sum())} of {len(inside)} tiles have their centre outside the image: NaN for them.")
        return inside

    def predict_slide(self, features: Any, coords: NDArray[Any]) -> Prediction:
        """Return the same with its evidence, and keep it as ``prediction``; every tile has to lie on the image."""
        given = TileFeatures(
            values=_array(features),
            corner_px=np.asarray(coords, dtype=np.float64)[:, :2],
            tile_px=self._tile_px,
            encoder=self._encoder,
            weights_sha256=self._weights,
            name="tiles",
        )
        slide = given.slide(self._image, mpp=self._mpp)
        self.prediction = self.reference.query(slide, genes=self._genes, filter=self._filter, features=given)
        return self.prediction

    def get_transform(self) -> Callable[[Any], Any] | None:
        """Return None: no image is taken."""
        return None

    def to(self, device: Any) -> Self:
        """Stay: the reference decides where it computes."""
        return self

    def try_compile(self, **keywords: Any) -> None:
        """Do nothing: what is asked is a search."""


def _array(features: Any) -> FloatArray:
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu().float().numpy()
    dense = features.toarray() if hasattr(features, "toarray") else features
    return np.asarray(dense, dtype=np.float32)


class PatchEncoder(torch.nn.Module):
    """The reference's image encoder as a model of LazySlide and tiatoolbox, for patches that they cut.

    It goes into LazySlide's ``tl.feature_extraction`` and tiatoolbox's ``DeepFeatureExtractor``. Its features are of
    the model's own weights and pooling, so that `FeatureModel` takes them, by comparison with the slide's image or with
    ``weights_sha256=encoder.weights_sha256``.

    Raises
    ------
    InputError
        When the reference's model looks at several fields of view, and tiatoolbox cuts one.

    Examples
    --------
    >>> import mclstexp as mst
    >>> model = mst.Model.load("model/")
    >>> model.config.encoder.scales
    (0.5, 1.0, 2.0)
    >>> PatchEncoder(model)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    mclstexp.errors.InputError: The model looks at 3 fields of view, and a patch is one; ...
    """

    class_dict = None
    name = "mclstexp_encoder"

    def __init__(self, model: Any) -> None:
        super().__init__()
        encoder = model.encoder
        if len(encoder.spec.scales) != 1:
            raise InputError(
                f"The model looks at {len(encoder.spec.scales)} fields of view, and a patch is one; train with --set "
                "encoder.scales=[1.0] --set shared.context_scales=[0]."
            )
        self.encoder = encoder
        patch = model.config.patch
        self.patch_px, self.mpp = patch.size_px, None if patch.mpp is None else patch.mpp * patch.scale
        self.mpp = None if self.mpp is None else self.mpp * encoder.spec.scales[0]
        self.preproc_func = self.postproc_func = _unchanged

    @property
    def weights_sha256(self) -> str:
        """Digest of the encoder's weights."""
        return str(self.encoder.digest())

    @property
    def model(self) -> torch.nn.Module:
        """The encoder itself."""
        return self.encoder  # type: ignore[no-any-return]

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return ``(b, F)`` float32 of uint8 patches ``(b, size, size, 3)``.

        Raises
        ------
        InputError
            When the patches are of another size than the model's.
        """
        pixels = patches.detach().cpu().numpy().astype(np.uint8)
        if pixels.shape[1:] != (self.patch_px, self.patch_px, 3):
            shape = " x ".join(map(str, pixels.shape[1:]))
            raise InputError(f"Patches are {shape}, the model's are {self.patch_px} x {self.patch_px} x 3.")
        return torch.from_numpy(self.encoder.features(pixels))

    def encode_image(self, image: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
        """Return the same, as LazySlide asks for it."""
        return self(image)  # type: ignore[no-any-return]

    def get_transform(self) -> Callable[[Any], torch.Tensor]:
        """Return what makes a tensor of a tile's pixels and nothing else: the encoder normalises them itself."""
        return _pixels

    def to(self, *args: Any, **keywords: Any) -> Self:
        """Stay: the model decides where it computes."""
        return self

    def try_compile(self, **keywords: Any) -> None:
        """Do nothing."""

    @staticmethod
    def infer_batch(model: Any, batch_data: torch.Tensor, *, device: str = "cpu") -> list[FloatArray]:
        """Return the features of a batch, as tiatoolbox's backbones do: in a list of one."""
        return [model(batch_data).numpy()]


def _pixels(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image, dtype=np.uint8))


def _unchanged(image: Any) -> Any:
    return image
