"""Simulated tissue and its H&E-like picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from mclstexp.types import FloatArray

TUMOUR, STROMA, IMMUNE, FAT, CYCLING = range(5)

CELL_UM = 8.0
"""Side of a cell of the tissue fields in um."""

# Optical density of haematoxylin and eosin in R, G, B (after Macenko et al., ISBI 2009).
STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])


@dataclass(frozen=True)
class SlideSpec:
    """Size and layout of simulated slides.

    Attributes
    ----------
    n_genes
        Genes measured; markers of all five programmes come first.
    side_px, mpp
        Side of the square image in pixels and um per pixel.
    pitch_um, spot_um
        Distance between spots, and their diameter, in um.
    grid
        ``hex`` as Visium (columns counted in half steps), ``square`` as legacy ST.
    margin
        Whether the tissue ends inside the image, with bare glass around it.
    """

    n_genes: int = 300
    side_px: int = 2816
    mpp: float = 0.5
    pitch_um: float = 100.0
    spot_um: float = 55.0
    grid: Literal["hex", "square"] = "hex"
    margin: bool = True


def draw_tissue(spec: SlideSpec, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Draw the five fields ``(5, h, w)`` in 0 to 1 (the first four sum to one) and the tissue mask ``(h, w)``."""
    n = max(8, round(spec.side_px * spec.mpp / CELL_UM))
    bias = np.array([0.45, 0.45, -0.25, -0.35])
    noise = np.stack([_smooth(rng, n, 90.0) for _ in range(4)]) + bias[:, None, None]
    sharp = np.exp(3.2 * (noise - noise.max(axis=0)))
    parts = sharp / sharp.sum(axis=0)
    cycling = 1 / (1 + np.exp(-2.5 * _smooth(rng, n, 130.0)))
    fields = np.concatenate([parts, cycling[None]]).astype(np.float32)
    if not spec.margin:
        return fields, np.ones((n, n), dtype=np.float32)
    y, x = (np.mgrid[:n, :n] - (n - 1) / 2) / (n / 2)
    angle, edge = np.arctan2(y, x), 0.9 + 0.05 * _smooth(rng, n, 60.0)
    for order in (2, 3, 5):
        edge += rng.normal(0, 0.035) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    distance = (np.abs(x) ** 3 + np.abs(y) ** 3) ** (1 / 3)
    return fields, np.clip((edge - distance) * n / 4, 0, 1).astype(np.float32)


def _smooth(rng: np.random.Generator, n: int, sigma_um: float) -> FloatArray:
    noise = ndimage.gaussian_filter(rng.standard_normal((n, n)), sigma_um / CELL_UM, mode="reflect")
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def paint(
    spec: SlideSpec, fields: FloatArray, tissue: FloatArray, stains: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw tissue as ``(side, side, 3)`` uint8 RGB.

    ``stains`` are the optical densities ``(2, 3)`` of haematoxylin and eosin. What depends on the fields: how many
    nuclei there are and of which kind, the fibres, the fat vacuoles and the colour of the cytoplasm.
    """
    return _Painter(spec, fields, tissue, rng).paint(stains)


class _Painter:
    def __init__(self, spec: SlideSpec, fields: FloatArray, tissue: FloatArray, rng: np.random.Generator) -> None:
        self.spec, self.fields, self.tissue, self.rng = spec, fields, tissue, rng
        self.side = spec.side_px
        # Height of the fibres' course: its slope is the direction in which fibres and spindle nuclei lie.
        self.course = _smooth(rng, len(tissue), 110.0) * np.float32(70.0)
        self.slope = np.gradient(self.course, CELL_UM, axis=1)

    def paint(self, stains: NDArray[np.float64]) -> NDArray[np.uint8]:
        rng, side = self.rng, self.side
        fibres = self._fibres()
        tumour, stroma, immune, fat = (self._up(field) for field in self.fields[:4])
        solid = self._up(self.tissue) > 0.5
        eosin = 0.34 * tumour + np.maximum(0.44 + 0.17 * fibres, 0.14) * stroma + 0.22 * immune + 0.20 * fat
        haematoxylin = 0.20 * tumour + np.maximum(0.05 + 0.02 * fibres, 0) * stroma + 0.16 * immune + 0.02 * fat
        clefts = (fibres < -1.75) & (stroma > 0.45)
        holes, membranes = self._vacuoles()
        nuclei = self._nuclei()
        grain = rng.standard_normal((side // 2 + 1, side // 2 + 1)).astype(np.float32)
        mottle = 1 + 0.09 * np.repeat(np.repeat(grain, 2, axis=0), 2, axis=1)[:side, :side]
        eosin = np.where(clefts, 0.05, eosin) * (1 - 0.5 * np.minimum(nuclei, 1)) * mottle
        haematoxylin = (np.where(clefts, 0.01, haematoxylin) + nuclei) * mottle
        eosin = eosin * (1 - holes) + 0.33 * membranes
        haematoxylin = haematoxylin * (1 - holes) + 0.08 * membranes
        return self._expose(haematoxylin * solid, eosin * solid, stains)

    def _expose(self, h: FloatArray, e: FloatArray, stains: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Beer-Lambert by a table of 256 by 256 stain amounts."""
        amounts = np.arange(256) * (2.5 / 255)
        density = amounts[:, None, None] * stains[0] + amounts[None, :, None] * stains[1]
        glass = 1 - 0.05 * self.rng.random()
        table = np.round(255 * glass * np.exp(-density)).astype(np.uint8)
        rows, cols = (np.clip(a * (255 / 2.5), 0, 255).astype(np.uint8) for a in (h, e))
        return np.asarray(table[rows, cols], dtype=np.uint8)

    def _up(self, field: FloatArray) -> FloatArray:
        image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        return np.asarray(image.resize((self.side, self.side), Image.Resampling.BICUBIC))

    def _values(self, field: FloatArray, xy_um: FloatArray) -> FloatArray:
        cells = np.clip((xy_um / CELL_UM).astype(int), 0, field.shape[-1] - 1)
        return field[..., cells[:, 1], cells[:, 0]]

    def _fibres(self) -> FloatArray:
        """Wavy streaks, about standard normal: horizontal streaks bent along the fibres' course."""
        half, um = self.side // 2, 2 * self.spec.mpp
        streaks = ndimage.gaussian_filter(self.rng.standard_normal((half, half)), (1.3 / um, 16 / um), mode="wrap")
        streaks = (streaks / streaks.std()).astype(np.float32)
        course = np.asarray(Image.fromarray(self.course).resize((half, half), Image.Resampling.BICUBIC)) / um
        y, x = np.mgrid[:half, :half]
        bent = streaks[np.mod(y - np.round(course).astype(int), half), x]
        return self._up(ndimage.uniform_filter(bent, 2))

    def _scatter(self, spacing_um: float) -> FloatArray:
        """Places on a jittered hexagonal lattice, ``(n, 2)`` um: random, yet rarely upon each other."""
        extent = self.side * self.spec.mpp
        y, x = np.mgrid[0 : extent : spacing_um * 0.87, 0:extent:spacing_um].astype(np.float32)
        x[1::2] += spacing_um / 2
        places = np.stack([x.ravel(), y.ravel()], axis=1)
        return places + self.rng.normal(0, 0.17 * spacing_um, places.shape).astype(np.float32)

    def _vacuoles(self) -> tuple[FloatArray, FloatArray]:
        """Fat cells: what is empty, and the membranes between, both ``(side, side)`` in 0 to 1."""
        places = self._scatter(43.0)
        fat = self._values(self.fields[FAT], places)
        places = places[self.rng.random(len(places)) < np.clip(2.6 * fat - 0.45, 0, 1)]
        radii = self.rng.uniform(18, 26, (len(places), 1)) * np.ones((1, 2))
        outlines = ellipses(places, radii, self.rng.uniform(0, np.pi, len(places)), wobble=0.06, rng=self.rng)
        wall = Image.new("L", (self.side, self.side))
        draw = ImageDraw.Draw(wall)
        width = max(1, round(2.0 / self.spec.mpp))
        for outline in outlines / self.spec.mpp:
            draw.polygon(outline.ravel().tolist(), fill=128, outline=255, width=width)
        drawn = np.asarray(wall.filter(ImageFilter.GaussianBlur(0.5 / self.spec.mpp)), dtype=np.float32) / 255
        return np.clip(drawn * 2, 0, 1), np.clip(drawn * 2 - 1, 0, 1)

    def _nuclei(self) -> FloatArray:
        """Amount of haematoxylin in nuclei, ``(side, side)``."""
        rng = self.rng
        places = self._scatter(6.6)
        places = places[self._values(self.tissue, places) > 0.5]
        parts, cycling = self._values(self.fields[:4], places), self._values(self.fields[CYCLING], places)
        kind = (rng.random(len(places)) > np.cumsum(parts, axis=0)[:3]).sum(axis=0)
        chance = np.choose(kind, [0.26 + 0.26 * cycling, 0.11, 0.80, 0.015])
        kept = rng.random(len(places)) < chance
        places, kind, cycling = places[kept], kind[kept], cycling[kept]
        size = np.array([[3.9, 3.2], [6.2, 1.35], [2.7, 2.6], [3.2, 1.2]])[kind]
        size = (
            size * np.exp(rng.normal(0, [0.18, 0.08, 0.06, 0.1], (len(kind), 4))[np.arange(len(kind)), kind])[:, None]
        )
        size[kind == TUMOUR] *= (0.88 + 0.3 * cycling[kind == TUMOUR])[:, None]
        angle = rng.uniform(0, np.pi, len(kind))
        spindle = kind == STROMA
        angle[spindle] = np.arctan(self._values(self.slope, places[spindle])) + rng.normal(0, 0.15, spindle.sum())
        dark = np.array([0.72, 1.0, 1.25, 0.9])[kind] * np.exp(rng.normal(0, 0.14, len(kind)))
        mitotic = (kind == TUMOUR) & (rng.random(len(kind)) < 0.10 * cycling)
        dark[mitotic], size[mitotic] = 1.7, size[mitotic] * 0.75
        return self._draw_nuclei(ellipses(places, size, angle, wobble=0.07, rng=rng), dark)

    def _draw_nuclei(self, outlines: FloatArray, dark: FloatArray) -> FloatArray:
        layer = Image.new("L", (self.side, self.side))
        draw = ImageDraw.Draw(layer)
        width = max(1, round(0.7 / self.spec.mpp))
        for outline, shade in zip((outlines / self.spec.mpp).round(1), (dark * 110).clip(20, 195), strict=True):
            draw.polygon(outline.ravel().tolist(), fill=int(shade), outline=int(shade * 1.28), width=width)
        blurred = layer.filter(ImageFilter.GaussianBlur(0.35 / self.spec.mpp))
        amount = np.asarray(blurred, dtype=np.float32) / 110
        chromatin = self.rng.standard_normal((self.side // 3 + 1,) * 2).astype(np.float32)
        clumps = 1 + 0.16 * np.repeat(np.repeat(chromatin, 3, axis=0), 3, axis=1)[: self.side, : self.side]
        return amount * clumps


def ellipses(
    centres: FloatArray,
    radii: NDArray[np.floating],
    angles: NDArray[np.floating],
    *,
    wobble: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Outlines ``(n, 14, 2)`` of slightly irregular ellipses."""
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    around = circle[None] * radii[:, None, :] * (1 + rng.normal(0, wobble, (len(centres), 14, 1)))
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = around[..., 0], around[..., 1]
    outlines = np.stack([x * c - y * s, x * s + y * c], axis=-1) + centres[:, None, :]
    return outlines.astype(np.float32)
