"""CelebA's faces, by its published partition."""

from pythae_fif.data.images import decode_files
from pythae_fif.data.published import PublishedSet
from pythae_fif.data.source import DataRequest, DataSource
from pythae_fif.data.splits import FilesAndReader, Splits

CELEBA = PublishedSet(
    name="celeba",
    title="CelebA",
    sizes="162770/19867/19962",
    folder="celeba/img_align_celeba",
    address="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    megabytes=1_490,
    shape=(3, 64, 64),
    fixed_side=False,
)

WIDTH = 178
"""Width of the images in pixels; their height is 218."""


def find_celeba(request: DataRequest) -> FilesAndReader:
    """Finds or downloads CelebA's images and its partition; no other file of it is needed."""
    return CELEBA.find_pythae_layout(request) or _find_images(request)


def _find_images(request: DataRequest) -> FilesAndReader:
    """Finds or downloads the image files and the partition in torchvision's layout."""
    folder = request.path / CELEBA.folder
    partition = folder.with_name("list_eval_partition.txt")
    if not (folder.is_dir() and partition.is_file()):
        CELEBA.load_by_torchvision(request, [{}])

    lines = [line.split() for line in partition.read_text("utf-8").splitlines()]
    entries = [fields for fields in lines if len(fields) == 2]
    names = {}
    for split, code in {"train": "0", "val": "1", "test": "2"}.items():
        names[split] = sorted(name for name, split_code in entries if split_code == code)

    def read() -> Splits:
        arrays = {
            split: decode_files(
                folder, split_names, request.image_size, request.progress, crop=request.crop / WIDTH
            ).images
            for split, split_names in names.items()
        }
        side = request.image_size
        crop = request.crop
        layout = f"{side}x{side} of the central {crop}x{crop}, image folder"
        return CELEBA.make_splits(layout, arrays)

    files = [partition]
    for split_names in names.values():
        files += [folder / name for name in split_names]
    return files, read


DATASET = DataSource(find_celeba, takes_image_size=True, takes_crop=True)
PLACEHOLDER = DataSource(
    CELEBA.find_placeholder, takes_image_size=True, takes_crop=True, is_cached=False
)
