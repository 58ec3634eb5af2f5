"""What all property tests share: on a busy machine an example may take its time."""

from hypothesis import settings

# The default gives each example 200 ms, and ten of them a second to be drawn: one pause of the
# process is a failure then. What must be quick has a test that says so.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
