"""Reads result files only: metrics, tables. Never imports torch."""
