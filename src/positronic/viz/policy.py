"""What a page may do: run one script, wear one style, ask nobody. The policy stands in the page itself.

A browser that reads this policy runs and applies only what has these SHA-256 digests. So a script that gets into the
page with a text, by whatever gap in escaping, is not run: neither inline nor by an attribute nor by an address.
"""

import base64
import hashlib

__all__ = ["policy"]


def policy(style: str, script: str = "") -> str:
    """The `<meta>` for a page with this text between its style tags and, if any, between its script tags.

    A page with a script may import modules that the script itself makes, and show pictures of its own.
    """
    allowed = {
        "default-src": "'none'",
        "script-src": f"{_digest(script)} blob:" if script else "'none'",
        "style-src": _digest(style),
        "img-src": "data: blob:" if script else "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    content = "; ".join(f"{what} {where}" for what, where in allowed.items())
    return f'<meta http-equiv="Content-Security-Policy" content="{content}">'


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
