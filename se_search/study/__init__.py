"""Definitions of spaces and studies."""
