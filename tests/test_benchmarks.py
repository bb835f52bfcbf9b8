"""Measurements for hardware that is not there run at a tiny size: ready when it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import MixtralConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.model
def test_the_gpu_benchmark_measures_a_tiny_mixture_on_the_cpu(tmp_path: Path) -> None:
    shape = MixtralConfig(
        vocab_size=50_000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=2048,
    )  # fmt: skip
    shape.save_pretrained(tmp_path / "tiny")
    sizes = (
        "--subjects 2 --questions 8 --prefix 300 --repeats 1 --shapes 2x32 --dtype float32 --peak-tflops 1"
    )
    arguments = ["--model", str(tmp_path / "tiny"), "--device", "cpu", "--out", str(tmp_path), *sizes.split()]
    # The scripts import each other from their own folder.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["model"]["details"]["random_weights"]
    assert found["summary"]["logical tokens"] > 2 * found["summary"]["computed tokens"]
    assert all(value > 0 for value in found["summary"].values())
