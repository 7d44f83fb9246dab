"""The control plane's doors: gRPC for operators, HTTP for probes and metrics."""
