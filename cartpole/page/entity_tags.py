"""Entity tags, by which a client says what it has: RFC 9110, section 8.8.3."""

import re
from collections.abc import Sequence

_find_tags = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*+")').findall


def names_tag(lines: Sequence[str], tag: str, weak: bool) -> bool:
    """Whether an If-Match or If-None-Match names the entity tag, or any tag by "*".

    RFC 9110, sections 8.8.3.2 and 13.1.

    Args:
        lines: the value of each line of the header.
        tag: a strong entity tag, with its quotes.
        weak: compare weakly, as If-None-Match does: W/"a" is "a". If-Match compares strongly.
    """
    value = ",".join(lines).strip(" \t")
    if value == "*":
        return True
    return any(found == tag and (weak or not mark) for mark, found in _find_tags(value))
