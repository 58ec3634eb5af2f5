"""The tenant's API endpoint: TLS, who is calling, what goes to which API server, and back."""
