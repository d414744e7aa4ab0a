"""Kubernetes manifests: what `etlkit manifest` prints, and the rules that `etlkit lint` holds a manifest to."""
