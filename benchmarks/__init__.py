"""Benchmark suites: each runs side by side with what it is compared with, in one run, on the same files, and reports ratios.

A suite is a module with ``NAME``, ``HELP``, ``add_arguments(parser)`` and ``measure(args) -> Result``; ``python -m
benchmarks.NAME`` and
``etlkit bench NAME`` run it. The parent process imports the standard library only, so that a child's peak memory is its own.
"""
