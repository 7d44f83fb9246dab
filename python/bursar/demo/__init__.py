"""What `bursar demo` runs: a real sidecar, real text, a stand-in for the model, and the proof."""
