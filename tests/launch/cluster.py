"""A real SLURM on this machine, of two nodes that are both here, on loopback with its own keys, ports and state."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NODES = ("n1", "n2")
ELEMENTS = 2  # a job array has at most so many, so that a sweep of three cells is two arrays
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")

CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser={user}
SlurmdUser={user}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MaxArraySize={elements}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=10
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no SLURM can be started here, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        return f"NOT TESTED AGAINST SLURM: {', '.join(absent)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "NOT TESTED AGAINST SLURM: its daemons are started by root only"


class Cluster:
    """Daemons in the foreground, children of this process, so that none is left behind.

    Attributes:
        environment: for commands that are to talk to this SLURM.
    """

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder = folder
        for name in ("munge", "state", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        conf = folder / "slurm.conf"
        user, host = getpass.getuser(), socket.gethostname().split(".")[0]
        conf.write_text(
            CONF.format(folder=folder, user=user, host=host, cpus=cpus, elements=ELEMENTS, ports=_free_ports(3))
        )
        self.environment = os.environ | {
            "SLURM_CONF": str(conf),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        munge = folder / "munge"
        self._start(
            *("munged", "munged", "--foreground", "--force"),  # forced: the folder may be under a private /tmp folder
            *(f"--key-file={key}", f"--socket={munge / 'socket'}", f"--pid-file={munge / 'pid'}"),
            *(f"--log-file={munge / 'log'}", f"--seed-file={munge / 'seed'}"),
        )
        wait_until((munge / "socket").exists, 20, "munged")
        self._start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.say("sinfo", "-h", "-o%T %D").strip() == "idle 2", 60, "SLURM's nodes")

    def start_node(self, node: str) -> None:
        """Start a node's daemon."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill a node's daemon; the jobs on the node go on, as SLURM means them to."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def say(self, *command: str) -> str:
        """What a command of SLURM prints; nothing if it fails, as while a daemon starts."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    def hurry(self) -> None:
        """Start requeued jobs now; SLURM lets them wait for two minutes."""
        for line in self.say("squeue", "--noheader", "--array", "--format=%F_%K %r").splitlines():
            job, reason = line.split()
            if reason == "BeginTime":
                self.say("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop(self) -> None:
        """End all jobs, then all daemons."""
        self.say("scancel", "--full", f"--user={getpass.getuser()}")
        self.say("scancel", "--signal=KILL", f"--user={getpass.getuser()}")
        deadline = time.monotonic() + 20
        while self.say("squeue", "--noheader").strip() and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(self._daemons.values()):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._kill_orphans()

    def _kill_orphans(self) -> None:
        """What a test that failed has left of jobs, known by their environment."""
        mine = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mine in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
            except OSError:
                continue  # it has ended

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )


def wait_until(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.2) -> None:
    """Wait for `condition`, or fail the test."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(every)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
