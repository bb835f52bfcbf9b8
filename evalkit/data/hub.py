"""Official archives from the Hugging Face hub: pinned, unpacked safely, verified, then moved in place."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from evalkit.cachedir import cache_dir
from evalkit.data.content import check_split
from evalkit.errors import DataError
from evalkit.task import HubArchive, Task

Opener = Callable[[], IO[bytes]]


def data_dir() -> Path:
    """Return the folder fetched data lives in."""
    return cache_dir() / "data"


def fetch(
    task: Task, root: Path | None = None, *, offline: bool = False, verify: bool = True, force: bool = False
) -> Path:
    """Download the official archive of `task` into `root` (default: the cache) and return its folder.

    The folder appears complete and verified, or not at all. `offline` uses an archive the hub client
    has downloaded before and never opens a connection; `verify=False` accepts content that differs from
    the release evalkit knows; `force` replaces a complete folder too. Raises DataError.
    """
    if task.hub is None:
        raise DataError(
            f"{task.name}: evalkit knows no archive to fetch; get the official files ({task.homepage}) and "
            f"name the folder that holds {task.folder} with --data or EVALKIT_DATA"
        )
    root = root or data_dir()
    target = root / task.folder
    if not force and all((root / path).is_file() for path in _files(task)):
        return target
    archive = _download(task, task.hub, target, offline)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=root) as staging:
        _unpack(task, task.hub, archive, Path(staging))
        staged = Path(staging) / task.folder
        if verify:
            _verify(task, staged)
        _install(staged, target, Path(staging) / "replaced")
    return target


def _download(task: Task, hub: HubArchive, target: Path, offline: bool) -> Path:
    """Return the archive in the hub client's own cache, downloading it unless it is there."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            hub.repo_id,
            hub.filename,
            repo_type="dataset",
            revision=hub.revision,
            local_files_only=offline,
            # The client reads this variable once, when it is imported; a mirror may be named later.
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except Exception as error:  # the client passes on errors of whichever HTTP library it is built on
        where = f"{hub.filename} of the dataset {hub.repo_id} at {hub.revision}"
        raise DataError(
            f"{task.name}: no data in {target}, and cannot fetch {where}: {_reason(error, offline)}; "
            f"run `evalkit data fetch {task.name}` where the hub can be reached, or {_remedy(task)}"
        ) from error
    return Path(path)


def _reason(error: Exception, offline: bool) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if offline or constants.HF_HUB_OFFLINE:
            return "it was not downloaded before and offline mode is on"
        return "no connection to the hub"
    if isinstance(
        error, errors.RemoteEntryNotFoundError | errors.RepositoryNotFoundError | errors.RevisionNotFoundError
    ):
        return "the hub does not have it, or not for everybody"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _remedy(task: Task) -> str:
    return (
        f"get the official {task.title} data some other way, so that DIR/{task.folder} holds it, "
        "and name DIR with --data or EVALKIT_DATA"
    )


def _files(task: Task) -> list[PurePosixPath]:
    """List every file of a benchmark, relative to the data directory."""
    return [
        PurePosixPath(task.folder, task.path(split, subset))
        for split in task.splits
        for subset in task.subsets
    ]


def _unpack(task: Task, hub: HubArchive, archive: Path, root: Path) -> None:
    """Write the files the task reads, and nothing else, below `root`.

    The task names every file that is written, so no name inside the archive decides where; an archive
    that tries to leave its folder is not the official one and is refused whole.
    """
    names = {path: str(path.relative_to(PurePosixPath(hub.folder))) for path in _files(task)}
    try:
        with _members(archive) as members:
            _check(members, list(names.values()))
            for path, name in names.items():
                _copy(members[name], root / path)
    except (_BadArchiveError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        # The client trusts what lies in its cache: a damaged file would be handed out again for ever.
        archive.resolve().unlink(missing_ok=True)
        archive.unlink(missing_ok=True)
        raise DataError(
            f"{task.name}: the archive {archive} is damaged or not the official one ({error}) and has been "
            f"removed; run `evalkit data fetch {task.name}` again, or {_remedy(task)}"
        ) from error


class _BadArchiveError(Exception):
    """A readable archive whose members are not those of the official one."""


def _check(members: Iterable[str], wanted: Sequence[str]) -> None:
    for name in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise _BadArchiveError(f"its member {name} lies outside its folder")
    if missing := sorted(set(wanted) - set(members)):
        raise _BadArchiveError(f"it lacks {len(missing)} of {len(wanted)} files, for example {missing[0]}")


@contextmanager
def _members(archive: Path) -> Iterator[dict[str, Opener]]:
    """Open a zip or tar archive: name of every regular file to a function that opens it."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            yield {
                info.filename: partial(zipped.open, info) for info in zipped.infolist() if not info.is_dir()
            }
    else:
        with tarfile.open(archive) as tar:
            yield {
                info.name.removeprefix("./"): partial(_open_member, tar, info)
                for info in tar
                if info.isfile()
            }


def _open_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(info)
    if stream is None:
        raise tarfile.TarError(f"{info.name} is not a regular file")
    return stream


def _copy(open_member: Opener, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_member() as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _verify(task: Task, folder: Path) -> None:
    for split in task.splits:
        samples = {
            subset: task.parse(folder / task.path(split, subset), split, subset) for subset in task.subsets
        }
        if problem := check_split(task, split, samples).problem:
            raise DataError(
                f"{task.name}: the fetched {split} split is not the official release: {problem}; "
                f"{_remedy(task)}"
            )


def _install(staged: Path, target: Path, aside: Path) -> None:
    """Move the finished folder into place; `aside` takes what stood there and goes with the staging."""
    if target.exists():
        target.rename(aside)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster with the same verified files
            raise
