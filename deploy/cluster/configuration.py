"""Slurm's configuration: one machine without GPUs plays several nodes with GPUs."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cluster.errors import NotPreparedError
from cluster.launch import host
from cluster.layout import CLUSTER_NAME, LOOPBACK, Layout
from cluster.writing import write

_CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "freezer", "cpuacct")


def cgroups_possible() -> bool:
    """Whether jobs can be held to their memory here: root, and cgroup v1 in its usual place."""
    return os.geteuid() == 0 and all(
        (_CGROUPS / name / "tasks").exists() and os.access(_CGROUPS / name, os.W_OK) for name in _CONTROLLERS
    )


def remove_cgroups(layout: Layout) -> None:
    """Take away the empty cgroups that slurmd leaves behind."""
    for node in layout.nodes:
        for top in _CGROUPS.glob(f"*/slurm_{node}"):
            for folder in sorted((top, *(entry for entry in top.rglob("*") if entry.is_dir())), reverse=True):
                # Nodes of another cluster have the same names, and may still use theirs.
                with suppress(OSError):
                    folder.rmdir()


def configure_slurm(layout: Layout) -> None:
    """Write what slurmctld, slurmd and every command read, the simulated GPUs, and munge's key.

    Raises:
        NotPreparedError: Memory limits are wanted that this machine cannot give.
    """
    if layout.settings.cgroup and not cgroups_possible():
        raise NotPreparedError(f"memory limits need root and cgroup v1 at {_CGROUPS}")
    key = layout.etc / "munge.key"
    if not key.exists():
        write(key, secrets.token_hex(512), 0o600)
    for node in layout.nodes:
        for number in range(layout.settings.gpus):
            # slurmd insists on a device, and takes its index from the digits at the end of the name.
            device = layout.dev / f"{node}-gpu{number}"
            if not device.is_symlink():
                device.symlink_to("/dev/null")
    write(layout.slurm_conf, _slurm(layout))
    write(layout.etc / "gres.conf", _gres(layout))
    write(
        layout.etc / "cgroup.conf",
        f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={_CGROUPS}\nCgroupAutomount=no\nConstrainRAMSpace=yes\n",
    )


def _gres(layout: Layout) -> str:
    return "".join(
        f"NodeName={node} Name=gpu Type=h100 File={layout.dev}/{node}-gpu{number}\n"
        for node in layout.nodes
        for number in range(layout.settings.gpus)
    )


def _nodes(layout: Layout) -> str:
    settings = layout.settings
    gpus = f" Gres=gpu:h100:{settings.gpus}" if settings.gpus else ""
    return "".join(
        f"NodeName={node} NodeHostname={host()} NodeAddr={LOOPBACK} Port={layout.slurmd_port(node)}"
        f" CPUs={settings.cpus} RealMemory={settings.memory_mb}{gpus} State=UNKNOWN\n"
        for node in layout.nodes
    )


def _limits(layout: Layout) -> str:
    if layout.settings.cgroup:
        return """\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
"""
    return """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
"""


def _accounting(layout: Layout) -> str:
    if layout.settings.accounting == "none":
        return "AccountingStorageType=accounting_storage/none\n"
    # Clients of slurmdbd do not read AuthInfo: to them the socket is the password.
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={LOOPBACK}
AccountingStoragePort={layout.slurmdbd_port}
AccountingStoragePass={layout.munge_socket}
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment,job_script
"""


def _slurm(layout: Layout) -> str:
    settings = layout.settings
    return f"""\
ClusterName={CLUSTER_NAME}
SlurmctldHost={host()}({LOOPBACK})
SlurmctldPort={layout.slurmctld_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
CredType=cred/munge
SlurmUser=root
SlurmdUser=root

SlurmctldPidFile={layout.pid_file("slurmctld")}
SlurmctldLogFile={layout.log}/slurmctld.log
StateSaveLocation={layout.var}/slurmctld
SlurmdPidFile={layout.pid_file("slurmd.%n")}
SlurmdLogFile={layout.log}/slurmd.%n.log
SlurmdSpoolDir={layout.var}/slurmd.%n
LogTimeFormat=iso8601_ms

SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
PrologFlags=Alloc
{_limits(layout)}JobAcctGatherFrequency=task=2

MessageTimeout={settings.message_timeout}
SlurmdTimeout={settings.slurmd_timeout}
SlurmctldTimeout=10
MinJobAge={settings.min_job_age}
KillWait={settings.kill_wait}
ReturnToService=2

# Every two seconds and at every submission, not every half minute: tests wait for jobs.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2,bf_resolution=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

JobCompType=jobcomp/filetxt
JobCompLoc={layout.log}/jobcomp.log
{_accounting(layout)}
{_nodes(layout)}
PartitionName=gpu Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE PriorityTier=10
PartitionName=low Nodes=ALL DefaultTime=60 MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
PartitionName=lowc Nodes=ALL DefaultTime=60 MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL
"""
