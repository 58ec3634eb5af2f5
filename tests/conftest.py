"""What all tests share: a directory for what the workers of one run have in common.

And the fixtures on real clusters, here so that one worker's tests in several directories share one
virtual cluster.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fixtures import (
    host,
    namespace,
    pair,
    pytest_runtest_makereport,
    syncer,
    tenant,
    virtual,
    worker_name,
)
from tests.integration.shared_host import SharedHost

__all__ = [
    "host",
    "namespace",
    "pair",
    "pytest_runtest_makereport",
    "syncer",
    "tenant",
    "virtual",
    "worker_name",
]

_SHARED = pytest.StashKey[SharedHost]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the directory in the process that people start; workers are told of it."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None:
        shared = SharedHost.create(Path(tempfile.mkdtemp(prefix="syncer-tests-")))
    else:
        shared = SharedHost(Path(worker["shared_directory"]), worker["shared_owner"])
    config.stash[_SHARED] = shared


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the directory is."""
    shared = node.config.stash[_SHARED]
    node.workerinput["shared_directory"] = str(shared.directory)
    node.workerinput["shared_owner"] = shared.lives_with


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the shared host, if one was booted, and remove the directory."""
    if hasattr(config, "workerinput") or _SHARED not in config.stash:
        return
    shared = config.stash[_SHARED]
    shared.end()
    shutil.rmtree(shared.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_host(pytestconfig: pytest.Config) -> SharedHost:
    """Give the means to boot or find the host plane of this run."""
    return pytestconfig.stash[_SHARED]
