"""Talks to API servers: configuration, client, informers, stores, event recorder."""
