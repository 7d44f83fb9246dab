//! The data plane: listens, words the answers, maps messages to rules, sweeps what expired, and stops.
