"""Tables of the archive's form, with random rows, and own tables."""

import io
import pickle

import numpy as np

ROWS = 400
LATENT = {"power": 3, "gas": 2, "hepmass": 10, "miniboone": 21}


def named(name, module="pandas.core.frame"):
    """A class that pickles by that name, its instances by protocol 2 with ``content`` as state."""
    getstate = lambda self: self.content  # noqa: E731
    return type(name, (), {"__module__": module, "__getstate__": getstate})


DataFrame = named("DataFrame")
BlockManager = named("BlockManager", "pandas.core.internals")
Index = named("Index", "pandas.indexes.base")
NewIndex = named("_new_Index", "pandas.indexes.base")


class OldPickler(pickle._Pickler):
    """Writes classes by name without asking whether they can be imported."""

    def save_global(self, obj, name=None):
        if isinstance(obj, type) and obj.__module__.startswith("pandas."):
            self.write(f"c{obj.__module__}\n{obj.__name__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch = dict(pickle._Pickler.dispatch) | {type: save_global}


class Made:
    """Pickles as ``function(*args)``."""

    def __init__(self, function, args):
        self.parts = (function, args)

    def __reduce__(self):
        return self.parts


def old_frame(columns):
    """A data frame as pandas 0.19 of Python 2 wrote it: protocol 2, one block of floats."""
    labels = np.array(list(columns), dtype=object)
    values = np.stack(list(columns.values()))
    axes = [
        Made(NewIndex, (Index, {"data": labels, "name": None})),
        Made(NewIndex, (Index, {"data": np.arange(values.shape[1]), "name": None})),
    ]
    whole = {"axes": axes, "blocks": [{"values": values, "mgr_locs": slice(0, len(labels), 1)}]}
    state = (axes, [values], [axes[0]], {"0.14.1": whole})
    manager, frame = BlockManager(), DataFrame()
    manager.content = state
    frame.content = {"_metadata": [], "_typ": "dataframe", "_data": manager}
    file = io.BytesIO()
    OldPickler(file, protocol=2).dump(frame)
    return file.getvalue()


def gas_columns():
    """Time, two concentrations and 16 sensors, of which 8 are nearly the same as others."""
    rng = np.random.default_rng(0)
    sensors = rng.normal(size=(8, ROWS))
    columns = {name: rng.normal(size=ROWS) for name in ("Time", "Meth", "Eth")}
    for i in range(8):
        columns[f"s{i}a"] = sensors[i]
        columns[f"s{i}b"] = sensors[i] + 0.01 * rng.normal(size=ROWS)
    return columns


def write_archive(root):
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
        header += ",mass" if part == "test" else ""  # as in the archive: a name too many
        lines = [",".join(map(repr, map(float, row))) for row in np.c_[label, features]]
        (root / "hepmass" / f"1000_{part}.csv").write_text("\n".join([header, *lines]) + "\n")


def table(rows=120, columns=3):
    return np.random.default_rng(1).normal(3, 2, size=(rows, columns))


def write_csv(path, rows, header="a,b,c"):
    path.write_text("\n".join([header, *(",".join(map(repr, r.tolist())) for r in rows)]) + "\n")
