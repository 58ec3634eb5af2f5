"""One module a kind: pure functions on plain objects, gathered in a frozen ``KIND`` record."""
