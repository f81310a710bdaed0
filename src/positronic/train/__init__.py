"""Training, once: one loop for all families, objectives and machines."""

from positronic.train.device import Device, pick_device
from positronic.train.init import init_from, trunk_from
from positronic.train.objectives import (
    DPO,
    SFT,
    AuxiliaryWeight,
    Counts,
    DataKind,
    DPOConfig,
    Loss,
    Measure,
    NextToken,
    NextTokenConfig,
    Objective,
    ObjectiveConfig,
    SFTConfig,
    chosen,
)
from positronic.train.observers import MetricsFile, Observer, TensorBoard, read_events
from positronic.train.optimizers import AdamWConfig, MuonConfig, OptimizerConfig
from positronic.train.parallel import ALONE, Ranks, launched
from positronic.train.progress import progress
from positronic.train.run import TrainConfig, held, newest, resume, saved_config, start
from positronic.train.run_length import RunLength
from positronic.train.schedules import ScheduleConfig
from positronic.train.steppers import Backprop, Report, Stepper
from positronic.train.train_state import Cadence, Counters, TrainState, Validate
from positronic.train.trainer import Trainer

__all__ = [
    "ALONE",
    "DPO",
    "SFT",
    "AdamWConfig",
    "AuxiliaryWeight",
    "Backprop",
    "Cadence",
    "Counters",
    "Counts",
    "DPOConfig",
    "DataKind",
    "Device",
    "Loss",
    "Measure",
    "MetricsFile",
    "MuonConfig",
    "NextToken",
    "NextTokenConfig",
    "Objective",
    "ObjectiveConfig",
    "Observer",
    "OptimizerConfig",
    "Ranks",
    "Report",
    "RunLength",
    "SFTConfig",
    "ScheduleConfig",
    "Stepper",
    "TensorBoard",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "Validate",
    "chosen",
    "held",
    "init_from",
    "launched",
    "newest",
    "pick_device",
    "progress",
    "read_events",
    "resume",
    "saved_config",
    "start",
    "trunk_from",
]
