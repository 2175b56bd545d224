"""The Hugging Face hub as a folder: what its client uploads and downloads."""

from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path


class Hub:
    """Repositories of models; `files` is repository -> path -> content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.downloaded: list[str] = []

    def create_commit(self, _, repo_id: str, operations: list, **__) -> None:
        for of in operations:
            self.files[repo_id][of.path_in_repo] = Path(of.path_or_fileobj).read_bytes()

    def snapshot_download(self, repo_id: str, allow_patterns: list[str]) -> str:
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        for name, content in self.files[repo_id].items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (self.folder / repo_id / name).write_bytes(content)
                self.downloaded.append(name)
        return str(self.folder / repo_id)

    def hf_hub_download(self, repo_id: str, filename: str) -> str:
        return str(Path(self.snapshot_download(repo_id, [filename]), filename))
