"""The version of this program, for ``syncer version``, metrics and the user agent."""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "vcluster-syncer"


def installed_version() -> str:
    """Give the installed version, or ``unknown`` when run from a tree that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
