"""False alarms of the gate's test stay at its level; what is planted is seen. Large simulations are
`benchmarks/gate_statistics.py`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from evalkit.gate.comparison import p_lower

PAIRS, ALPHA = 600, 0.05
ROOM = 3 * (ALPHA * (1 - ALPHA) / PAIRS) ** 0.5


@pytest.mark.parametrize("differ", [0.005, 0.1])
@pytest.mark.parametrize("subsets", [1, 12])
def test_false_alarms_stay_below_the_level(differ: float, subsets: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 1 + subsets, 600).astype(np.float64)
    changes = rng.choice([-1.0, 0.0, 1.0], (PAIRS, 600), p=[differ / 2, 1 - differ, differ / 2])
    alarms = np.mean([p_lower(row, weights) <= ALPHA for row in changes])
    assert alarms <= ALPHA + ROOM


def test_one_point_on_all_of_mmlu_is_seen() -> None:
    rng = np.random.default_rng(0)
    changes = rng.choice([-1.0, 0.0, 1.0], (200, 14_042), p=[0.055, 0.9, 0.045])
    assert np.mean([p_lower(row, np.ones(14_042)) <= ALPHA for row in changes]) == pytest.approx(
        0.98, abs=0.03
    )


def test_nothing_of_engines_or_tasks_is_imported() -> None:
    text = (
        "import sys, evalkit.gate.baseline, evalkit.gate.outputs, evalkit.gate.policy, evalkit.gate.verdict\n"
        "names = ('torch', 'pandas', 'evalkit.backends', 'evalkit.tasks', 'evalkit.leakage')\n"
        "print([name for name in names if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
