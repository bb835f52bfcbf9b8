"""A small made-up task for tests that need no benchmark."""

from pathlib import Path

import numpy as np

from evalkit.judge import judge, recorded
from evalkit.prompts import Prompt
from evalkit.spec import ResolvedTask
from evalkit.task import Protocol, Task
from evalkit.tokens import EncodedRequest
from evalkit.types import Outcome, Response, Sample, ScoreRequest


def judged(
    resolved: ResolvedTask, sample: Sample, response: Response, *, truncated=False, keep_prompt=False
) -> Outcome:
    """What becomes of one response."""
    encoded = EncodedRequest(np.zeros(1, np.int32), (np.zeros(1, np.int32),), (1,))
    prompt = Prompt(sample, ScoreRequest("Q", ()), encoded, truncated)
    outcome = recorded(resolved, prompt, response, keep_prompt=keep_prompt)
    (done,) = judge(resolved, [outcome], {(sample.subset, sample.id): sample})
    return done


def resolved_toy(
    protocol: Protocol, *, subsets, shots=0, sizes=None, choices=("A", "B", "C")
) -> ResolvedTask:
    task = Task(
        name="toy",
        title="Toy",
        description="made up for tests",
        licence="none",
        homepage="",
        languages=("en",),
        subsets={subset: subset.title() for subset in subsets},
        splits=("test",),
        shots_split="test",
        folder="Toy",
        path=lambda split, subset: f"{split}/{subset}.csv",
        parse=lambda file, split, subset: [],
        choices=choices,
        protocols={protocol.name: protocol},
        default_protocol=protocol.name,
        sizes=sizes or {},
        root=Path(),
    )
    return ResolvedTask(task, protocol, "test", shots)
