"""Who used what: the shapes of usage and of questions about it."""
