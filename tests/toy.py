"""A small made-up task for tests that need no benchmark."""

from pathlib import Path

from evalkit.spec import ResolvedTask
from evalkit.task import Protocol, Task


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
