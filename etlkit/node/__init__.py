"""A pod's world on this machine: real limits, real restarts, and the API endpoints that a pod calls."""
