"""Writes tables of the archive's form, with random rows, and a user's tables."""

import io
import pickle
import struct
from typing import ClassVar

import numpy as np

ROWS = 400
LATENT = {"power": 3, "gas": 2, "hepmass": 10, "miniboone": 21}


class PickledCall:
    """An object that pickles as ``function(*args)`` with a state."""

    def __init__(self, function, args=(), state=None):
        self.parts = (function, args, state)

    def __reduce__(self):
        return self.parts


class Python2Pickler(pickle._Pickler):
    """A pickler that writes bytes as Python 2 does: as text."""

    def save_bytes(self, content):
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(content)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_bytes}


def old_frame(columns):
    """Returns a data frame as pandas 0.19 of Python 2 pickled it: one block of floats."""
    labels = np.array(list(columns), dtype=object)
    values = np.stack(list(columns.values()))
    index = PickledCall(PickledCall, (PickledCall, {"data": labels, "name": None}))
    axes = [index]
    block = {"values": values, "mgr_locs": slice(0, len(labels), 1)}
    content = {"axes": axes, "blocks": [block]}

    manager = PickledCall(PickledCall, state=(axes, [values], axes, {"0.14.1": content}))
    frame = PickledCall(PickledCall, state={"_typ": "dataframe", "_data": manager})
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(frame)
    return file.getvalue()


def gas_columns():
    """Returns time, two concentrations and 16 sensors; 8 sensors nearly repeat the others."""
    rng = np.random.default_rng(0)
    sensors = rng.normal(size=(8, ROWS))
    columns = {name: rng.normal(size=ROWS) for name in ("Time", "Meth", "Eth")}
    for i in range(8):
        columns[f"s{i}a"] = sensors[i]
        columns[f"s{i}b"] = sensors[i] + 0.01 * rng.normal(size=ROWS)
    return columns


def write_archive(root):
    """Writes the files of the four published tables, with random rows."""
    rng = np.random.default_rng(0)
    for name in LATENT:
        (root / name).mkdir()
    np.save(root / "power" / "data.npy", rng.normal(size=(ROWS, 8)))
    np.save(root / "miniboone" / "data.npy", rng.normal(5, 3, size=(ROWS, 43)))
    (root / "gas" / "ethylene_CO.pickle").write_bytes(old_frame(gas_columns()))

    for part, count in (("train", ROWS), ("test", ROWS // 2)):
        features = rng.normal(size=(count, 27))
        features[:, [3, 8, 12, 16, 20, 24]] = rng.integers(0, 3, size=(count, 6))  # repeated
        label = np.arange(count) % 2
        header = ",".join(["# label", *(f"f{i}" for i in range(27))])
        if part == "test":
            header += ",mass"  # a name too many, as in the archive
        lines = [",".join(map(repr, map(float, row))) for row in np.c_[label, features]]
        (root / "hepmass" / f"1000_{part}.csv").write_text("\n".join([header, *lines]) + "\n")


def table(rows=120, columns=3):
    """Returns random rows of a user's table."""
    return np.random.default_rng(1).normal(3, 2, size=(rows, columns))


def write_csv(path, rows, header="a,b,c"):
    """Writes a user's table as a CSV file."""
    lines = [header]
    for row in rows:
        lines.append(",".join(map(repr, row.tolist())))
    path.write_text("\n".join(lines) + "\n")
