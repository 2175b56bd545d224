"""Tables of the archive's form, with random rows, and own tables."""

import pickle

import numpy as np

ROWS = 400
LATENT = {"power": 3, "gas": 2, "hepmass": 10, "miniboone": 21}


class Made:
    """Pickles as ``function(*args)`` with a state."""

    def __init__(self, function, args=(), state=None):
        self.parts = (function, args, state)

    def __reduce__(self):
        return self.parts


def old_frame(columns):
    """A data frame as pandas 0.19 of Python 2 wrote it, one block of floats, by protocol 2."""
    labels = np.array(list(columns), dtype=object)
    values = np.stack(list(columns.values()))
    axes = [Made(Made, (Made, {"data": labels, "name": None}))]
    whole = {"axes": axes, "blocks": [{"values": values, "mgr_locs": slice(0, len(labels), 1)}]}
    manager = Made(Made, state=(axes, [values], axes, {"0.14.1": whole}))
    return pickle.dumps(Made(Made, state={"_typ": "dataframe", "_data": manager}), protocol=2)


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
