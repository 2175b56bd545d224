"""A real Slurm of one node, made on the fly. Needs Debian's `slurm-wlm` and `munge`; the daemons
run as the user that starts them, which has to be root, from a folder of their own."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from support.processes import until

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
KillWait=5
MpiDefault=none
ReturnToService=2
NodeName={host} CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES
"""


def missing() -> str:
    """Why no Slurm can be started here; empty if it can."""
    absent = [name for name in (*DAEMONS, "sbatch", "srun") if _find(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started by root"


@contextlib.contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Within the block a Slurm is up; yields the environment in which its commands find it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host, ports = socket.gethostname().partition(".")[0], _free_ports(2)
    (folder / "slurm.conf").write_text(CONFIG.format(host=host, ports=ports, folder=folder))
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    folder.chmod(0o755)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log",
             "seed-file": "seed"}  # fmt: skip
    commands = {
        "munged": ["--foreground", "--force", *(f"--{k}={folder}/munge.{munge[k]}" for k in munge)],
        "slurmctld": ["-D", "-i"],
        "slurmd": ["-D", "-N", host],
    }
    processes, quiet = [], subprocess.DEVNULL
    try:
        for name, words in commands.items():
            command = [_find(name), *words]
            processes.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))
            if name == "munged":
                until((folder / "munge.socket").exists, 30)
        until(lambda: _idle(environment), 30)
        yield environment
    finally:
        subprocess.run(["scancel", "--me"], env=environment, timeout=30, capture_output=True)
        time.sleep(1)
        for process in reversed(processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def _idle(environment: dict[str, str]) -> bool:
    command = ["sinfo", "--noheader", "--format=%t"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return "idle" in done.stdout.split()
