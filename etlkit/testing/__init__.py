"""Helpers for tests, shipped: for authors of jobs and for ourselves. Nothing in etlkit itself imports them."""
