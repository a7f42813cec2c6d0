"""Bridges to other tools; each imports its tool when it is imported, and is an extra."""
