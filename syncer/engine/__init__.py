"""Queue, reconcile, writer: moves objects between two API servers, whatever their kind."""
