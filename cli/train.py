"""``mst train``: a model from slides."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._numbers import number
from mclstexp.cli._output import emit, note, progress
from mclstexp.config.ranges import RANGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mclstexp.model.model import Model
    from mclstexp.slide import Slide

SMALL_ENCODER = "test_resnet"
"""A timm model of 0.4 million parameters; with random weights it still sees colour and texture."""

SMALL = {"encoder": SMALL_ENCODER, "encoder_weights": "random", "settings": {"encoder.views": 1}}


def train(
    refs: options.Refs,
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")] = options.MODEL,
    recipe: options.Recipe = "default",
    encoder: options.Encoder = None,
    encoder_weights: options.EncoderWeights = None,
    genes: options.Genes = None,
    n_genes: options.NGenes = None,
    slides: options.Only = None,
    mpp: options.Mpp = None,
    mpp_from: options.MppFrom = None,
    bin_um: options.BinUm = None,
    cells: options.Cells = False,
    pool_um: options.PoolUm = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the image encoder too.")] = False,
    epochs: Annotated[
        int | None, number("--epochs", limits=RANGES["optim.epochs"], help="Epochs of the contrastive training.")
    ] = None,
    lr: Annotated[
        float | None, number("--lr", limits=RANGES["optim.lr"], help="Learning rate of the contrastive training.")
    ] = None,
    seed: options.Seed = 0,
    settings: options.Set = None,
    device: options.Device = "auto",
    cache: options.Cache = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
) -> None:
    """Train a model on slides that have an image and counts, and write its folder (./model unless -o says another).

    Example: mst train refs/
    """
    from mclstexp.config import changed, configure
    from mclstexp.data.genes.lists import read_gene_list
    from mclstexp.storage import check_output
    from mclstexp.train import train as fit
    from mclstexp.train import training_cost

    check_output(output, force=force)
    if genes is not None and n_genes is not None:
        raise typer.BadParameter("the panel is the list of --genes; leave one of the two out.", param_hint="--n-genes")
    tuned = [*(["optim.finetune=true"] if finetune else []), *(settings or [])]
    config = configure(recipe, encoder=encoder, n_genes=n_genes, seed=seed, settings=tuned)
    if not config.trains_network and (epochs is not None or lr is not None):
        raise typer.BadParameter(
            f"recipe {recipe} trains no network unless --finetune is given.", param_hint="--epochs, --lr"
        )
    own = {"optim.epochs": epochs, "optim.lr": lr}
    config = changed(config, [*(f"{key}={value}" for key, value in own.items() if value is not None), *tuned])
    named = read_gene_list(genes) if genes else None
    bar = progress()
    state = output.with_name(f"{output.name}.partial")
    how = {"bin_um": bin_um, "cells": cells, "pool_um": pool_um, "pictured": True}
    read = options.read_refs(refs, slides, mpp=mpp, mpp_from=mpp_from, on_progress=bar, **how)  # type: ignore[arg-type]
    if dry_run:
        own_weights, kept = encoder_weights or "pretrained", options.cache_of(cache)
        emit(str(training_cost(read, recipe=config, encoder_weights=own_weights, device=device, cache=kept)))
        return
    model = fit(
        read,
        recipe=config,
        genes=named,
        encoder_weights=encoder_weights or "pretrained",
        device=device,
        cache=options.cache_of(cache),
        state=state,
        on_progress=bar,
    )
    model.save(output, force=force)
    shutil.rmtree(state, ignore_errors=True)
    note(repr(model))
    emit(str(output))


def cost_of_training_first(
    slides: "Sequence[Slide]",
    *,
    encoder: str | None,
    encoder_weights: str | None,
    device: "options.Device",
    cache: Path | None,
) -> str:
    """Return what `train_first` would encode, with the encoder that it would take."""
    from mclstexp.errors import WeightsError
    from mclstexp.train import training_cost

    kept = options.cache_of(cache)
    try:
        own = encoder_weights or "pretrained"
        cost = training_cost(slides, encoder=encoder, encoder_weights=own, device=device, cache=kept)
    except WeightsError:
        if encoder is not None or encoder_weights is not None:
            raise
        cost = training_cost(slides, **SMALL, device=device, cache=kept)  # type: ignore[arg-type]
    return str(cost)


def train_first(
    slides: "Sequence[Slide]",
    folder: Path,
    *,
    encoder: str | None,
    encoder_weights: str | None,
    device: "options.Device",
    cache: Path | None,
) -> "Model":
    """Train the default recipe for somebody who asked for a reference and has no model, and keep it in ``folder``.

    Without internet, and with no encoder named, a small encoder with random weights serves, which is said.
    """
    from mclstexp.errors import WeightsError
    from mclstexp.train import train as fit

    bar, kept = progress(), options.cache_of(cache)
    try:
        model = fit(
            slides,
            encoder=encoder,
            encoder_weights=encoder_weights or "pretrained",
            device=device,
            cache=kept,
            on_progress=bar,
        )
    except WeightsError as error:
        if encoder is not None or encoder_weights is not None:
            raise
        note(
            f"Warning: {error} Instead a small encoder with random weights ({SMALL_ENCODER}) is used: it sees colour "
            "and texture, and predicts less than a trained one."
        )
        model = fit(
            slides,
            **SMALL,  # type: ignore[arg-type]
            device=device,
            cache=kept,
            on_progress=bar,
        )
    model.save(folder)
    note(f"model: {model!r}, kept in ./{folder}")
    return model
