"""Whether a model can hold a sequence."""

from positronic.errors import GenerationError

__all__ = ["check_context"]


def check_context(tokens: int, held: int) -> None:
    """Raise unless a model of `held` positions can hold that many tokens."""
    if tokens > held:
        raise GenerationError(
            f"The prompt brings the sequence to {tokens} tokens; the model holds {held}. "
            f"Shorten it by {tokens - held}, or start a new conversation."
        )
