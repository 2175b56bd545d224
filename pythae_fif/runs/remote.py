"""A store at any fsspec URL, such as s3://bucket/prefix, with a folder of this machine before it.

All work is done in the folder, which mirrors the URL:

- what lies at the URL comes into the folder before a plan is compared with it, and all of a run
  before that run goes on;
- a run's files go to the URL while it trains, every `PUSH_SECONDS`, so that another machine can
  resume from its last checkpoint, and when it ends, `result.json` last: whoever sees a record there
  finds the run's other files, too;
- runs are claimed at the URL as well as in the folder (`claim`), so that machines that share
  nothing but the URL never do the same run at the same time;
- a record that a machine made and could not push any more is pushed by its next start.

What is asked of the URL: that a file which was written is seen by the next listing, as S3, Google's
and Azure's stores, and every shared file system, promise. A file that is read while it is being
written may be cut off where uploads are not atomic; a record's checksum tells.
"""

__all__ = ["Remote", "claimed", "is_url", "mirrored"]

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pythae_fif.data.locations import cache_home
from pythae_fif.errors import StoreError, first_line, importing
from pythae_fif.files import TEMPORARY, read_json, write_json
from pythae_fif.runs.claim import PREFIX, Claim, machine_word

PUSH_SECONDS = 30.0
_OF_RUN = re.compile(r"((?:.*?/)??[0-9a-f]{12})/(.+)")
SYNCED = ".synced.json"
LARGE = ("model", "checkpoint.pt")
"""What a plan and a report do without."""

_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified",
           "updated", "modified", "created", "size")  # fmt: skip


def is_url(place: str | Path) -> bool:
    """Whether results go to an fsspec URL.

    Example:
        >>> is_url("s3://bucket/results"), is_url("results")
        (True, False)
    """
    return "://" in str(place)


class Remote:
    """The files at a URL and the folder that mirrors them.

    Args:
        url: Of a store, or of a folder in it.
        folder: The mirror; by default one of the user's cache that belongs to the URL.

    Raises:
        StoreError: fsspec or what it needs for this URL is not installed, or nothing answers there.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url = url.rstrip("/")
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = folder or cache_home() / "stores" / name
        self._pushing = threading.Lock()
        with importing("remote", f"a store at {url}", StoreError):
            from fsspec.core import url_to_fs
        with self.explained("reached"):
            self.fs, self.root = url_to_fs(self.url)
            self.root = self.root.rstrip("/")
            self.fs.exists(self.root)

    def files(self, below: str = "") -> dict[str, dict[str, Any]]:
        """Names relative to the URL -> what fsspec knows of each file."""
        with self.explained("listed"):
            self.fs.invalidate_cache()
            found = self.fs.find(f"{self.root}/{below}".rstrip("/"), detail=True)
        return {path[len(self.root) :].lstrip("/"): info for path, info in found.items()}

    def pull(
        self,
        below: str = "",
        large: bool = False,
        keep: str | None = "environment.json",
        spared: Callable[[Path], bool] = lambda folder: False,
    ) -> None:
        """Brings what changed at the URL since this machine last saw it.

        Args:
            below: A folder, relative to the URL.
            large: Trained models and checkpoints, too.
            keep: Name of files that are not replaced where there is one: paths of this machine.
            spared: Whether nothing comes into a folder, since a process of this machine works there
                and has newer files than it sent.
        """
        by_folder: dict[Path, dict[str, dict[str, Any]]] = {}
        for name, info in self.files(below).items():
            if _travels(name) and (large or not _is_large(name)):
                by_folder.setdefault(self.folder / _parts(name)[0], {})[name] = info
        for folder, infos in by_folder.items():
            if spared(folder):
                continue
            synced = _read_synced(folder)
            for name, info in infos.items():
                seen, here = synced.get(name), (self.folder / name).exists()
                if here and _parts(name)[1] == keep:
                    continue
                if seen is None or seen[0] != _stamp(info) or not here:
                    self._get(name)
                    synced[name] = [_stamp(info), _local_stamp(self.folder / name)]
            _write_synced(folder, synced)

    def push(self, folder: Path) -> None:
        """Sends what changed in a run's folder, the record last, and clears its old checkpoint."""
        with self._pushing:
            synced, record = _read_synced(folder), folder / "result.json"
            before = _local_stamp(record) if record.exists() else None
            paths = [p for p in folder.rglob("*") if p.is_file()]
            paths.sort(key=lambda path: (path == record, str(path)))
            for path in paths:
                name = path.relative_to(self.folder).as_posix()
                try:
                    stamp = _local_stamp(path)
                    if path == record and stamp != before:
                        continue  # it may seal files that came after those listed
                    if _travels(name) and (name not in synced or synced[name][1] != stamp):
                        synced[name] = [self.put(path), stamp]
                except OSError:
                    if path.exists():  # or the run has replaced it just now
                        raise
            checkpoint = folder / "checkpoint.pt"
            name = checkpoint.relative_to(self.folder).as_posix()
            if name in synced and not checkpoint.exists():
                with self.explained("written"), contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(f"{self.root}/{name}")
                del synced[name]
            _write_synced(folder, synced)

    def put(self, path: Path) -> str:
        """Sends one file of the mirror; its stamp at the URL."""
        name = path.relative_to(self.folder).as_posix()
        with self.explained("written"):
            self.fs.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(path), f"{self.root}/{name}")
            return _stamp(self.fs.info(f"{self.root}/{name}"))

    def unpushed(self) -> list[Path]:
        """Folders of runs with a record that the URL has not got."""
        return [
            path.parent
            for path in sorted(self.folder.joinpath("runs").rglob("result.json"))
            for seen in [_read_synced(path.parent).get(path.relative_to(self.folder).as_posix())]
            if seen is None or seen[1] != _local_stamp(path)
        ]

    def _get(self, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        with self.explained("read"):
            self.fs.get_file(f"{self.root}/{name}", str(temporary))
        os.replace(temporary, target)

    @contextlib.contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Whatever a file system of fsspec raises, in one line."""
        try:
            yield
        except Exception as error:
            reason = first_line(error)
            raise StoreError(f"results at {self.url} cannot be {what}: {reason}") from error


class RemoteClaims:
    """Claims at a URL (`claim.ClaimPlace`)."""

    def __init__(self, remote: Remote, below: str) -> None:
        self.fs, self.explained = remote.fs, remote.explained
        self.root = f"{remote.root}/{below}"
        # Whoever shares the mirror has claimed the run there first. Its path says nothing: of two
        # containers on one machine each has its own.
        remote.folder.mkdir(parents=True, exist_ok=True)
        found = remote.folder.stat()
        self.scope = f"{found.st_dev} {found.st_ino}"

    def names(self) -> list[str]:
        paths: list[str] = []
        with self.explained("listed"), contextlib.suppress(FileNotFoundError):
            self.fs.invalidate_cache()
            paths = self.fs.ls(self.root, detail=False)
        names = [path.rstrip("/").rpartition("/")[2] for path in paths]
        return [name for name in names if name.startswith(PREFIX)]

    def read(self, name: str) -> str | None:
        with self.explained("read"), contextlib.suppress(FileNotFoundError):
            return bytes(self.fs.cat_file(f"{self.root}/{name}")).decode()
        return None

    def create(self, name: str, text: str) -> None:
        with self.explained("written"):
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.pipe_file(f"{self.root}/{name}", text.encode())

    def beat(self, name: str, text: str) -> bool:
        if name not in self.names():
            return False
        self.fs.pipe_file(f"{self.root}/{name}", text.encode())
        return True

    def release(self, name: str) -> None:
        self.remove(name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.fs.rm_file(f"{self.root}/{name}")

    def holds(self, name: str) -> bool:
        return name in self.names()

    def is_dead(self, name: str, machine: str) -> bool:
        return machine == machine_word(self)


@contextlib.contextmanager
def claimed(run_dir: Path, url: str | None) -> Iterator[Callable[[], None]]:
    """Claims a run, in its folder and at its URL, and keeps both the same until it ends.

    Args:
        run_dir: The run's folder.
        url: Of the run, if its store has one.

    Yields:
        A function that raises ClaimLostError once the run is not this process's own any more.

    Raises:
        ClaimLostError: It was not in the end, and nothing went to the URL.
        StoreError: The folder or the URL does not take the claim, or the URL not the files.
    """
    with Claim(run_dir) as here:
        if url is None:
            yield here.check
            return
        store, below = _split(url)
        remote = Remote(store, run_dir.parents[below.count("/")])
        with Claim(RemoteClaims(remote, below)) as there:
            remote.pull(below, large=True)
            ended = threading.Event()

            def push() -> None:
                here.check()
                there.check()
                remote.push(run_dir)

            def keep_pushing() -> None:
                while not ended.wait(PUSH_SECONDS):
                    with contextlib.suppress(Exception):  # of a network; the last push tells
                        push()

            thread = threading.Thread(target=keep_pushing, daemon=True)
            thread.start()
            try:
                yield here.check
            finally:
                ended.set()
                thread.join()
                push()


def _split(run: str) -> tuple[str, str]:
    """The URL of a run as that of its store and the run's folder in it.

    Raises:
        StoreError: It is not of a run.

    Example:
        >>> _split("s3://bucket/results/runs/digits/convnet/ae/0123456789ab")
        ('s3://bucket/results', 'runs/digits/convnet/ae/0123456789ab')
    """
    store, mark, rest = run.rstrip("/").rpartition("/runs/")
    if not mark or not rest.strip("/") or ".." in rest.split("/"):
        raise StoreError(f"{run} is no run: .../runs/<dataset>/<arch>/<model>/<run id> is needed")
    return store, f"runs/{rest}"


def mirrored(run: str | Path) -> Path:
    """The folder of a run that is given by its folder or by its URL, whose small files are fetched.

    Raises:
        StoreError: There is no run at the URL.
    """
    if not is_url(run):
        return Path(run)
    store, below = _split(str(run))
    remote = Remote(store)
    remote.pull(below, keep=None)
    folder = remote.folder / below
    if not folder.is_dir():
        raise StoreError(f"there is no run at {run}")
    return folder


def _travels(name: str) -> bool:
    """Whether a file is of the store, not of this machine or this moment, nor outside of it."""
    parts = name.split("/")
    return not (
        any(part.endswith(TEMPORARY) or part in ("", ".", "..") for part in parts)
        or parts[-1].startswith(PREFIX)
        or parts[-1] in (SYNCED, "output.log")
    )


def _parts(name: str) -> tuple[str, str]:
    """A file's folder and its name in it; of a run's file the folder is the run's, and the name may
    have slashes."""
    found = _OF_RUN.fullmatch(name)
    folder, _, file = name.rpartition("/")
    return (found[1], found[2]) if found else (folder, file)


def _is_large(name: str) -> bool:
    return _parts(name)[1].partition("/")[0] in LARGE


def _stamp(info: dict[str, Any]) -> str:
    return " ".join(f"{key}={info[key]}" for key in _STAMPS if info.get(key) is not None)


def _local_stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_mtime_ns, found.st_size]


def _read_synced(folder: Path) -> dict[str, list[Any]]:
    content = read_json(folder / SYNCED)
    return content if isinstance(content, dict) else {}


def _write_synced(folder: Path, synced: dict[str, list[Any]]) -> None:
    if synced != _read_synced(folder):
        write_json(folder / SYNCED, synced)
