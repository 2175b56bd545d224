"""A folder that replaces the Hugging Face hub."""

from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path


class Hub:
    """Stores what the hub's client uploads, and returns it when the client downloads.

    Attributes:
        files: Repository -> path -> content.
        downloaded: Names of the files that were downloaded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.downloaded: list[str] = []

    def create_repo(self, _, repo_id: str, exist_ok: bool) -> None:
        assert exist_ok or repo_id not in self.files
        self.files[repo_id].clear()

    def upload_folder(self, _, repo_id: str, folder_path: str) -> None:
        assert repo_id in self.files, "the repository must be created first"
        for path in Path(folder_path).iterdir():
            self.files[repo_id][path.name] = path.read_bytes()

    def snapshot_download(self, repo_id: str, allow_patterns: list[str]) -> str:
        repository = self.folder / repo_id
        repository.mkdir(parents=True, exist_ok=True)
        for name, content in self.files[repo_id].items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (repository / name).write_bytes(content)
                self.downloaded.append(name)
        return str(repository)

    def hf_hub_download(self, repo_id: str, filename: str) -> str:
        return str(Path(self.snapshot_download(repo_id, [filename]), filename))
