"""Clients of the wire format that are written from docs/delivery.md alone."""
