"""Who sees whom in whole rows: found once a call, for every layer that attends."""

from positronic.kernels.attention import Documents
from positronic.state import Step

__all__ = ["documents_of"]


def documents_of(step: Step) -> Documents | None:
    """What the trunk has found for this call; for a mixer that runs alone, found here. None: one document a row."""
    return step.shared["documents"] if "documents" in step.shared else Documents.of(step.segments)
