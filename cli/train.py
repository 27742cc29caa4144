"""``mst train``: a model from slides."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._output import emit, note, progress


def train(
    refs: options.Refs,
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    recipe: options.RecipeName = "default",
    encoder: options.Encoder = None,
    encoder_weights: options.EncoderWeights = None,
    genes: options.Genes = None,
    n_genes: options.NGenes = None,
    slides: options.Only = None,
    mpp: options.Mpp = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the image encoder too.")] = False,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs of the contrastive training.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate of the contrastive training.")] = None,
    seed: options.Seed = 0,
    settings: options.Set = None,
    device: options.Device = "auto",
    cache: options.Cache = None,
    force: options.Force = False,
) -> None:
    """Train a model on slides that have an image and counts, and write its folder."""
    options.check_device(device)
    from mclstexp.data.genes.lists import read_gene_list
    from mclstexp.data.readers import read_slides
    from mclstexp.files import check_output
    from mclstexp.model.folder import save_model
    from mclstexp.train import TrainOptions
    from mclstexp.train import train as fit

    check_output(output, force=force)
    changes = list(settings or [])
    changes += ["optim.finetune=true"] if finetune else []
    changes += [f"optim.epochs={epochs}"] if epochs is not None else []
    changes += [f"optim.lr={lr}"] if lr is not None else []
    config = options.model_config(recipe, encoder=encoder, n_genes=n_genes, seed=seed, settings=changes)
    found = read_slides(refs, mpp=mpp, only=options.names(slides))
    state = output.with_name(f"{output.name}.partial")
    run = TrainOptions(
        weights=options.weights_from(encoder_weights),
        genes=read_gene_list(genes) if genes else None,
        device=device,  # type: ignore[arg-type]
        cache=options.feature_cache(cache),
        state_folder=state,
        on_note=note,
        on_epoch=_say_epoch,
        on_features=lambda slide_id: progress(f"encoding {slide_id}"),
    )
    model = fit(found, config, run)
    save_model(output, model.files, force=force)
    _remove_state(state)
    emit(str(output))


def _say_epoch(report: Any) -> None:
    if report.epoch % 10 and report.epoch > 3:
        return
    found = "" if report.retrieval is None else f"; held-out patches that find their spot {report.retrieval:.2f} (0.10)"
    note(
        f"epoch {report.epoch}: loss {report.loss:.3f} (guessing {report.guessing:.3f}){found}; {report.seconds:.1f} s"
    )


def _remove_state(folder: Path) -> None:
    import shutil

    if folder.is_dir():
        shutil.rmtree(folder)
