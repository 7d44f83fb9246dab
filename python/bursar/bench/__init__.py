"""What `bursar bench` runs: a sidecar beside a bare echo, the load on both, and the audit."""
