"""The names of models and tiers: what a provider calls them against what was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What a provider calls its usual tier, against our name for it.
_STANDARD_TIERS = frozenset({"default", "auto", "standard"})

_DAY = r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"

# `gpt-4.1-mini-2025-04-14`, `gpt-4-0613`, `claude-sonnet-4-5-20250929` and Vertex's
# `claude-sonnet-4-5@20250929` are dated names.
_DATE = re.compile(rf"(?:-\d{{4}}-\d{{2}}-\d{{2}}|-{_DAY}|[-@]20\d{{2}}{_DAY})\Z")

# Names that stand for whatever is newest.
_NEWEST = "-latest"


def split_model(answered: str, models: Sequence[str]) -> tuple[str, str]:
    """Gives the model to report (empty: the granted one) and the version of it that answered.

    `models` are those asked for, the granted one first. Another of them is reported where it
    answered. A name that is none of theirs is an alias or a deployment, which only its owner can
    tell from another model: it is the version, and usage stays where it was granted.
    """
    if not answered:
        return "", ""
    undated = _DATE.sub("", answered)
    granted, *others = models
    if _names(granted) & _names(answered):
        return "", answered if undated != answered else ""
    said = _names(answered) | _names(undated)
    other = "" if _names(granted) & said else next((m for m in others if _names(m) & said), "")
    known = other and undated == answered
    return other, "" if known else answered


def _names(model: str) -> frozenset[str]:
    """What a model may be called: with its provider, or provider of a provider, and without."""
    parts = model.split("/")
    names = {"/".join(parts[start:]) for start in range(len(parts))}
    return frozenset(names | {name.removesuffix(_NEWEST) for name in names} - {""})


def tier(said: str) -> str:
    """The tier by our name for it; empty where the provider does not say."""
    return "standard" if said in _STANDARD_TIERS else said
