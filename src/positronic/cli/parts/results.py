"""What is said of a text that was written."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from positronic.generation import Result

__all__ = ["describe_result"]


def describe_result(result: "Result") -> str:
    """One line about how a text came to be."""
    tokens, seconds = len(result.tokens), result.seconds
    rate = tokens / seconds.decode if seconds.decode else float("inf")
    drafts = f", {result.draft.accepted} of {result.draft.proposed} draft tokens kept" if result.draft.proposed else ""
    loops = "" if result.mean_loops is None else f", {result.mean_loops:.2f} loops a token"
    return (
        f"[{result.prompt_tokens} + {tokens} tokens, {result.forwards} forwards{drafts}{loops}, "
        f"{seconds.prefill:.2f} s + {seconds.decode:.2f} s, {rate:.1f} tokens/s, stopped by {result.stop_reason}]"
    )
