"""What channel mixers of one hidden layer have in common: its width, the norm before it, vectors behind matrices."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from positronic.config import AtMost, MixerConfig
from positronic.errors import ConfigError
from positronic.nn.norm import NormConfig, RMSNormConfig

__all__ = ["FeedForwardConfig"]


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig(MixerConfig):
    """The parent of `SwiGLUConfig` and `MLPConfig`."""

    usual: ClassVar[str] = ""
    """What is usually taken as `hidden`."""

    hidden: Annotated[int, AtMost(262_144)] = 1024
    """Width of the hidden layer; a multiple of 8, better of 128, runs fastest."""
    norm: NormConfig = RMSNormConfig()
    """Of what the layer reads."""
    bias: bool = False
    """Add a learned vector behind each matrix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ConfigError(f"{self.kind}.hidden is {self.hidden}; use 1 or more ({self.usual} is usual).")
