"""The names of models and tiers: a provider's dated ones against those that were granted."""

from __future__ import annotations

import re

# What a provider calls its usual tier, against our name for it.
_STANDARD_TIERS = frozenset({"default", "auto", "standard"})

_DAY = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"

# `gpt-4.1-mini-2025-04-14`, `gpt-4-0613`, `claude-sonnet-4-5-20250929` and Vertex's
# `claude-sonnet-4-5@20250929` are dated names.
_DATE = re.compile(rf"(?:-\d{{4}}-\d{{2}}-\d{{2}}|-{_DAY}|[-@]20\d{{2}}{_DAY})\Z")

# Names that stand for whatever is newest.
_NEWEST = "-latest"


def split_model(answered: str, granted_model: str) -> tuple[str, str]:
    """Gives the model to report (empty: the granted one) and its dated name (empty: not dated)."""
    undated = _DATE.sub("", answered)
    provider, _, granted = granted_model.rpartition("/")
    version = answered if undated != answered else ""
    if not answered or {granted, granted.removesuffix(_NEWEST)} & {answered, undated}:
        return "", version
    return f"{provider}/{undated}" if provider else undated, version


def tier(said: str) -> str:
    """The tier by our name for it; empty where the provider does not say."""
    return "standard" if said in _STANDARD_TIERS else said
