"""Starts a real Slurm with one node.

It needs Debian's packages `slurm-wlm` and `munge`. The daemons run as the user that starts them,
who must be root, with a temporary folder for all their files.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from support.processes import wait_until

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
    """Returns why Slurm cannot be started here; empty if it can."""
    absent = [name for name in (*DAEMONS, "sbatch", "srun") if _find(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "only root can start Slurm's daemons"


@contextlib.contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Runs Slurm during the block; yields the environment in which its commands find it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    host = socket.gethostname().partition(".")[0]
    _write_configuration(folder, host)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge_files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log",
                   "seed-file": "seed"}  # fmt: skip
    munge_flags = [f"--{flag}={folder}/munge.{name}" for flag, name in munge_files.items()]
    daemon_flags = {
        "munged": ["--foreground", "--force", *munge_flags],
        "slurmctld": ["-D", "-i"],
        "slurmd": ["-D", "-N", host],
    }

    processes = []
    try:
        for name, flags in daemon_flags.items():
            process = subprocess.Popen(
                [_find(name), *flags],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            processes.append(process)
            if name == "munged":
                wait_until((folder / "munge.socket").exists, 30)
        wait_until(lambda: _is_idle(environment), 30)
        yield environment

    finally:
        subprocess.run(["scancel", "--me"], env=environment, timeout=30, capture_output=True)
        time.sleep(1)
        for process in reversed(processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _write_configuration(folder: Path, host: str) -> None:
    """Writes the configuration of the daemons, and creates their folders."""
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    config = CONFIG.format(host=host, ports=_free_ports(2), folder=folder)
    (folder / "slurm.conf").write_text(config)
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    folder.chmod(0o755)


def _find(name: str) -> str | None:
    """Returns the path of a program; daemons may be outside the user's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    """Returns ports that no program uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free_socket in sockets:
            free_socket.bind(("", 0))
        return [free_socket.getsockname()[1] for free_socket in sockets]


def _is_idle(environment: dict[str, str]) -> bool:
    """Returns whether the node can take jobs."""
    command = ["sinfo", "--noheader", "--format=%t"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return "idle" in result.stdout.split()
