"""What is minimised: objectives, each a sum over targets divided by a count known beforehand."""

from positronic.train.objectives.dpo import DPO, DPOConfig, chosen
from positronic.train.objectives.next_token import AuxiliaryWeight, NextToken, NextTokenConfig
from positronic.train.objectives.objective import UNAIDED, Counts, DataKind, Loss, Measure, Objective, ObjectiveConfig
from positronic.train.objectives.sft import SFT, SFTConfig

__all__ = [
    "DPO",
    "SFT",
    "UNAIDED",
    "AuxiliaryWeight",
    "Counts",
    "DPOConfig",
    "DataKind",
    "Loss",
    "Measure",
    "NextToken",
    "NextTokenConfig",
    "Objective",
    "ObjectiveConfig",
    "SFTConfig",
    "chosen",
]
