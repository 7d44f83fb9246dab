"""Text from outside, as it is shown to people: it stays on its line and moves no terminal."""

from __future__ import annotations

import re

# Control characters (Unicode's Cc), the other two ends of lines, what turns the direction of
# writing, and the halves of pairs by which Python has bytes that are no text.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def literal(text: str) -> str:
    r"""`text` with every character that a terminal obeys escaped: `\n`, `\x1b`, `\u202e`."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
