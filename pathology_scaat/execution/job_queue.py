"""Cluster profiles: a page of YAML that says how a job queue is asked for workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pathology_scaat.errors import ConfigError

CLASSES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
}
MAX_PROFILE_BYTES = 1 << 20


class ClusterProfile(BaseModel):
    """How workers are asked for.

    ``options`` go to the class of dask-jobqueue as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_system: Literal["slurm", "pbs", "sge", "lsf", "htcondor", "oar"] = Field(
        description="which job queue"
    )
    jobs: int = Field(
        default=4, ge=1, description="queue jobs to ask for; with adaptive, at most so many"
    )
    adaptive: bool = Field(default=False, description="start and end queue jobs as the work needs")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="cores, processes, memory, walltime, queue, account, ...: see dask-jobqueue",
    )


def read_profile(path: Path) -> ClusterProfile:
    """Read a cluster profile.

    Raises
    ------
    ConfigError
        If the file is missing, not YAML or says something unknown.
    """
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise ConfigError(path.name, "is larger than 1 MiB", "this is no cluster profile")
        value = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        return ClusterProfile.model_validate(value)
    except OSError as error:
        raise ConfigError(
            path.name, f"cannot be read ({error.strerror})", "check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise ConfigError(path.name, "is not valid YAML", "correct it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            path.name, f"{where}: {first['msg'].lower()}", "see pipelines/cluster-slurm.yaml"
        ) from None


def start_cluster(path: Path) -> Any:
    """Start the cluster of a profile; a context manager that ends it.

    Raises
    ------
    ConfigError
        If the profile cannot be used, or dask-jobqueue is not installed.
    """
    profile = read_profile(path)
    try:
        import dask_jobqueue
    except ImportError:
        raise ConfigError(
            path.name, "needs dask-jobqueue", "pip install 'pathology-scaat[cluster]'"
        ) from None
    try:
        cluster = getattr(dask_jobqueue, CLASSES[profile.queue_system])(**profile.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            path.name, f"its options are not accepted ({error})", "see dask-jobqueue's manual"
        ) from None
    if profile.adaptive:
        cluster.adapt(minimum_jobs=0, maximum_jobs=profile.jobs)
    else:
        cluster.scale(jobs=profile.jobs)
    return cluster
