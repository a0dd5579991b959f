"""A real SLURM of one node in a folder of its own, beside whatever the machine has, with its own ports and sockets.

Needs the programs (Debian: munge slurmctld slurmd slurm-client) and, as slurmd does, root.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")

CONFIGURATION = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
StateSaveLocation={folder}/ctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=1,sched_min_interval=100000,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SwitchType=switch/none
InactiveLimit=0
KillWait=10
MinJobAge=300
MaxArraySize={max_array_size}
MaxJobCount=20000
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=normal Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class CannotStartError(Exception):
    """SLURM cannot be started here."""


class SlurmCluster:
    """Its daemons are children of this process; its commands and jobs find it by `SLURM_CONF`."""

    def __init__(self, folder: Path, *, cpus: int = 4, max_array_size: int = 1001) -> None:
        missing = [name for name in PROGRAMS if find(name) is None]
        if missing:
            raise CannotStartError(f"{', '.join(missing)} not installed")
        if os.geteuid() != 0:
            raise CannotStartError("slurmd must run as root")
        self.folder = folder
        self.daemons: list[subprocess.Popen] = []
        self.log = (folder / "daemons.log").open("wb")
        host = socket.gethostname().split(".")[0]
        for name in ("ctld", "slurmd"):
            (folder / name).mkdir()
        values = {"host": host, "folder": folder, "cpus": cpus, "max_array_size": max_array_size}
        values["controller_port"], values["node_port"] = free_ports(2)
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        try:
            files = [f"--{kind}-file={folder / 'munge'}.{kind}" for kind in ("key", "pid", "log", "seed")]
            self._start("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
            self._wait("munged", (folder / "munge.socket").exists)
            self._start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
            self._wait("slurmctld", lambda: "UP" in self("scontrol", "ping", check=False))
            self._start("slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", host)
            self._wait("the node", lambda: self("sinfo", "-h", "-o", "%t", check=False).split()[:1] == ["idle"])
        except CannotStartError:
            self.stop()
            raise

    def __call__(self, *command: str, check: bool = True) -> str:
        """Output of a command of SLURM."""
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.stderr}")
        return done.stdout

    def jobs(self, state: str = "") -> list[str]:
        """Elements in the queue, or those in a state."""
        chosen = [f"--states={state}"] if state else []
        return self("squeue", "-h", "-r", "-o", "%i", *chosen).split()

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        if len(self.daemons) == 3:
            self("scancel", "--user=root", check=False)
            for _ in range(100):
                if not self.jobs():
                    break
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.log.close()
        del os.environ["SLURM_CONF"]

    def _start(self, name: str, *arguments: str) -> None:
        self.daemons.append(
            subprocess.Popen([find(name), *arguments], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        )

    def _wait(self, what, condition) -> None:
        for _ in range(150):
            if condition():
                return
            time.sleep(0.2)
        tail = (self.folder / "daemons.log").read_text(errors="replace").splitlines()[-3:]
        raise CannotStartError(f"{what} does not come up: {' / '.join(tail)}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def find(name: str) -> str | None:
    """Daemons lie outside the usual path of a user."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
