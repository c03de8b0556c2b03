"""Content codings: which one a client takes."""

import re
from collections.abc import Sequence

# For zlib: RFC 9110, section 8.4.1, whose deflate is the zlib format.
WINDOW_BITS = {"gzip": 31, "deflate": 15}

# content-coding [ OWS ";" OWS "q=" qvalue ]. Possessive quantifiers: an item that does not match is
# ignored in time linear in its length.
_match_item = re.compile(
    r"([!#$%&'*+.^_`|~0-9a-z-]++)(?:[ \t]*+;[ \t]*+q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?", re.I
).fullmatch


def choose_coding(accepted: str, offered: Sequence[str]) -> str | None:
    """The content coding to answer with; "identity" for none; None if all are excluded.

    RFC 9110, section 12.5.3. Between equal weights, what is offered first wins, before identity.

    Args:
        accepted: Accept-Encoding, of several lines joined by commas; empty without it.
        offered: codings that the answer could have.
    """
    items = map(_match_item, (item.strip(" \t") for item in accepted.split(",")))
    weights = {item[1].lower(): float(item[2] or 1) for item in items if item}
    weights.setdefault("gzip", weights.get("x-gzip", weights.get("*", 0)))
    others = weights.get("*")
    best = max(offered, key=lambda coding: weights.get(coding, others or 0))
    weight = weights.get(best, others or 0)
    if weight and weight >= weights.get("identity", 0):
        return best
    return None if weights.get("identity", others) == 0 else "identity"
