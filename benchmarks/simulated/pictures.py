"""H&E-like pictures of many tissues, drawn from the programmes that counts are drawn from, and encoded.

Some twenty properties of the tissue (how many nuclei there are, how large, long, dark and clumped; fibres, fat, glands,
lymphocytes, mucin, pigment, hue) each follow a few visible programmes and the tissue's own palette. Nuisances bend
fibres and change how strongly a region is stained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from mclstexp.data.synthetic.histology import STAINS, ellipses
from mclstexp.model.space.training_data import FeatureLayout, SlideArrays
from mclstexp.types import FloatArray
from simulated.nature import WORLDS, Cohort, Nature, Place, Positions, World, lattice, places, slide_arrays

if TYPE_CHECKING:
    from mclstexp.model.image.encoder import ImageEncoder

PICTURES = 1
"""To be raised whenever pictures change, so that no features of former ones are taken from a cache."""

MPP, PATCH_PX, PITCH_UM, CELL_UM = 0.7, 224, 200.0, 16.0
"""Pixel size in um, side of a patch, distance of spots, and side of a cell of the drawn fields."""

PROPERTIES = (
    *("nuclei", "large", "long", "dark", "clumped", "unlike", "aligned", "nucleoli", "lymphocytes", "eosin", "grainy"),
    *("fibres", "coarse", "fat", "droplets", "glands", "wide", "red", "mucin", "pigment", "clefts", "blue", "orange"),
)
"""What follows programmes, each from 0 to 1 over the tissue."""

DRIVERS = 3
"""Programmes that a property follows."""

RED, BROWN = np.array([0.15, 0.75, 0.70]), np.array([0.55, 0.75, 0.95])
BLUER, ORANGER = np.array([0.25, -0.05, -0.15]), np.array([-0.12, 0.0, 0.22])
"""Optical densities of red cells and pigment, and how the two stains' hue varies."""


def simulate_pictures(
    tissues: int,
    patients: int,
    slides_per_patient: int,
    spots: int,
    programmes: int | None,
    genes: int,
    seed: int,
    *,
    encoder: ImageEncoder,
    cache: Path | None = None,
    world: str | World = "linear",
) -> Cohort:
    """Simulate a cohort, draw its slides, and encode a patch a spot; else as `simulated.features.simulate`.

    Parameters
    ----------
    encoder
        Encodes patches of 157 um; its scales are not looked at.
    cache
        Folder that keeps the features.
    """
    chosen = WORLDS[world] if isinstance(world, str) else world
    nature = Nature(chosen if programmes is None else replace(chosen, programmes=programmes), tissues, genes, seed)
    look = Look(nature, tissues)
    train, test = places(tissues, patients, slides_per_patient, spots, seed)
    layout = FeatureLayout(encoder.block_sizes(PATCH_PX))
    sides = [[_slide(nature, look, place, encoder, cache) for place in side] for side in (train, test)]
    return Cohort(sides[0], sides[1], layout)


def _slide(nature: Nature, look: Look, place: Place, encoder: ImageEncoder, cache: Path | None) -> SlideArrays:
    own, rng = nature.random(place)
    xy_um = lattice(place.spots, PITCH_UM) + PITCH_UM / 2
    n_cells = int(np.ceil((xy_um.max() + PITCH_UM / 2) / CELL_UM))
    cells = (np.stack(np.meshgrid(np.arange(n_cells), np.arange(n_cells)), axis=-1) + 0.5) * CELL_UM
    fields = nature.fields(np.concatenate([xy_um, cells.reshape(-1, 2)]), place.tissue, (0.0,), rng)[0]
    counts = nature.counts(fields[: len(xy_um), : nature.world.programmes], place.tissue, own, rng)
    drawn = fields[len(xy_um) :].reshape(n_cells, n_cells, -1)
    path = None if cache is None else cache / f"{_key(nature, look, place, encoder)}.npy"
    if path is not None and path.is_file():
        return slide_arrays(place, np.load(path, allow_pickle=False), counts, xy_um)
    features = encoder.features(_patches(look.draw(drawn, place.tissue, own, rng), xy_um))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(".partial.npy")
        np.save(work, features, allow_pickle=False)
        work.replace(path)
    return slide_arrays(place, features, counts, xy_um)


def _key(nature: Nature, look: Look, place: Place, encoder: ImageEncoder) -> str:
    """Name everything that decides a slide's features."""
    parts = [PICTURES, asdict(nature.world), nature.seed, nature.n_genes, len(look.base), asdict(place)]
    parts += [encoder.digest(), asdict(encoder.spec)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _patches(image: NDArray[np.uint8], xy_um: Positions) -> NDArray[np.uint8]:
    """Cut a patch around every spot, ``(n, PATCH_PX, PATCH_PX, 3)``."""
    corners = np.rint(xy_um / MPP).astype(int) - PATCH_PX // 2
    return np.stack([image[y : y + PATCH_PX, x : x + PATCH_PX] for x, y in corners])


class Look:
    """How tissues look: every property's own value in each tissue, and the programmes that it follows."""

    def __init__(self, nature: Nature, tissues: int) -> None:
        rng = np.random.default_rng([nature.seed, 6])
        n, visible = len(PROPERTIES), nature.visible
        self.patient = nature.world.patient
        self.programmes = nature.world.programmes
        self.base = rng.normal(-0.5, 0.8, (tissues, n))
        self.weights = np.zeros((self.programmes, n))
        # Turn by turn, so that every visible programme is seen in some property.
        turns = np.concatenate([rng.permutation(visible) for _ in range(DRIVERS * n // len(visible) + 1)])
        for number in range(n):
            drivers = np.unique(turns[DRIVERS * number : DRIVERS * (number + 1)])
            self.weights[drivers, number] = rng.choice([-1.0, 1.0], len(drivers)) * rng.uniform(0.6, 1.2, len(drivers))

    def draw(
        self, fields: FloatArray, tissue: int, own: np.random.Generator, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Draw a slide ``(side, side, 3)`` uint8 from fields ``(cells, cells, programmes and nuisances)``."""
        values = self.base[tissue] + fields[..., : self.programmes] @ self.weights
        amounts = (1 / (1 + np.exp(-values))).astype(np.float32)
        stains = STAINS.copy()
        for source, size in ((own, self.patient / 2), (rng, self.patient / 6)):
            stains *= np.exp(source.normal(0, size, (2, 1))) * np.exp(source.normal(0, size / 3, (2, 3)))
        properties = dict(zip(PROPERTIES, np.moveaxis(amounts, -1, 0), strict=True))
        return _Painter(properties, fields[..., self.programmes :], rng).paint(stains)


class _Painter:
    def __init__(self, properties: dict[str, FloatArray], nuisances: FloatArray, rng: np.random.Generator) -> None:
        self.properties, self.rng = properties, rng
        self.extent = len(nuisances) * CELL_UM
        self.side = int(np.ceil(self.extent / MPP))
        nothing = np.zeros(nuisances.shape[:2], dtype=np.float32)
        # Height of the fibres' course: its slope is the direction in which fibres and long nuclei lie.
        self.course = nuisances[..., 0] * np.float32(60.0) if nuisances.shape[-1] else nothing
        self.slope = np.gradient(self.course, CELL_UM, axis=1)
        self.thickness = np.exp(0.1 * nuisances[..., 1]) if nuisances.shape[-1] > 1 else nothing + 1

    def paint(self, stains: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Lay down cytoplasm, what is within it, nuclei and holes, and look through it (Beer-Lambert)."""
        up, thickness = self._wide, self._up(self.thickness)
        fibres = self._fibres()
        eosin = (0.12 + 0.4 * up("eosin")) * (1 + 0.7 * up("fibres") * fibres).clip(0.2)
        eosin *= 1 + (0.04 + 0.25 * up("grainy")) * self._grain(2)
        eosin[(fibres < -1.6) & (up("clefts") > 0.5)] = 0.03
        blue = 0.05 + 0.3 * up("mucin") ** 2 * (1 + 0.3 * self._grain(6))
        nuclei = self._nuclei() * (1 + (0.05 + 0.5 * up("clumped")) * self._grain(3))
        holes, walls, rims = self._holes()
        eosin = (eosin * (1 - 0.5 * np.minimum(nuclei, 1)) * (1 - holes) + 0.3 * walls) * thickness
        blue = ((blue + nuclei) * (1 - holes) + 0.5 * rims) * thickness
        density = blue[..., None] * (stains[0] + (up("blue")[..., None] - 0.5) * BLUER).astype(np.float32)
        density += eosin[..., None] * (stains[1] + (up("orange")[..., None] - 0.5) * ORANGER).astype(np.float32)
        density += (self._discs("red", 8.5, (2.8, 3.4), 0.5) * (1 - holes))[..., None] * RED.astype(np.float32)
        density += (self._discs("pigment", 13.0, (1.0, 2.6), 0.5) * (1 - holes))[..., None] * BROWN.astype(np.float32)
        return np.asarray((248 * np.exp(-density.clip(0))).clip(0, 255), dtype=np.uint8)

    def _up(self, field: FloatArray) -> FloatArray:
        image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        return np.asarray(image.resize((self.side, self.side), Image.Resampling.BILINEAR))

    def _wide(self, name: str) -> FloatArray:
        return self._up(self.properties[name])

    def _at(self, field: FloatArray, xy_um: FloatArray) -> FloatArray:
        cells = np.clip((xy_um / CELL_UM).astype(int), 0, len(field) - 1)
        return field[cells[:, 1], cells[:, 0]]

    def _grain(self, cell_px: int) -> FloatArray:
        """Draw white noise in squares of some pixels."""
        n = self.side // cell_px + 1
        noise = self.rng.standard_normal((n, n), dtype=np.float32)
        return np.repeat(np.repeat(noise, cell_px, axis=0), cell_px, axis=1)[: self.side, : self.side]

    def _fibres(self) -> FloatArray:
        """Draw wavy streaks, about standard normal, fine or coarse: horizontal ones bent along the course."""
        half, um = self.side // 2 + 1, 2 * MPP
        y, x = np.mgrid[:half, :half]
        course = np.asarray(Image.fromarray(self.course).resize((half, half))) / um
        rows, share, total = np.mod(y - np.rint(course).astype(int), half), self._wide("coarse"), 0.0
        for width_um, weight in ((1.2, 1 - share), (4.5, share)):
            noise = self.rng.standard_normal((half, half), dtype=np.float32)
            streaks = ndimage.gaussian_filter(noise, (width_um / um, 12 * width_um / um), mode="wrap")
            bent = (streaks / streaks.std())[rows, x]
            total = total + weight * np.asarray(Image.fromarray(bent).resize((self.side, self.side)))
        return np.asarray(total, dtype=np.float32)

    def _scatter(self, spacing_um: float) -> FloatArray:
        """Places on a jittered hexagonal lattice, ``(n, 2)`` um."""
        y, x = np.mgrid[0 : self.extent : spacing_um * 0.87, 0 : self.extent : spacing_um].astype(np.float32)
        x[1::2] += spacing_um / 2
        jitter = self.rng.normal(0, 0.17 * spacing_um, (x.size, 2)).astype(np.float32)
        return np.stack([x.ravel(), y.ravel()], axis=1) + jitter

    def _chosen(self, name: str, spacing_um: float, most: float) -> FloatArray:
        """Places where something is: the more, the larger its property."""
        xy = self._scatter(spacing_um)
        return xy[self.rng.random(len(xy)) < most * self._at(self.properties[name], xy) ** 2]

    def _layer(self, outlines: FloatArray, shade: NDArray[np.float64]) -> FloatArray:
        """Fill outlines ``(n, 14, 2)`` um with shades in 0 to 1."""
        layer = Image.new("L", (self.side, self.side))
        draw = ImageDraw.Draw(layer)
        for outline, value in zip((outlines / MPP).round(1), (shade * 255).clip(1, 255).astype(int), strict=True):
            draw.polygon(outline.ravel().tolist(), fill=int(value))
        return np.asarray(layer.filter(ImageFilter.GaussianBlur(0.4 / MPP)), dtype=np.float32) / 255

    def _outlines(self, xy: FloatArray, radii: NDArray[np.float64], wobble: float = 0.06) -> FloatArray:
        return ellipses(xy, radii, self.rng.uniform(0, np.pi, len(xy)), wobble=wobble, rng=self.rng)

    def _discs(self, name: str, spacing_um: float, radius_um: tuple[float, float], most: float) -> FloatArray:
        """Draw round bodies of full shade."""
        xy = self._chosen(name, spacing_um, most)
        radii = self.rng.uniform(*radius_um, (len(xy), 1)) * np.ones((1, 2))
        return self._layer(self._outlines(xy, radii), np.full(len(xy), 0.8))

    def _holes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Draw fat, droplets and lumina: what is empty, walls around fat, and the cells around lumina, 0 to 1."""
        rng = self.rng
        fat, drops, glands = (
            self._chosen(name, spacing, most)
            for name, spacing, most in (("fat", 43.0, 0.5), ("droplets", 11.0, 0.6), ("glands", 85.0, 1.0))
        )
        fat_radii = rng.uniform(18, 26, (len(fat), 1)) * np.ones((1, 2))
        drop_radii = rng.uniform(1.5, 4, (len(drops), 1)) * np.ones((1, 2))
        size = 8 + 26 * self._at(self.properties["wide"], glands)
        gland_radii = size[:, None] * rng.uniform(0.7, 1.2, (len(glands), 2))
        fat_lines, gland_lines = self._outlines(fat, fat_radii), self._outlines(glands, gland_radii, 0.1)
        empty = self._layer(fat_lines, np.ones(len(fat)))
        lumen = self._layer(gland_lines, np.ones(len(glands)))
        centre = glands[:, None, :]
        around = self._layer((gland_lines - centre) * (1 + 7 / size[:, None, None]) + centre, np.ones(len(glands)))
        drop = self._layer(self._outlines(drops, drop_radii), np.ones(len(drops)))
        wall = np.clip(4 * empty * (1 - empty), 0, 1)
        holes = np.maximum(np.maximum(empty, lumen), drop)
        return holes * np.float32(0.95), wall, (around - lumen).clip(0) * (1 - empty)

    def _nuclei(self) -> FloatArray:
        """Draw nuclei and lymphocytes: amount of haematoxylin."""
        rng, own = self.rng, self.properties
        xy = self._scatter(7.2)
        xy = xy[rng.random(len(xy)) < 0.04 + 0.6 * self._at(own["nuclei"], xy)]
        large, long, dark, unlike, aligned = (
            self._at(own[name], xy) for name in ("large", "long", "dark", "unlike", "aligned")
        )
        radius = (2.2 + 2.6 * large) * np.exp(rng.normal(0, 0.04 + 0.3 * unlike))
        stretch = np.sqrt(1.05 + 3.0 * long**2)
        angle = np.arctan(self._at(self.slope, xy)) + rng.normal(0, 0.15, len(xy))
        angle = np.where(rng.random(len(xy)) < aligned, angle, rng.uniform(0, np.pi, len(xy)))
        radii = np.stack([radius * stretch, radius / stretch], axis=1)
        shade = (0.25 + 0.5 * dark) * np.exp(rng.normal(0, 0.12, len(xy)))
        amount = 1.5 * self._layer(ellipses(xy, radii, angle, wobble=0.07, rng=rng), shade)
        spotted = xy[rng.random(len(xy)) < self._at(own["nucleoli"], xy)]
        amount += self._layer(self._outlines(spotted, np.full((len(spotted), 2), 0.9)), np.full(len(spotted), 0.8))
        small = self._chosen("lymphocytes", 6.2, 0.95)
        radii = rng.uniform(2.3, 2.8, (len(small), 1)) * np.ones((1, 2))
        return np.maximum(amount, 1.5 * self._layer(self._outlines(small, radii), np.full(len(small), 0.85)))
