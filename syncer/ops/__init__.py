"""For operators: logging, metrics and health."""
