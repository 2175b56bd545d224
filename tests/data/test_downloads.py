"""Downloads from a server of this machine: whole and checked, or one line that says what to do."""

import dataclasses
import gzip
import hashlib
import io
import zipfile

import pytest
import torchvision
from support.folders import flipped
from support.image_files import counts, fail_line, fill_celeba, write_mnist
from support.web import QUOTA, QUOTA_PAGE, Page

from pythae_fif.data import load_images
from pythae_fif.data.download import CELEBA, CELEBA_PAGE
from pythae_fif.errors import DataError

LIST, ZIP = CELEBA


@pytest.fixture
def files(tmp_path, web, monkeypatch) -> dict[str, bytes]:
    """A small CelebA as Google Drive gives it: file -> content."""
    made = fill_celeba(tmp_path / "made")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted((made / "celeba/img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    contents = {LIST: (made / f"celeba/{LIST}").read_bytes(), ZIP: packed.getvalue()}
    for name, content in contents.items():
        md5 = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(CELEBA, name, dataclasses.replace(CELEBA[name], md5=md5))
        serve(web, name, Page(content))
    return contents


def serve(web, name: str, page: Page) -> None:
    web.drive(CELEBA[name].url.partition("id=")[2], page, large=name == ZIP)


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_mnist_of_torchvision_is_whole_or_one_line(tmp_path, root, web, monkeypatch):
    write_mnist(tmp_path / "made", (120, 30))
    resources = []
    for path in sorted((tmp_path / "made/MNIST/raw").iterdir()):
        content = gzip.compress(path.read_bytes())
        web.pages[f"mnist/{path.name}.gz"] = Page(content)
        resources.append((f"{path.name}.gz", hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{web.address}mnist/"])
    name, page = next(iter(web.pages.items()))
    web.pages[name] = dataclasses.replace(page, cut=100)
    for _ in range(2):
        parts = ("mnist: ", "the download failed", "by hand", root / "MNIST/raw")
        fail_line(DataError, *parts, name="mnist", data_root=root)
    web.pages[name] = page
    assert counts(load_images("mnist", root)) == [100, 20, 30]


def test_celeba_is_two_files(root, web, files):
    seen = []
    splits = load_images("celeba", root, image_size=8, progress=lambda *of: seen.append(of))
    assert counts(splits) == [20, 12, 11]
    assert splits.source.startswith("CelebA 8x8 of the central 148x148, image folder, 20/12/11")
    assert len(web.asked) == 3 and {page.partition("/")[0] for page in web.asked} == {
        "drive.google.com", "drive.usercontent.google.com",
    }  # fmt: skip
    assert (len(files[ZIP]), len(files[ZIP])) in seen, "bytes of the download"
    web.asked.clear()
    assert load_images("celeba", root, image_size=8).content_hash == splits.content_hash
    assert not web.asked


@pytest.mark.parametrize("name", [LIST, ZIP])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cut", "cannot download {name} of "),
        ("other", "came with MD5 checksum"),
        ("404", "Google Drive does not give {name} of {url} now (Cannot retrieve"),
        ("quota", f"Google Drive does not give {{name}} of {{url}} now ({QUOTA})"),
    ],
)
def test_a_download_that_fails_is_one_line_and_is_not_used(fault, said, name, root, web, files):
    content = files[name]
    page = {
        "cut": Page(content, cut=len(content) // 2),
        "other": Page(content[:-1] + b"!"),
        "404": Page(b"none", "text/html", 404),
        "quota": Page(QUOTA_PAGE, "text/html"),
    }[fault]
    serve(web, name, page)
    if fault == "quota":
        web.drive(CELEBA[name].url.partition("id=")[2], page)
    parts = (
        said.format(name=name, url=CELEBA[name].url), f"fetch {LIST} and {ZIP} by hand",
        CELEBA_PAGE, root / "celeba",
    )  # fmt: skip
    fail_line(DataError, *parts, name="celeba", data_root=root)
    assert names_in(root / "celeba") == ([LIST] if name == ZIP else [])
    serve(web, name, Page(content))
    assert counts(load_images("celeba", root, image_size=8)) == [20, 12, 11]


@pytest.mark.parametrize("offline", [False, True])
def test_files_that_were_fetched_by_hand_are_unpacked(offline, root, web, files):
    (root / "celeba").mkdir()
    for name, content in files.items():
        (root / "celeba" / name).write_bytes(content)
    splits = load_images("celeba", root, image_size=8, download=not offline)
    assert counts(splits) == [20, 12, 11] and not web.asked


def test_a_zip_that_is_incomplete_is_named(root, web, files):
    (root / "celeba").mkdir()
    (root / "celeba" / LIST).write_bytes(files[LIST])
    (root / "celeba" / ZIP).write_bytes(files[ZIP][:-100])
    parts = (root / "celeba" / ZIP, "MD5 checksum", "remove it", CELEBA_PAGE)
    fail_line(DataError, *parts, name="celeba", data_root=root)
    assert not (root / "celeba/img_align_celeba").exists()


@pytest.mark.parametrize("fault", ["damaged", "disk"])
def test_an_unpacking_that_fails_leaves_no_folder(fault, root, web, files, monkeypatch):
    if fault == "damaged":  # with the right checksum: the archive itself is wrong
        content = flipped(files[ZIP], 1000)
        md5 = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(CELEBA, ZIP, dataclasses.replace(CELEBA[ZIP], md5=md5))
        serve(web, ZIP, Page(content))
        parts: tuple = ("damaged", root / "celeba" / ZIP)
        fail_line(DataError, *parts, name="celeba", data_root=root)
    else:

        def full(done: int, total: int) -> None:
            if total == 43:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("pythae_fif.data.download.PROGRESS_FILES", 1)
        with pytest.raises(OSError, match="No space left on device"):
            load_images("celeba", root, progress=full)
    assert names_in(root / "celeba") == [ZIP, LIST]
