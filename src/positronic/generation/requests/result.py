"""What came of a request."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from positronic.generation.requests.conversation import Conversation
from positronic.nn.loop import LoopState
from positronic.tree import nodes

__all__ = ["DraftCount", "Result", "Seconds"]


class DraftCount(NamedTuple):
    """Draft tokens; the output has forwards + accepted tokens."""

    proposed: int
    accepted: int


class Seconds(NamedTuple):
    prefill: float
    """Until the prompt was read."""
    decode: float
    """From there to the last token, without what the caller did between pieces."""


@dataclass(frozen=True)
class Result:
    prompt_tokens: int
    """Tokens before the output, those of an earlier conversation included."""
    tokens: tuple[int, ...]
    """The output; a token that stopped it is the last one."""
    text: str
    """Without stop tokens and stop strings."""
    stop_reason: str
    """eot, stop_token (a chat turn's end), stop_string, length (max_new_tokens) or context (the model is full)."""
    forwards: int
    """Model calls after the prompt was read."""
    draft: DraftCount
    seconds: Seconds
    state: Conversation
    """What `generate(..., state=...)` goes on from."""

    @property
    def mean_loops(self) -> float | None:
        """Iterations of a loop that a token of the conversation took on average; None: no loop, or no state."""
        state = self.state.state
        counted = [] if state is None else [node for node in nodes(state.layers) if isinstance(node, LoopState)]
        if state is None or not counted or not int(state.position[0]):
            return None
        return float(counted[0].spent[0]) / int(state.position[0])

    def to_json(self) -> dict[str, Any]:
        """All but the conversation, in JSON values."""
        loops = self.mean_loops
        return ({} if loops is None else {"mean_loops": loops}) | {
            "prompt_tokens": self.prompt_tokens,
            "tokens": list(self.tokens),
            "text": self.text,
            "stop_reason": self.stop_reason,
            "forwards": self.forwards,
            "draft": self.draft._asdict(),
            "seconds": self.seconds._asdict(),
        }
