"""Finding tasks and suites by name; nothing is imported before its name is asked for.

Tasks come from the modules of `evalkit.tasks` (each exposes `TASK`, or `TASKS`, whose names begin with
the module's), from the entry-point group
`evalkit.tasks` of other distributions, and from a user's own .py or .yaml file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evalkit.configs import shipped
from evalkit.errors import EvalkitError, UsageError, unknown_name
from evalkit.task import Task

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "evalkit.tasks"
FILE_SUFFIXES = (".py", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of task specs."""

    name: str
    description: str
    tasks: tuple[str, ...]


def task_names() -> list[str]:
    """List the built-in and plugged-in tasks."""
    return sorted({*(name for module in _builtin_modules() for name in _tasks_of(module)), *_entry_points()})


def get_task(name: str) -> Task:
    """Import the task called `name`; raises UsageError with the nearest names if there is none."""
    for module in _builtin_modules():
        if name.startswith(module) and name in (tasks := _tasks_of(module)):
            return tasks[name]
    if name in _entry_points():
        return _plugin(_entry_points()[name])
    raise unknown_name("task", name, [*task_names(), *suites()])


def is_file_spec(name: str) -> bool:
    """Tell whether `name` is the path of a user's task file rather than a task's name."""
    return name.endswith(FILE_SUFFIXES)


def load_file(path: str | Path) -> list[Task]:
    """Load the tasks of a user's .py or .yaml file; raises UsageError naming file, line and problem."""
    return _load_file(Path(path).expanduser().resolve())


@cache
def _load_file(file: Path) -> list[Task]:
    if not file.is_file():
        raise UsageError(f"task file {file} does not exist; check the path")
    if file.suffix == ".py":
        return _python_tasks(file)
    from evalkit.yaml_task import load_yaml_task

    return [load_yaml_task(file)]


@cache
def suites() -> dict[str, Suite]:
    """Read the suites that ship in `configs/suites`, by name."""
    return {name: _suite(name, text) for name, text in shipped("suites").items()}


def _suite(name: str, text: str) -> Suite:
    import yaml

    content = yaml.safe_load(text)
    return Suite(name, content["description"], tuple(content["tasks"]))


def _tasks_of(module: str) -> dict[str, Task]:
    """Import a module of `evalkit.tasks`: task name to task."""
    loaded = importlib.import_module(f"evalkit.tasks.{module}")
    tasks: tuple[Task, ...] = getattr(loaded, "TASKS", None) or (loaded.TASK,)
    return {task.name: task for task in tasks}


@cache
def _builtin_modules() -> frozenset[str]:
    """Modules of `evalkit.tasks`; one that starts with an underscore is shared code, not a task."""
    package = importlib.import_module("evalkit.tasks")
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return frozenset(name for name in names if not name.startswith("_"))


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib import metadata

    found: dict[str, EntryPoint] = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name in found or point.name in _builtin_modules():
            raise UsageError(
                f"task '{point.name}' of the entry point {point.value} has the name of another task; "
                "uninstall one of them"
            )
        found[point.name] = point
    return found


def _plugin(point: EntryPoint) -> Task:
    try:
        loaded = point.load()
    except Exception as error:
        raise UsageError(f"task plug-in '{point.name}' ({point.value}) cannot be loaded: {error}") from error
    task = getattr(loaded, "TASK", loaded)
    if not isinstance(task, Task):
        raise UsageError(
            f"task plug-in '{point.name}': {point.value} is no evalkit.task.Task and has no TASK; "
            "report this to its author"
        )
    return task


def _python_tasks(file: Path) -> list[Task]:
    module = _execute(file)
    found = [module.TASK] if hasattr(module, "TASK") else _unique_tasks(vars(module))
    if not found or not all(isinstance(task, Task) for task in found):
        raise UsageError(f"{file}: defines no task; assign an evalkit.task.Task to a module-level name TASK")
    return found


def _unique_tasks(names: dict[str, Any]) -> list[Task]:
    """Tasks bound to module-level names, once each, in order of definition."""
    return list({id(value): value for value in names.values() if isinstance(value, Task)}.values())


def _execute(file: Path) -> ModuleType:
    """Run a user's file as a module of its own name, so that no installed module can be shadowed."""
    name = f"evalkit_user_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except EvalkitError:
        raise
    except Exception as error:
        raise UsageError(
            f"{_place(file, error)}: {type(error).__name__}: {error}; correct the file"
        ) from error
    return module


def _place(file: Path, error: Exception) -> str:
    """file:line of the last line of the user's file that took part in the error."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f"{file}:{error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    return f"{file}:{lines[-1]}" if lines else str(file)
