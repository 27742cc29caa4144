"""Options that several commands share, and what they become."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mclstexp.cli._output import Progress

if TYPE_CHECKING:
    from mclstexp.config import ModelConfig
    from mclstexp.index.retrieval import Filter
    from mclstexp.model.image.encoder import Weights
    from mclstexp.model.image.features import FeatureCache

Refs = Annotated[
    Path, typer.Argument(help="Folder of slides: HER2+ layout, Space Ranger, .h5ad with images, or a slides.csv.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Mpp = Annotated[
    float | None, typer.Option("--mpp", help="Pixel size in um, when the files do not say or say it wrong.")
]
Only = Annotated[
    str | None, typer.Option("--slides", help="Only these slides, comma-separated (default: all that are found).")
]
RecipeName = Annotated[str, typer.Option("--recipe", help="default, paper, or paper-code (upstream's code).")]
Encoder = Annotated[str | None, typer.Option("--encoder", help="timm or hf-hub: name [default: densenet121].")]
EncoderWeights = Annotated[
    str | None,
    typer.Option("--encoder-weights", help="A .safetensors file, or 'random'; default: downloaded pretrained weights."),
]
Genes = Annotated[
    Path | None, typer.Option("--genes", help="File naming the gene panel (text, JSON, CSV, .npy); default: HVGs.")
]
NGenes = Annotated[int | None, typer.Option("--n-genes", help="Size of the chosen gene panel [default: 1000].")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as dotted.key=value; may be repeated.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", envvar="MST_CACHE", help="Folder that keeps image features between runs.")
]
K = Annotated[int | None, typer.Option("-k", "--k", help="Neighbours per spot [default: the model's].")]

Reference = Annotated[Path, typer.Option("--reference", "-r", help="Reference folder made by mst build-index.")]
ExcludePatient = Annotated[
    list[str] | None, typer.Option("--exclude-patient", help="Take no neighbour from this patient; may be repeated.")
]
ExcludeSlide = Annotated[
    list[str] | None, typer.Option("--exclude-slide", help="Take no neighbour from this slide; may be repeated.")
]
OnlyCohort = Annotated[
    list[str] | None, typer.Option("--only-cohort", help="Take neighbours from this cohort only; may be repeated.")
]
Where = Annotated[
    str | None, typer.Option("--where", help='SQL condition on the spot columns, e.g. "total_counts > 500".')
]

__all__ = ["Progress"]


def model_config(
    recipe_name: str,
    *,
    encoder: str | None = None,
    n_genes: int | None = None,
    seed: int = 0,
    settings: list[str] | None = None,
) -> "ModelConfig":
    """Return a recipe with the command line's changes."""
    from mclstexp.config import recipe, with_settings

    changes = list(settings or [])
    if encoder is not None:
        changes.insert(0, f"encoder.name={encoder}")
    if n_genes is not None:
        changes.insert(0, f"n_genes={n_genes}")
    return with_settings(recipe(recipe_name), [f"seed={seed}", *changes])


def weights_from(text: str | None) -> "Weights":
    """Return where the encoder's weights come from."""
    if text is None:
        return "pretrained"
    return "random" if text == "random" else Path(text)


def feature_cache(folder: Path | None) -> "FeatureCache":
    """Return the cache in the given folder, or in the user's cache folder."""
    import platformdirs

    from mclstexp.model.image.features import FeatureCache

    return FeatureCache(folder or Path(platformdirs.user_cache_dir("mclstexp")))


def names(text: str | None) -> list[str] | None:
    """Split a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def check_device(text: str) -> None:
    """Refuse a device name that is not known."""
    if text not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{text!r} is not one of auto, cpu, cuda.", param_hint="--device")


def version_or_tag(text: str | None) -> int | str | None:
    """Return a version number, or a tag as it is."""
    return int(text) if text is not None and text.isdigit() else text


def gene_choice(text: str | None) -> "list[str] | str | None":
    """Return None for the panel, ``"all"``, or the genes that a list or file names."""
    if text is None or text == "all":
        return text
    from mclstexp.data.genes.lists import parse_genes

    return parse_genes(text)


def reference_filter(
    patients: list[str] | None, slides: list[str] | None, cohorts: list[str] | None, where: str | None
) -> "Filter":
    """Return which reference spots may be neighbours."""
    from mclstexp.index.retrieval import Filter

    return Filter(tuple(patients or ()), tuple(slides or ()), tuple(cohorts or ()), where)
