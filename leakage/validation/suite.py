"""All tiers of the validation, from nothing to the document that reports them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evalkit.cachedir import cache_dir
from evalkit.data.source import DataSource
from evalkit.errors import UsageError
from evalkit.leakage.validation import figures, planting, report, tier0, tier1, tier2, untouched

TIERS = (0, 1, 2)
RESULTS = "leakage-validation.json"
DOCUMENT = "leakage-validation.md"


def run(
    tiers: Sequence[int],
    source: DataSource,
    output: Path,
    *,
    work: Path | None = None,
    train: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Validate the detectors where the truth is known, and write what came out.

    Written are `leakage-validation.md`, its figures in `figures/` and the numbers in `results/`. Tiers that
    are not run keep the numbers that `output` has of them.

    Args:
        tiers: 0 (made-up scores, seconds), 1 (a small model trained from scratch, minutes), 2 (SmolLM2-135M
            fine-tuned, hours on a processor).
        source: where MMLU and CMMLU are read from.
        output: folder of the document.
        work: folder of matrices and checkpoints, from which an interrupted validation continues; None takes
            one in the user's cache.
        train: whether to train and score what `work` lacks; without, what it has is reported.
        progress: told what was done.

    Returns:
        the results by tier, as written.

    Raises:
        UsageError: a tier there is not, or a library is not installed.
        DataError: MMLU or CMMLU is not there.
    """
    if wrong := sorted(set(tiers).difference(TIERS)):
        raise UsageError(f"there is no tier {wrong[0]}; choose among {', '.join(map(str, TIERS))}")
    _check_installed()
    work = work or cache_dir() / "leakage-validation"
    path = output / "results" / RESULTS
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for tier in sorted(set(tiers)):
        results[f"tier{tier}"] = _tier(tier, source, work, train, progress)
        progress(f"tier {tier}: done")
    write(dict(sorted(results.items())), output)
    return results


def _check_installed() -> None:
    missing = [name for name in ("matplotlib", "sklearn", "torch") if find_spec(name) is None]
    if missing:
        raise UsageError(f"the validation needs {', '.join(missing)}: pip install 'evalkit[leakage]'")


def write(results: dict[str, Any], output: Path) -> None:
    """Write numbers, figures and document."""
    path = output / "results" / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if "tier2" in results:
        figures.draw(results["tier2"], output / "figures")
    (output / DOCUMENT).write_text(report.render(results), "utf-8")


def _tier(
    tier: int, source: DataSource, work: Path, train: bool, progress: Callable[[str], None]
) -> dict[str, Any]:
    if tier == 0:
        return tier0.run()
    cmmlu = planting.read_items(source, "cmmlu", "test")
    if tier == 1:
        return tier1.run(cmmlu, work / "tier1", progress)
    found = tier2.studies(source, work / "tier2", progress)
    for study in found if train else ():
        study.complete()
    scores = untouched.scores(cmmlu, work / "tier2" / "untouched.parquet", train, progress)
    return {**tier2.analyse(found), "untouched": untouched.analyse(scores) if scores else None}
