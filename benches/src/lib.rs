//! Measurements: a bare tonic echo beside the sidecar, in one run.
