"""HTTP/1.1 on asyncio's connections, parsed in C: what the tenant's endpoint is served with.

Bodies come and go in pieces; whoever is slow stops whoever sends. Nothing here knows what is in a
message, nor what Kubernetes is.
"""
