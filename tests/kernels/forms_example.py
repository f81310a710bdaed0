"""A form of a kernel that says that it ran, in place of one that is there or, by its kind, of one that is missing."""

from dataclasses import replace

import torch

from positronic.kernels import registry


def standing_in(monkeypatch, kernel, label):
    """What the kernel returns from now on where the form of this label is chosen."""
    ran = torch.zeros(1)
    forms = registry.forms_of(kernel)
    new = [replace(f, run=lambda *_: ran, missing=None, devices=()) if f.label == label else f for f in forms]
    assert new != list(forms), f"{kernel} has no form {label}"
    monkeypatch.setitem(registry._FORMS, kernel, tuple(new))
    return ran
