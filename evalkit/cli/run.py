"""`evalkit run` and `evalkit rescore`."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    MAX_ERRORS,
    MODEL,
    OFFLINE,
    QUANTIZATION,
    QUIET,
    REVISION,
    SPLIT,
    SUBSETS,
    TOKENIZER,
    TRUST_REMOTE_CODE,
    UNSAFE,
    engine_options,
    error_limit,
    names,
    tag_pair,
)
from evalkit.cli.resuming import resumable
from evalkit.errors import RunInterrupted, UntrustedResultError, UsageError

if TYPE_CHECKING:
    from evalkit.preparation import Selection
    from evalkit.store import RunStore


def run(
    model: str = MODEL,
    tasks: str | None = typer.Option(
        None,
        help="Comma-separated specs <task>[@<protocol>][:<split>][:<k>shot], suites, or task files. "
        "With --plan, by default what the baseline has.",
    ),
    plan: str | None = typer.Option(
        None,
        help="Run only the samples that a gate needs to tell whether the model is worse than the baseline: a "
        "policy file, or quick.",
    ),
    baseline: Path | None = typer.Option(
        None, help="What the gate will compare with (--plan; default: what the policy names)."
    ),
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
    shots: int | None = typer.Option(None, help="Few-shot examples, for every task whose spec does not say."),
    split: str | None = SPLIT,
    subsets: str = SUBSETS,
    limit: int | None = typer.Option(None, help="Only the first N samples of each subset."),
    data: str = DATA,
    data_variant: str = DATA_VARIANT,
    offline: bool = OFFLINE,
    chat: bool = typer.Option(
        None,
        "--chat/--no-chat",
        help="Put every prompt into the model's chat template, or none (default: as the protocol does).",
    ),
    system: str = typer.Option(None, help="System prompt of every conversation (with --chat)."),
    answer_prefix: str = typer.Option(
        None,
        help="Beginning of every answer, put into the model's mouth after the chat template and before "
        "scored options; it is not part of what is judged (with --chat).",
    ),
    reasoning_tags: str = typer.Option(
        None,
        help="Texts around a model's reasoning, which is kept apart from its answer: '<think>,</think>'.",
    ),
    max_length: int = typer.Option(
        None, help="Longest prompt and answer in tokens, if that is less than the model's context."
    ),
    unsafe_local_code: bool = UNSAFE,
    seed: int = typer.Option(0, help="Seed of everything random; recorded in the manifest."),
    batch_tokens: int = BATCH_TOKENS,
    output: Path = typer.Option(None, help="Run directory (default: runs/<UTC time>-<model>-<6 hex>)."),
    resume: bool = typer.Option(False, "--resume", help="Continue an interrupted run in --output."),
    max_errors: str = MAX_ERRORS,
    log_prompts: bool = typer.Option(
        False, "--log-prompts", help="Keep every prompt and its token ids in samples.parquet."
    ),
    quiet: bool = QUIET,
    as_json: bool = typer.Option(
        False, "--json", help="Print the result document to stdout, and nothing else there."
    ),
) -> None:
    """Evaluate a model on benchmarks and write a run directory.

    \b
    Examples:
      evalkit run --model demo --tasks cmmlu --data sample
      evalkit run --model demo --tasks ceval,cmmlu@lm-eval:test:5shot --dtype float32
      evalkit run --model ./my-model --tasks mmlu --limit 20 --output runs/quick
      evalkit run --model demo --tasks mmlu --output runs/quick --resume
      evalkit run --model ./my-model --plan quick --baseline main.baseline.parquet
    """
    from evalkit.backends.opening import check, open_backend
    from evalkit.cli.progress import TerminalProgress
    from evalkit.data.source import open_source
    from evalkit.preparation import RunOptions
    from evalkit.runner import Silent
    from evalkit.runner import run as run_tasks
    from evalkit.store import RunStore, default_output

    error_limit(max_errors, 0)
    if max_length is not None and max_length < 2:
        raise UsageError(f"--max-length {max_length}: at least 2 tokens are needed")
    if resume and output is None:
        raise UsageError("--resume needs --output, the run directory to continue")
    selection = None
    if plan is not None:
        if limit is not None or subsets:
            raise UsageError("--plan picks the samples; leave out --limit and --subsets")
        selection, tasks = _select(plan, baseline, tasks, shots=shots, split=split, quiet=quiet)
    elif baseline is not None:
        raise UsageError("--baseline is what a plan is made for; name a policy with --plan, or leave it out")
    elif tasks is None:
        raise UsageError("name what to run: --tasks SPECS (see evalkit tasks list), or --plan POLICY")
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
    if not resume:  # of a finished run, which needs no model
        check(engine)
    store = RunStore(output or default_output(Path(model).name))
    options = RunOptions(
        model=model,
        tasks=tasks,
        shots=shots,
        split=split,
        subsets=names(subsets),
        limit=limit,
        selection=selection,
        seed=seed,
        chat=chat,
        system=system,
        answer_prefix=answer_prefix,
        reasoning_tags=tag_pair("--reasoning-tags", reasoning_tags),
        max_length=max_length,
        unsafe_local_code=unsafe_local_code,
        log_prompts=log_prompts,
        engine=engine.to_json(),
    )

    source = open_source(data, offline=offline, variant=data_variant)
    progress = Silent() if quiet else TerminalProgress()
    with resumable(store.root, progress):
        results = run_tasks(
            options, source, lambda: open_backend(engine), store, resume=resume, progress=progress
        )
    _show(results, store.root, as_json=as_json)
    _check_errors(results, store, max_errors)


def _select(
    policy: str,
    baseline: Path | None,
    tasks: str | None,
    *,
    shots: int | None,
    split: str | None,
    quiet: bool,
) -> tuple[Selection, str]:
    """Plan a run, and say what it gives up.

    Returns:
        the samples and the tasks.

    Raises:
        UsageError: there is no such plan.
    """
    if tasks is None and (split is not None or shots is not None):
        raise UsageError("--split and --shots are for --tasks; a plan runs what the baseline has")
    from evalkit.gate import baseline as baselines
    from evalkit.gate import plan as plans
    from evalkit.gate.policy import load
    from evalkit.preparation import Selection
    from evalkit.registry import task_names
    from evalkit.spec import resolve_all

    rules = load(policy)
    compared = baselines.chosen(baseline, rules)
    named = None if tasks is None else [one.name for one in resolve_all(tasks, shots=shots, split=split)]
    planned = plans.plan(compared, rules, named)
    unknown = sorted({name.partition("@")[0] for name in planned.samples} - set(task_names()))
    if tasks is None and unknown:
        raise UsageError(
            f"{', '.join(unknown)}: none of evalkit's own tasks; name the file: --tasks FILE.yaml"
        )
    if not quiet:
        for line in plans.describe(planned):
            typer.echo(line, err=True)
    return Selection(planned.samples, planned.to_json()), tasks or ",".join(planned.samples)


def rescore(
    run_dir: Path = typer.Argument(..., help="A finished run directory.", metavar="RUN"),
    data: str = typer.Option(None, help="Data to judge completions with (default: where the run read it)."),
    unsafe_local_code: bool = UNSAFE,
    max_errors: str = MAX_ERRORS,
    as_json: bool = typer.Option(False, "--json", help="Print the result document to stdout."),
) -> None:
    """Judge a finished run again from its stored answers, without inference."""
    from evalkit.data.source import open_source
    from evalkit.publish import rescore as rescore_run
    from evalkit.store import RunStore
    from evalkit.task import JudgeSettings

    error_limit(max_errors, 0)
    store = RunStore(run_dir)
    source = None if data is None else open_source(data, offline=True)
    try:
        results = rescore_run(store, source, JudgeSettings(unsafe_local_code))
    except RunInterrupted as error:
        raise RunInterrupted(f"{error}; then: {shlex.join(['evalkit', *sys.argv[1:]])}") from None
    _show(results, run_dir, as_json=as_json)
    _check_errors(results, store, max_errors)


def score_file(
    spec: str = typer.Argument(..., help="A task spec, for example gsm8k@cot8 or longbench."),
    file: Path = typer.Argument(..., help='JSON lines {"id", "completion"}, or the benchmark\'s own format.'),
    subset: str = typer.Option(None, help="Subset the predictions are of, where the task has several."),
    split: str = typer.Option(None, help="Split."),
    data: str = DATA,
    data_variant: str = DATA_VARIANT,
    offline: bool = OFFLINE,
    unsafe_local_code: bool = UNSAFE,
    as_json: bool = typer.Option(False, "--json", help="Print the scores as JSON."),
) -> None:
    """Score predictions that were made elsewhere; no model is needed.

    \b
    Examples:
      evalkit score-file gsm8k@cot8 predictions.jsonl
      evalkit score-file longbench pred/narrativeqa.jsonl --subset narrativeqa --json
    """
    from evalkit.data.source import open_source
    from evalkit.score_file import score_file as score
    from evalkit.spec import resolve
    from evalkit.task import JudgeSettings

    resolved = resolve(spec, split=split)
    if len(resolved) > 1:
        raise UsageError(f"'{spec}' is a suite; score one of {', '.join(r.name for r in resolved)}")
    source = open_source(data, offline=offline, variant=data_variant)
    scores = score(resolved[0], file, source, subset=subset, settings=JudgeSettings(unsafe_local_code))
    if as_json:
        typer.echo(json.dumps(scores, ensure_ascii=False, indent=1))
        return
    total = f" for {scores['samples_total']:,} samples" if scores["samples_total"] else ""
    typer.echo(f"{scores['task']} ({scores['subset']}), {scores['n']:,} predictions{total}")
    for name, estimate in scores["metrics"].items():
        low, high = estimate["ci95"]
        typer.echo(f"  {name:12} {100 * estimate['value']:6.2f}  [{100 * low:.1f}, {100 * high:.1f}]")


def _show(results: dict[str, Any], root: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False, indent=1))
        return
    from rich.console import Console

    from evalkit.reports.summary import terminal

    manifest = json.loads((root / "manifest.json").read_text("utf-8"))
    # A file or a pipe has no width of its own: give the table what it needs.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(terminal(results))
    for warning in _warnings(results, manifest):
        console.print(f"warning: {warning}", style="yellow", markup=False)
    console.print(f"written to {root}", markup=False)


def _warnings(results: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    from evalkit.reports.summary import warnings

    return list(warnings(results, manifest))


def _check_errors(results: dict[str, Any], store: RunStore, max_errors: str) -> None:
    counters = [task["counters"] for task in results["tasks"].values()]
    errors, samples = (sum(c[key] for c in counters) for key in ("errors", "samples"))
    if errors > error_limit(max_errors, samples):
        ((commonest, times),) = Counter(o.error for o in store.read_samples() if o.error).most_common(1)
        raise UntrustedResultError(
            f"{errors} of {samples} samples could not be scored (limit {max_errors}), {times} of them "
            f"because: {commonest}; the column `error` of samples.parquet has every reason, and "
            "`evalkit run … --resume` tries them again"
        )
