"""Image files: cropped, resized, and decoded once."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from support.features import names_in
from support.image_files import FACE, fail_line, fill_folder, noise, picture

from pythae_fif.data import Splits, load_images
from pythae_fif.data.images import decode_files, find_images
from pythae_fif.errors import DataError


def entries(cache: Path) -> list[str]:
    return [name for name in names_in(cache) if not name.endswith(".json")]


def decode(folder: Path, crop: float = 1.0, size: int = 64) -> np.ndarray:
    return decode_files(folder, find_images(folder), image_size=size, crop=crop).images.astype(int)


@pytest.mark.parametrize("size", [(89, 109), (356, 436), (534, 654)])
@pytest.mark.parametrize("image_size", [32, 64])
def test_crop_is_the_same_region_at_any_resolution(size, image_size, tmp_path):
    (tmp_path / "faces").mkdir()
    picture(*FACE).save(tmp_path / "faces/0.png")
    picture(*size).save(tmp_path / "faces/1.png")
    original, other = decode(tmp_path / "faces", 148 / 178, image_size)
    # 109 is not quite half of 218 / 178 * 89; a crop one source pixel off would differ by 1.4.
    assert np.abs(original - other).max() <= 2
    assert np.abs(original - other).mean() < 0.5
    assert abs((original - other)[:2].mean()) < 0.3


def test_crop_is_the_usual_centre_crop_of_148(tmp_path):
    (tmp_path / "faces").mkdir()
    image = Image.fromarray(noise(1, 218, 178, 3)[0])
    image.save(tmp_path / "faces/0.png")
    usual = torchvision.transforms.Compose(
        [torchvision.transforms.CenterCrop(148), torchvision.transforms.Resize(64)]
    )(image)
    (ours,) = decode(tmp_path / "faces", 148 / 178)
    assert np.array_equal(ours, np.asarray(usual).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(40, 20), (20, 40)])
def test_folder_crop_is_the_centred_square(size, tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    middle = slice(10, 30)
    pixels[(slice(None), middle) if size[0] == 40 else (middle, slice(None))] = 200
    Image.fromarray(pixels).save(tmp_path / "a/0.png")
    (image,) = decode(tmp_path / "a", size=16)
    assert (image == 200).all()


def test_every_mode_becomes_rgb_and_rotation_is_honoured(tmp_path):
    (tmp_path / "a").mkdir()
    for index, mode in enumerate(["L", "RGBA", "P", "1", "RGB"]):
        Image.new(mode, (8, 8), 1 if mode in "1P" else "white").save(tmp_path / f"a/{index}.png")
    turned = Image.new("RGB", (16, 16))
    turned.paste((255, 255, 255), (0, 0, 16, 8))  # white above; orientation 6 turns it clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a/9.jpg", exif=exif, quality=100)
    images = decode(tmp_path / "a", size=8)
    assert images.shape == (6, 3, 8, 8)
    assert (images[[0, 1, 3, 4]] == 255).all()
    assert images[5, :, :, 5:].min() > 240 and images[5, :, :, :3].max() < 15


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff"])
def test_sixteen_bits_keep_their_greys(suffix, tmp_path):
    deep = (257 * np.arange(256, dtype=np.uint16)).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / f"0.{suffix}")
    (image,) = decode(tmp_path, size=16)
    assert np.array_equal(image, np.broadcast_to(np.arange(256).reshape(16, 16), (3, 16, 16)))


@pytest.mark.parametrize("kind, suffix", [("uint16", "png"), ("uint16", "tif"), ("int32", "tif")])
def test_eight_or_twelve_bits_in_sixteen_are_refused(kind, suffix, tmp_path):
    names = [f"{index}.{suffix}" for index in range(3)]
    for name, largest in zip(names, (0, 255, 4095), strict=True):
        deep = np.zeros((8, 8), kind)
        deep[3] = largest
        Image.fromarray(deep).save(tmp_path / name)
    with pytest.raises(DataError, match=rf"/2\.{suffix}: .* 4095 is the largest.* almost black"):
        decode_files(tmp_path, names, image_size=8)
    assert not decode_files(tmp_path, names[:1], image_size=8).images.any()  # black it is
    Image.fromarray(np.full((8, 8), 4096, kind)).save(tmp_path / f"bright.{suffix}")
    assert len(decode_files(tmp_path, [*names, f"bright.{suffix}"], image_size=8).images) == 4


@pytest.mark.parametrize("values", [np.full((8, 8), 0.5, np.float32), np.full((8, 8), -1)])
def test_values_of_no_known_range_are_not_guessed(values, tmp_path):
    Image.fromarray(values.astype("int32" if values.dtype.kind == "i" else "float32")).save(
        tmp_path / "0.tif"
    )
    assert decode_files(tmp_path, ["0.tif"], image_size=8).failed == [0]


def test_transparency_is_composed_over_white_and_said(tmp_path):
    fill_folder(tmp_path / "mine", 98)
    Image.new("RGBA", (8, 8), (200, 0, 100, 51)).save(tmp_path / "mine/a.png")
    palette = Image.new("P", (8, 8), 3)
    palette.save(tmp_path / "mine/b.gif", transparency=3)
    images = decode(tmp_path / "mine", size=8)
    assert [int(c[0, 0]) for c in images[98]] == [244, 204, 224]  # 0.2 of it and 0.8 of white
    assert (images[99] == 255).all()
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert "80/10/10; 2 images with transparency, composed over white" in splits.source


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    fill_folder(tmp_path / "mine", 100)
    lost = tmp_path / "mine/lost"
    lost.mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path) == str(lost):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    said = f"{lost}: cannot be read (Permission denied)"
    fail_line(DataError, said, name="folder", data=tmp_path / "mine")


def test_decoding_happens_once_and_reports_progress(tmp_path, fresh_cache):
    fill_folder(tmp_path / "mine", 150)
    calls: list[tuple[int, int]] = []

    def load(**more: object) -> Splits:
        calls.clear()
        return load_images(
            "folder",
            data=tmp_path / "mine",
            progress=lambda done, total: calls.append((done, total)),
            **{"image_size": 8, **more},  # type: ignore[arg-type]
        )

    first = load()
    assert calls[-1] == (150, 150)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    (name,) = entries(fresh_cache)
    assert names_in(fresh_cache / name) == ["about.json", "test.npy", "train.npy", "val.npy"]
    second = load()
    assert not calls and second.content_hash == first.content_hash
    load(image_size=9)
    assert calls, "another size does"
    load()
    os.utime(tmp_path / "mine/0003.png", ns=(1, 1))
    load()
    assert calls, "a file changed"
    (tmp_path / "mine/0003.png").unlink()
    load()
    assert calls[-1] == (149, 149)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, fresh_cache, caplog):
    fill_folder(tmp_path / "mine", 100)
    fresh_cache.parent.write_text("a file where the folder should be")
    splits = load_images("folder", data=tmp_path / "mine", image_size=8)
    assert len(splits.train) == 80
    assert "not cached" in caplog.text


def test_an_interrupted_decoding_leaves_no_cache(tmp_path, fresh_cache):
    fill_folder(tmp_path / "mine", 200)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_images("folder", data=tmp_path / "mine", image_size=8, progress=stop)
    assert entries(fresh_cache) == []


def test_an_unfinished_cache_file_is_removed(tmp_path, fresh_cache, monkeypatch):
    fill_folder(tmp_path / "mine", 100)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pythae_fif.data.cache.np.save", full)
    assert len(load_images("folder", data=tmp_path / "mine", image_size=8).train) == 80
    assert entries(fresh_cache) == []
