//! Text in, number of tokens out.
