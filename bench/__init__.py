"""Measures the syncer on a real pair, beside what the pair itself can do.

`python -m bench` boots a host and a virtual control plane and, for each kind of work, makes the
load twice: once with the syncer running, and once without it, the load program then making the
least writes that any syncer must cause (the *limit*). Machines differ and are noisy; the ratio of
two figures from one run says more than either.

`docs/performance.md` says what each figure means.
"""
