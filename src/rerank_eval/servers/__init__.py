"""Servers that score or embed: what goes over the wire, and what comes back."""
