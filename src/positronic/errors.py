"""What can go wrong, by kind. Every message says what was asked, what was found and what to do next."""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "GenerationError",
    "PositronicError",
    "StateError",
    "TokenizerError",
    "TrainingError",
]


class PositronicError(Exception):
    """The parent of every error we raise on purpose. The command line prints its message and exits with 2."""


class ConfigError(PositronicError):
    """A setting that cannot be: unknown name, wrong type, impossible value."""


class StateError(PositronicError):
    """A decode state used after another call took over its buffers, or committed without a rollback."""


class TokenizerError(PositronicError):
    """A tokenizer that is damaged, does not fit the model, or cannot be trained on what was given."""


class DataError(PositronicError):
    """Text that cannot be read, is empty, too short, or not what its name promises."""


class CheckpointError(PositronicError):
    """A checkpoint folder that is missing, damaged, truncated, foreign, or of another configuration."""


class DeviceError(PositronicError):
    """A device or precision that this machine does not have."""


class TrainingError(PositronicError):
    """A run that cannot start, or must not go on (three non-finite losses in a row)."""


class GenerationError(PositronicError):
    """A request the decoder cannot serve: prompt longer than the context, a sampler setting out of range."""
