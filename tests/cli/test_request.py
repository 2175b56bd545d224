"""What a benchmark is asked for: the engine and its options, and shards of the plan."""

import itertools
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pythae_fif.cli.request import read_request, run_parser, shard_of
from pythae_fif.cli.run import engine_options
from pythae_fif.errors import ConfigError
from pythae_fif.runs.engines.common import cores
from pythae_fif.runs.engines.options import RayOptions, SlurmOptions, build_engine, minutes


def request(*flags: str):
    return read_request(run_parser("").given(list(flags)))


def options(*flags: str):
    return request(*flags).engine


class TestOptions:
    def test_flags_win_over_the_file(self, tmp_path):
        file = tmp_path / "cluster.yaml"
        file.write_text("engine: slurm\npartition: cpu\ntime: '01:00:00'\nsbatch: {mem: 8G}\n")
        file.with_name("ray.yaml").write_text("engine: slurm\nruns_per_gpu: 2.0\n")
        got = options("--engine-config", str(file), "--partition", "gpu", "--cpus-per-run", "3")
        assert got == SlurmOptions(
            partition="gpu", time="01:00:00", sbatch={"mem": "8G"}, cpus_per_run=3
        )
        assert options("--engine", "ray", "--engine-config", str(file.with_name("ray.yaml"))) == (
            RayOptions(runs_per_gpu=2)
        )
        assert options("--gpus", "0,2").gpus == [0, 2]
        sbatch = options("--engine", "slurm", "--sbatch", "mem=4G", "qos=low").sbatch
        assert sbatch == {"mem": "4G", "qos": "low"}
        words = ("--sbatch", "mem=4G,mail_type=BEGIN,END", "exclude=n1,n2")
        sbatch = options("--engine", "slurm", *words).sbatch
        assert sbatch == {"mem": "4G", "mail_type": "BEGIN,END", "exclude": "n1,n2"}

    @pytest.mark.parametrize(
        ("flags", "file", "message"),
        [
            (["--engine", "slrum"], "", "--engine 'slrum': did you mean 'slurm'? valid: local"),
            (["--partition", "gpu"], "", "engine local: --partition is for --engine slurm"),
            (["--engine", "ray", "--gpus", "0"], "", "engine ray: --gpus is for --engine local"),
            ([], "ray_address: auto", "engine local: unknown key 'ray_address': "),
            (["--runs-per-gpu", "0"], "", "--runs-per-gpu 0: at least 1"),
            (["--gpus", "1,1"], "", "--gpus [1, 1]: give at least one value, and none twice"),
            (["--gpus", "a"], "", "argument --gpus: 'a' is not I,J"),
            (["--engine", "slurm", "--sbatch", "mem"], "", "--sbatch: 'mem' is not KEY=VALUE"),
            (
                [],
                "engine: slurm\npartitoin: a",
                "key 'partitoin': did you mean 'partition'",
            ),
            ([], "engine: [ray]", "cluster.yaml: engine=['ray']: "),
            ([], "engine: slrum", "cluster.yaml: engine='slrum': did you mean 'slurm'?"),
            ([], "engine: slurm\ntime: 4:00:00", "time=14400: put it in quotes"),
            ([], "runs_per_gpu: '2'", "runs_per_gpu='2': a whole number is needed"),
        ],
    )
    def test_refused(self, flags, file, message, tmp_path):
        if file:
            (tmp_path / "cluster.yaml").write_text(file)
            flags = [*flags, "--engine-config", str(tmp_path / "cluster.yaml")]
        with pytest.raises(ConfigError) as error:
            options(*flags)
        assert message in str(error.value)

    @pytest.mark.parametrize("flags", [["--gpus", "7"], ["--cpus-per-run", "100000"]])
    def test_what_this_machine_has_not(self, flags):
        with pytest.raises(ConfigError, match=f"{flags[0]} {flags[1]}: .*this machine"):
            build_engine(options(*flags), Path())


def test_what_slurm_is_told_of_a_job(tmp_path, monkeypatch):
    """To submitit; the tests marked `slurm` have the real one."""
    told = {}

    class Executor:
        _valid_parameters = staticmethod(lambda: {"account", "partition", "cpus_per_task", "time"})

        def __init__(self, folder, max_num_timeout):
            pass

        def update_parameters(self, **parameters):
            told.update(parameters)

    name = "pythae_fif.runs.engines.slurm"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # so that it is forgotten afterwards
    del sys.modules[name]
    helpers = SimpleNamespace(DelayedSubmission=object)
    submitit = SimpleNamespace(SlurmExecutor=Executor, helpers=helpers)
    monkeypatch.setitem(sys.modules, "submitit", submitit)
    monkeypatch.setattr(shutil, "which", lambda command: command)
    flags = ["--account", "ours", "--partition", "gpu", "--cpus-per-run", "3", "--time", "01:30:00"]
    build_engine(options("--engine", "slurm", *flags, "--sbatch", "mem=4G"), tmp_path)
    assert told == {
        "account": "ours", "partition": "gpu", "cpus_per_task": 3, "time": 90,
        "additional_parameters": {"requeue": True, "job_name": "pythae-fif", "mem": "4G"},
    }  # fmt: skip


def test_lists_may_have_commas_and_spaces():
    flags = ["--models", "fif,ae", "vae", "--seeds=0,2", "--engine", "local", "--data", "a,b.npz"]
    asked = request("--dataset", "npz", *flags).experiment
    assert (asked.models, asked.seeds) == (["fif", "ae", "vae"], [0, 2])
    assert asked.data == os.path.abspath("a,b.npz")


@pytest.mark.parametrize("path", [".", "../pets/", "~/pets"])
def test_data_keep_their_name_however_they_are_given(tmp_path, monkeypatch, path):
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = request("--dataset", "folder", "--data", path).experiment
    assert asked.name == "folder-pets-resnet-quick" and asked.data == str(tmp_path / "pets")


class TestShards:
    @given(st.integers(0, 40), st.integers(1, 9))
    def test_union_is_the_plan(self, size, count):
        shards = [range(size)[shard_of(f"{index}/{count}")] for index in range(count)]
        assert sorted(itertools.chain(*shards)) == list(range(size))
        assert max(map(len, shards)) - min(map(len, shards)) <= 1

    @pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "0/0", "1/", "/3", "0.5/2"])
    def test_refused(self, text):
        with pytest.raises(ConfigError, match=r"--shard .*: needs i/n with i from 0"):
            shard_of(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's runs are alone on it")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], None),
        (["--wall-clock", "5s"], cores()),
        (["--wall-clock", "5s", "--cpus-per-run", "1"], 1),
        (["--wall-clock", "5s", "--engine", "ray"], None),
    ],
    ids=str,
)
def test_runs_under_a_wall_clock_do_not_share_the_cores(flags, expected):
    assert engine_options(request(*flags)).cpus_per_run == expected


@pytest.mark.parametrize("limit", ["-5", "--5", "-1-30", "1--2", "5:-1", "0", "", "-", "1:2:3:4"])
def test_what_is_no_time_limit(limit):
    with pytest.raises(ConfigError, match=f"^--time {limit}: needs minutes"):
        minutes(limit)
