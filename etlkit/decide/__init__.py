"""Decisions, pure: standard library only, no I/O, no thread, no clock."""
