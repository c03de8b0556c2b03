"""What a request accepts and knows already: Accept-Encoding and entity tags of RFC 9110.

item = content-coding [ OWS ";" OWS "q=" qvalue ]     entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE
"""

import re
from collections.abc import Sequence

# Possessive quantifiers: an item that does not match is ignored in time linear in its length.
_match_item = re.compile(
    r"([!#$%&'*+.^_`|~0-9a-z-]++)(?:[ \t]*+;[ \t]*+q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?", re.I
).fullmatch
_find_tags = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*+")').findall


def choose_coding(lines: Sequence[str]) -> str | None:
    """The content coding to answer with: "gzip" or "identity"; None if both are excluded.

    RFC 9110, section 12.5.3. Between equal weights, gzip wins.

    Args:
        lines: the value of each Accept-Encoding line, none for a request without one.
    """
    items = map(_match_item, (item.strip(" \t") for item in ",".join(lines).split(",")))
    weights = {item[1].lower(): float(item[2] or 1) for item in items if item}
    others = weights.get("*")
    gzip = weights.get("gzip", weights.get("x-gzip", others)) or 0
    if gzip and gzip >= weights.get("identity", 0):
        return "gzip"
    return None if weights.get("identity", others) == 0 else "identity"


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
