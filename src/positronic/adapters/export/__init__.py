"""Checkpoints in forms that other programs read: a folder that brings its own code, or other types of number."""

from positronic.adapters.export.folder import Exported, export_checkpoint, export_remote_code

__all__ = ["Exported", "export_checkpoint", "export_remote_code"]
