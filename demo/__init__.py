"""Shows the syncer at work on this machine: `make demo`, or `python -m demo`.

Two real control planes are booted, a syncer runs between them, and an application is applied to the
tenant's one with kubectl. Nothing is left behind.
"""
