"""``mst evaluate``: train, index and predict fold by fold, beside baselines in the same table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from mclstexp.cli import _options as options
from mclstexp.cli._numbers import number
from mclstexp.cli._output import emit, emit_json, note, progress, table
from mclstexp.config.ranges import RANGES
from mclstexp.text import is_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mclstexp.config import Normalisation
    from mclstexp.evaluate.protocol import EvaluationProtocol
    from mclstexp.evaluate.result import EvaluationResult

_PAPER = ("paper", "paper-code")
_WIDTH = 120


def evaluate(
    refs: options.Refs,
    by: Annotated[
        Literal["patient", "slide", "cohort"] | None,
        typer.Option("--by", help="Hold out by patient, slide (leaky: other cuts of the patient train) or cohort."),
    ] = None,
    folds: Annotated[
        Path | None, typer.Option("--folds", help="Given folds: CSV with columns slide,fold, or JSON.")
    ] = None,
    train: Annotated[str | None, typer.Option("--train", help="Train on these slides only, comma-separated.")] = None,
    test: Annotated[str | None, typer.Option("--test", help="Hold out these slides, comma-separated.")] = None,
    protocol: Annotated[
        options.RecipeName, typer.Option("--protocol", help="paper is as the paper says, paper-code as its code does.")
    ] = "default",
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            help="Recipe to compare: default, paper or paper-code; may be repeated. 'paper' (or the protocol's) is "
            "always there. [default: default]",
        ),
    ] = None,
    encoder: options.Encoder = None,
    encoder_weights: options.EncoderWeights = None,
    genes: options.Genes = None,
    n_genes: options.NGenes = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, comma-separated: figures get a mean and spread.")] = "0",
    target_sum: Annotated[
        float | None,
        number(
            "--target-sum",
            limits=RANGES["normalisation.target_sum"],
            help="Counts are scaled to this total [default: 10000].",
        ),
    ] = None,
    total: Annotated[
        Literal["panel", "all"] | None,
        typer.Option("--total", help="Total over the panel or all measured genes [default: panel]."),
    ] = None,
    log: Annotated[
        Literal["natural", "log10"] | None, typer.Option("--log", help="Logarithm [default: natural].")
    ] = None,
    slides: options.Only = None,
    mpp: options.Mpp = None,
    mpp_from: options.MppFrom = None,
    bin_um: options.BinUm = None,
    cells: options.Cells = False,
    pool_um: options.PoolUm = None,
    markers: Annotated[
        Path | None, typer.Option("--markers", help="Marker sets to score: JSON {set: [genes]} or GMT.")
    ] = None,
    settings: options.Set = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(
            "--tune",
            help="Also run each recipe (paper and paper-code apart) with the setting of dotted.key=v1,v2,... that does "
            "best on the training side alone, chosen anew for every fold; may be repeated (at most 32 combinations).",
        ),
    ] = None,
    ray: options.Ray = None,
    workers: options.RayWorkers = None,
    device: options.Device = "auto",
    cache: options.Cache = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for a page of figures, CSV and JSON.")
    ] = None,
    force: options.Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure accuracy on held-out slides, without leakage, beside the baselines.

    With -o, an evaluation that was stopped goes on where it was when the same command is run again.

    Example: mst evaluate refs/ -o report/
    """
    numbers = _seeds(seeds)
    recipes = _recipes(recipe, protocol)
    from dataclasses import replace

    from mclstexp.data.genes.sets import read_gene_sets
    from mclstexp.evaluate.folds import SplitSpec, make_folds, read_folds
    from mclstexp.evaluate.leakage import check_leakage
    from mclstexp.evaluate.methods import MethodOptions
    from mclstexp.evaluate.paper import paper_slides
    from mclstexp.evaluate.protocol import panel_warnings
    from mclstexp.evaluate.run import run_evaluation
    from mclstexp.evaluate.tuning import parse_grid
    from mclstexp.storage import check_output

    if output is not None:
        check_output(output, force=force)
    options.workers(ray, workers, None, device=device, cache=cache)
    if ray is not None and output is None:
        raise typer.BadParameter("the workers keep their runs beside the report: give -o, too.", param_hint="--ray")
    grid = parse_grid(tune or [])
    plan = _protocol(protocol, genes, n_genes)
    split = SplitSpec(
        by=by or plan.split.by,
        folds=read_folds(folds) if folds else (),
        train=tuple(options.names(train, "--train") or ()),
        test=tuple(options.names(test, "--test") or ()),
    )
    plan = replace(
        plan,
        split=split,
        seeds=numbers,
        normalisation=_normalisation(plan.normalisation, target_sum, total, log),
        markers=read_gene_sets(markers) if markers else {},
    )
    bar = progress()
    read = options.read_refs(
        refs, slides, mpp=mpp, mpp_from=mpp_from, bin_um=bin_um, cells=cells, pool_um=pool_um, on_progress=bar
    )
    notes: list[str] = []
    if protocol in _PAPER:
        read, notes = paper_slides(read, named=slides is not None)
    # Refuse a split that cannot be made, or leaks, before any method is built.
    parts, _ = make_folds(read, split)
    warned = [*check_leakage(parts, split), *panel_warnings(plan, parts)]
    for text in warned:
        note(f"WARNING: {text}")
    from mclstexp.evaluate.retrieval import evaluation_methods
    from mclstexp.evaluate.state import EvaluationState, evaluation_facts

    chosen = MethodOptions(
        recipes=recipes,
        encoder=encoder,
        encoder_weights=encoder_weights or "pretrained",
        settings=tuple(settings or ()),
        normalisation=plan.normalisation,
        grid=grid,
        split=split,
        device=device,
        cache=options.cache_of(cache),
    )
    methods = evaluation_methods(chosen, on_progress=bar)
    state = EvaluationState()
    if output is not None:
        folder, facts = output.with_name(f"{output.name}.partial"), evaluation_facts(read, plan, chosen)
        state = EvaluationState(folder, facts)
        if ray is not None:
            from mclstexp.evaluate.on_cluster import fit_on_cluster

            there = options.find_refs(
                refs, None, mpp=mpp, mpp_from=mpp_from, bin_um=bin_um, cells=cells, pool_um=pool_um
            )
            there = replace(there, slide_ids=tuple(slide.slide_id for slide in read))
            named = [part.name for part in parts]
            how: dict[str, Any] = {"address": ray, "workers": workers, "on_progress": bar}
            fit_on_cluster(there, named, plan, chosen, state, folder, facts, **how)
    result = run_evaluation(read, methods, plan, state=state)
    result = replace(result, notes=(*notes, *result.notes))
    _show(result, output, force=force, as_json=as_json, warned=warned)
    state.remove()


def _show(result: "EvaluationResult", output: Path | None, *, force: bool, as_json: bool, warned: list[str]) -> None:
    if output is not None:
        from mclstexp.evaluate.report import write_report

        note(f"report: {write_report(result, output, force=force)}")
    for text in result.warnings:
        if text not in warned:
            note(f"WARNING: {text}")
    for text in result.notes:
        note(text)
    if as_json:
        emit_json(result.to_json())
        return
    emit("\n".join(result.describe()))
    header, rows = result.slide_table()
    named = header.index("seed") + 1
    emit("\nby slide\n" + table(_headings(header), rows, width=_WIDTH, repeated=named))
    header, rows = result.table()
    emit("\noverall (mean over slides and seeds)\n" + table(_headings(header), rows, width=_WIDTH))


def _headings(keys: "Sequence[str]") -> list[str]:
    """Return short headings of a table's columns."""
    from mclstexp.evaluate.scores import HEADINGS

    return [HEADINGS.get(key, key.replace("pcc_set:", "PCC ")) for key in keys]


def _protocol(name: str, genes: Path | None, n_genes: int | None) -> "EvaluationProtocol":
    from dataclasses import replace

    from mclstexp.data.genes.lists import read_gene_list
    from mclstexp.evaluate.paper import paper_protocol
    from mclstexp.evaluate.protocol import EvaluationProtocol, panel_slides

    if genes is not None and n_genes is not None:
        raise typer.BadParameter("the panel is the list of --genes; leave one of the two out.", param_hint="--n-genes")
    named = tuple(read_gene_list(genes)) if genes else ()
    plan = EvaluationProtocol(genes=named) if name == "default" else paper_protocol(name, genes=named)  # type: ignore[arg-type]
    plan = replace(plan, genes_seen=panel_slides(genes) if genes else ())
    return plan if n_genes is None else replace(plan, n_genes=n_genes)


def _normalisation(
    scale: "Normalisation", target_sum: float | None, total: str | None, log: str | None
) -> "Normalisation":
    from dataclasses import replace

    changes = {"target_sum": target_sum, "total": total, "log": log}
    return replace(scale, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]


def _recipes(given: "Sequence[str] | None", protocol: str) -> tuple[str, ...]:
    """Return the recipes to compare; upstream's belongs in every table."""
    recipes = tuple(dict.fromkeys(given or ["default"]))
    known = get_args(options.RecipeName)  # Typer takes no Literal in a list
    for name in recipes:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, known))}.", param_hint="--recipe")
    published = protocol if protocol in _PAPER else "paper"
    return recipes if any(name in _PAPER for name in recipes) else (*recipes, published)


def _seeds(text: str) -> tuple[int, ...]:
    parts = options.names(text, "--seeds") or []
    numbers = tuple(int(part) for part in parts if is_whole(part))
    if not numbers or len(numbers) < len(parts) or any(seed not in RANGES["seed"] for seed in numbers):
        raise typer.BadParameter(f"{text!r} is not a list such as 0,1,2.", param_hint="--seeds")
    return numbers
