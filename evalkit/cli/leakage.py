"""`evalkit leakage`: was a benchmark in a model's training data?"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from evalkit.cli.options import (
    BACKEND,
    BASE_URL,
    BATCH_TOKENS,
    DATA,
    DATA_VARIANT,
    DEVICE,
    DTYPE,
    ENGINE_ARG,
    LOAD_FORMAT,
    MODEL,
    OFFLINE,
    QUANTIZATION,
    QUIET,
    REVISION,
    SPLIT,
    SUBSETS,
    TOKENIZER,
    TRUST_REMOTE_CODE,
    engine_options,
    names,
)
from evalkit.cli.resuming import resumable
from evalkit.errors import UntrustedResultError, UsageError

app = typer.Typer(
    help="Find out whether a benchmark was in a model's training data, with p-values, intervals and power.",
    no_args_is_help=True,
)

INTO = typer.Option(
    None,
    help="A finished `evalkit run` of the same model: verdicts and the score on items without evidence are "
    "written into its results and report.",
)
AS_JSON = typer.Option(False, "--json", help="Print the leakage document to stdout, and nothing else there.")


@app.command("run")
def run(
    model: str = MODEL,
    tasks: str = typer.Option(
        ...,
        help="Comma-separated task specs or suites, or JSON files of items "
        '([{"question": …, "option": {"A": …, "B": …}}, …]).',
    ),
    method: str = typer.Option(
        "", help="Only these detectors, comma-separated (default: all that apply; see `leakage methods`)."
    ),
    format: str = typer.Option(
        "ni2024", help="How items are written: ni2024 (as published) or lettered (the benchmark's own)."
    ),
    sequential: bool = typer.Option(
        False, "--sequential", help="Stop as soon as the evidence suffices, or is shown not to come."
    ),
    alpha: float = typer.Option(0.01, help="Share of clean benchmarks that may be called leaked."),
    smallest: float = typer.Option(0.1, help="Leaked fraction of items the run should be able to see."),
    permutations: int = typer.Option(120, help="Orders of items with more than five options."),
    controls: int = typer.Option(
        200, help="Items per task that are scored again with swapped options (source exposure); 0 for none."
    ),
    reference: list[Path] = typer.Option(
        [], help="Folder of a leakage run of a model that has not seen the benchmark; may be repeated."
    ),
    control: str = typer.Option(
        None, help="Texts the model has not seen: a task spec, or JSON lines with `text` (texts only)."
    ),
    rephrased: str = typer.Option(
        None, help="The benchmark in other words: JSON lines with `id` and `text` (texts only)."
    ),
    into: Path = INTO,
    split: str = SPLIT,
    subsets: str = SUBSETS,
    limit: int = typer.Option(None, help="Only the first N items of each subset."),
    data: str = DATA,
    data_variant: str = DATA_VARIANT,
    offline: bool = OFFLINE,
    seed: int = typer.Option(0, help="Seed of everything random; recorded in the manifest."),
    backend: str = BACKEND,
    base_url: str = BASE_URL,
    dtype: str = DTYPE,
    device: str = DEVICE,
    load_format: str = LOAD_FORMAT,
    quantization: str = QUANTIZATION,
    tokenizer: str = TOKENIZER,
    engine_arg: list[str] = ENGINE_ARG,
    revision: str = REVISION,
    trust_remote_code: bool = TRUST_REMOTE_CODE,
    batch_tokens: int = BATCH_TOKENS,
    output: Path = typer.Option(None, help="Folder (default: runs/<UTC time>-<model>-leakage-<6 hex>)."),
    resume: bool = typer.Option(False, "--resume", help="Continue an interrupted run in --output."),
    quiet: bool = QUIET,
    as_json: bool = AS_JSON,
) -> None:
    """Examine benchmarks and write what was measured, the statistics and the verdicts.

    \b
    Examples:
      evalkit leakage run --model demo --tasks cmmlu --data sample
      evalkit leakage run --model ./my-model --tasks cmmlu,ceval:test,mmlu --sequential
      evalkit leakage run --model ./my-model --tasks cmmlu --reference runs/older-model-leakage
      evalkit leakage run --model ./my-model --tasks gsm8k --control gsm8k:train
    """
    from evalkit.backends.opening import check, open_backend
    from evalkit.cli.progress import TerminalProgress
    from evalkit.data.source import open_source
    from evalkit.leakage.options import LeakageOptions
    from evalkit.leakage.run import run as examine
    from evalkit.runner import Silent
    from evalkit.store import RunStore, default_output

    if resume and output is None:
        raise UsageError("--resume needs --output, the folder to continue")
    engine = engine_options(
        model=model,
        backend=backend,
        dtype=dtype,
        device=device,
        batch_tokens=batch_tokens,
        revision=revision,
        trust_remote_code=trust_remote_code,
        offline=offline,
        base_url=base_url,
        tokenizer=tokenizer,
        load_format=load_format,
        quantization=quantization,
        engine_arg=engine_arg,
    )
    options = LeakageOptions(
        model=model,
        tasks=",".join(str(Path(t).resolve()) if t.endswith(".json") else t for t in names(tasks)),
        split=split,
        subsets=names(subsets),
        limit=limit,
        methods=names(method),
        format=format,
        permutations=permutations,
        controls=controls,
        alpha=alpha,
        smallest=smallest,
        sequential=sequential,
        seed=seed,
        references=tuple(str(folder.resolve()) for folder in reference),
        control=control,
        rephrased=rephrased,
        engine=engine.to_json(),
    )
    check(engine)
    if into is not None:
        RunStore(into).read_json("results.json")  # a wrong folder shows before the work, not after
    store = RunStore(output or default_output(f"{Path(model).name}-leakage"))
    progress = Silent() if quiet else TerminalProgress()
    with resumable(store.root, progress):
        document = examine(
            options,
            open_source(data, offline=offline, variant=data_variant),
            lambda: open_backend(engine),
            store,
            resume=resume,
            progress=progress,
        )
    _annotate(into, document)
    _show(document, store.root, as_json=as_json)
    _check_errors(document)


@app.command("analyse")
def analyse(
    folder: Path = typer.Argument(..., help="A folder that `evalkit leakage run` wrote.", metavar="DIR"),
    data: str = typer.Option(None, help="Where the records are (default: where the run read them)."),
    into: Path = INTO,
    as_json: bool = AS_JSON,
) -> None:
    """Draw all conclusions anew from what was measured; no model is needed."""
    from evalkit.data.source import open_source
    from evalkit.leakage.run import analyse_again

    source = None if data is None else open_source(data, offline=True)
    document = analyse_again(folder, source)
    _annotate(into, document)
    _show(document, folder, as_json=as_json)


@app.command("methods")
def methods() -> None:
    """List the detectors."""
    from evalkit.leakage.options import METHODS

    for name, description in METHODS.items():
        typer.echo(f"{name:14} {description}")


@app.command("published")
def published(
    name: str = typer.Argument("orion-moe8x7b", help="Whose model card; see configs/published."),
) -> None:
    """Print the leakage table of a model card with its null floor beside it."""
    from evalkit.leakage.published_cards import markdown

    typer.echo(markdown(name))


@app.command("power")
def power(
    n: int = typer.Option(..., help="Items of the benchmark."),
    options: int = typer.Option(4, help="Options of an item."),
    sensitivity: float = typer.Option(
        0.262,
        help="Chance that a leaked item's published order ranks first (0.262: one exposure, as published).",
    ),
    alpha: float = typer.Option(0.01, help="Level of the test."),
) -> None:
    """Say what the option-order test could see with so many items.

    \b
    Examples:
      evalkit leakage power --n 11582
      evalkit leakage power --n 200 --options 5 --sensitivity 0.54
    """
    from evalkit.leakage.power import detectable_fraction, items_needed, one_exposure

    if n < 1 or not 2 <= options <= 5:
        raise UsageError("--n must be at least 1 and --options 2 to 5")
    m = math.factorial(options)
    sensitivity = one_exposure(1 / m) if sensitivity is None else sensitivity
    if not 1 / m < sensitivity <= 1 or not 0 < alpha < 1:
        raise UsageError(f"--sensitivity must lie above chance (1/{m}) and up to 1, --alpha between 0 and 1")
    detectable = detectable_fraction(n, sensitivity, alpha, m)
    if detectable is None:
        needed = items_needed(1.0, sensitivity, alpha, m)
        enough = "more than two million" if needed is None else f"{needed:,}"
        typer.echo(f"{n:,} items could not show that even all of them leaked; {enough} could.")
    else:
        typer.echo(
            f"{n:,} items show a leaked fraction of {100 * detectable:.2f} % or more with probability 80 % "
            f"(level {alpha:g})."
        )
    typer.echo("\nleaked fraction   items needed")
    for fraction in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
        needed = items_needed(fraction, sensitivity, alpha, m)
        typer.echo(
            f"{100 * fraction:13.0f} %   {'more than two million' if needed is None else f'{needed:,}'}"
        )


@app.command("validate")
def validate(
    tier: str = typer.Option(
        "0,1,2",
        help="Which, comma-separated: 0 made-up scores (a minute), 1 a small model trained from scratch "
        "(minutes), 2 SmolLM2-135M fine-tuned on planted items (hours on a processor).",
    ),
    output: Path = typer.Option(Path("leakage-validation"), "--output", "-o", help="Folder of the document."),
    work: Path = typer.Option(
        None, help="Folder of matrices and checkpoints, from which to continue (default: in the cache)."
    ),
    train: bool = typer.Option(
        True, "--train/--no-train", help="Train and score what --work lacks, or report what it has."
    ),
    data: str = DATA,
    offline: bool = OFFLINE,
    quiet: bool = QUIET,
) -> None:
    """Plant leaks, look for them, and write what was found with tables and figures.

    \b
    Examples:
      evalkit leakage validate --tier 0
      evalkit leakage validate --output docs
    """
    from evalkit.data.source import open_source
    from evalkit.leakage.validation.suite import DOCUMENT
    from evalkit.leakage.validation.suite import run as validate_tiers

    if not all(part.isdigit() for part in names(tier)) or not names(tier):
        raise UsageError(f"--tier '{tier}': give some of 0, 1 and 2, separated by commas")
    validate_tiers(
        [int(part) for part in names(tier)],
        open_source(data, offline=offline),
        output,
        work=work,
        train=train,
        progress=(lambda text: None) if quiet else (lambda text: typer.echo(text, err=True)),
    )
    typer.echo(f"written to {output / DOCUMENT}")


def _annotate(into: Path | None, document: Mapping[str, Any]) -> None:
    if into is None:
        return
    from evalkit.leakage.clean_score import annotate
    from evalkit.store import RunStore

    annotate(RunStore(into), document)


def _show(document: Mapping[str, Any], root: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=1))
        return
    from rich.console import Console

    from evalkit.reports.contamination import terminal

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(terminal(document))
    console.print(f"written to {root}", markup=False)


def _check_errors(document: Mapping[str, Any]) -> None:
    failed = sum(task["n_errors"] for task in document["tasks"].values())
    if failed:
        raise UntrustedResultError(
            f"{failed} items could not be scored (see `errors` in leakage.json); `--resume` tries them again"
        )
