"""The real hub client against a local server that plays the hub."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evalkit.data.content import content_hash
from evalkit.data.hub import data_dir, fetch
from evalkit.data.source import open_source
from evalkit.errors import DataError
from evalkit.registry import get_task
from evalkit.task import Task

HEADERS = {"ceval": "id,question,A,B,C,D,answer\n", "cmmlu": ",Question,A,B,C,D,Answer\n", "mmlu": ""}


class Hub(ThreadingHTTPServer):
    """Serves `files`, path to content, the way the hub resolves the files of a repository."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, task: Task, content: bytes) -> None:
        assert task.hub is not None
        path = f"/datasets/{task.hub.repo_id}/resolve/{task.hub.revision}/{task.hub.filename}"
        self.files[path] = content


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.server.files.get(self.path, b""))

    def _answer(self, body: bytes) -> None:
        self.server.requests.append((self.command, self.path))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.path.split("/")[5])
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EVALKIT_DATA", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def small(name: str, tmp_path: Path) -> tuple[Task, dict[str, bytes]]:
    """Two subjects of a task, and its official files by their name in the archive."""
    task = get_task(name)
    task = replace(task, subsets=dict(list(task.subsets.items())[:2]))
    layout = tmp_path / "layout"
    files: dict[str, bytes] = {}
    for split in task.splits:
        for subset in task.subsets:
            text = f"{'' if name == 'mmlu' else '0,'}{subset} {split}?,1,2,3,4,B\n"
            path = layout / task.folder / task.path(split, subset)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(HEADERS[name] + text, encoding="utf-8")
            assert task.hub is not None
            files[path.relative_to(layout / task.hub.folder).as_posix()] = path.read_bytes()
    hashes = {
        split: content_hash(
            {s: task.parse(layout / task.folder / task.path(split, s), split, s) for s in task.subsets}
        )
        for split in task.splits
    }
    return replace(task, sizes=dict.fromkeys(task.splits, 2), content_sha256=hashes), files


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def packed(task: Task, files: dict[str, bytes]) -> bytes:
    assert task.hub is not None
    return zipped(files) if task.hub.filename.endswith(".zip") else tarred(files)


@pytest.mark.parametrize("name", ["mmlu", "ceval", "cmmlu"])
def test_fetch_installs_the_official_layout_and_nothing_else(name: str, hub: Hub, tmp_path: Path) -> None:
    task, files = small(name, tmp_path)
    hub.publish(task, packed(task, files | {"data/auxiliary_train/x.csv": b"1", "README.txt": b"hello"}))
    source = open_source("auto")
    subset = next(iter(task.subsets))
    assert source.load(task, task.splits[0], subset)[0].target == "B"
    found = {p.relative_to(data_dir()).as_posix() for p in data_dir().rglob("*") if p.is_file()}
    assert found == {f"{task.folder}/{task.path(sp, su)}" for sp in task.splits for su in task.subsets}
    asked = len(hub.requests)
    assert fetch(task) == data_dir() / task.folder
    assert len(hub.requests) == asked, "a complete folder is not fetched again"


def test_every_archive_is_pinned_to_a_commit() -> None:
    for name in ("mmlu", "ceval", "cmmlu"):
        pinned = get_task(name).hub
        assert pinned is not None
        assert len(pinned.revision) == 40


def test_force_replaces_what_is_there(hub: Hub, tmp_path: Path) -> None:
    task, files = small("cmmlu", tmp_path)
    hub.publish(task, packed(task, files))
    stray = fetch(task) / "stray.txt"
    stray.write_text("mine")
    fetch(task, force=True)
    assert not stray.exists()
    assert [p.name for p in data_dir().iterdir()] == ["CMMLU"]


def test_offline_uses_a_former_download_and_never_connects(hub: Hub, tmp_path: Path) -> None:
    task, files = small("ceval", tmp_path)
    hub.publish(task, packed(task, files))
    with pytest.raises(
        DataError, match=r"not downloaded before and offline mode is on; .* --data or EVALKIT_DATA"
    ):
        fetch(task, offline=True)
    assert hub.requests == []
    fetch(task)
    asked = len(hub.requests)
    fetch(task, tmp_path / "elsewhere", offline=True)
    assert len(hub.requests) == asked


def test_a_file_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    task, _ = small("ceval", tmp_path)
    with pytest.raises(
        DataError, match=r"ceval-exam\.zip of the dataset ceval/ceval-exam .*the hub does not have it"
    ):
        fetch(task)


def test_no_connection(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between its attempts
    task, _ = small("mmlu", tmp_path)
    with pytest.raises(DataError, match=r"no connection to the hub; .* --data or EVALKIT_DATA") as raised:
        fetch(task)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("name", ["mmlu", "ceval"])
def test_a_damaged_archive_is_removed_so_that_a_new_fetch_gets_a_good_one(
    name: str, hub: Hub, tmp_path: Path
) -> None:
    task, files = small(name, tmp_path)
    good = packed(task, files)
    hub.publish(task, good[: len(good) // 3])
    with pytest.raises(DataError, match=rf"damaged .* removed; run `evalkit data fetch {name}` again"):
        fetch(task)
    assert list(data_dir().iterdir()) == []
    hub.publish(task, good)
    assert fetch(task).is_dir()


@pytest.mark.parametrize("evil", ["../evil.csv", "/tmp/evil.csv", "data/../../evil.csv", "..\\evil.csv"])
@pytest.mark.parametrize("name", ["mmlu", "cmmlu"])
def test_an_archive_that_leaves_its_folder_is_refused_whole(
    name: str, evil: str, hub: Hub, tmp_path: Path
) -> None:
    task, files = small(name, tmp_path)
    hub.publish(task, packed(task, files | {evil: b"evil"}))
    with pytest.raises(DataError, match="lies outside its folder"):
        fetch(task)
    assert not list(tmp_path.rglob("evil.csv"))
    assert not (data_dir() / task.folder).exists()


def test_a_link_in_the_place_of_a_file_is_a_missing_file(hub: Hub, tmp_path: Path) -> None:
    task, files = small("mmlu", tmp_path)
    name, *others = files
    buffer = io.BytesIO(tarred({other: files[other] for other in others}))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    hub.publish(task, buffer.getvalue())
    with pytest.raises(DataError, match="lacks 1 of 6 files"):
        fetch(task)


def test_other_content_than_the_official_release_is_refused(hub: Hub, tmp_path: Path) -> None:
    task, files = small("cmmlu", tmp_path)
    changed = {name: content.replace(b",B\n", b",C\n") for name, content in files.items()}
    hub.publish(task, packed(task, changed))
    with pytest.raises(DataError, match="fetched dev split is not the official release: content sha256"):
        fetch(task)
    assert not (data_dir() / task.folder).exists()
    assert fetch(task, verify=False).is_dir()


def test_a_task_without_archive_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="knows no archive to fetch"):
        fetch(replace(get_task("mmlu"), hub=None), tmp_path)
