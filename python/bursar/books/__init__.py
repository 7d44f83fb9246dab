"""The control plane's tables: usage as it was taken from the ledger, and up to where."""
