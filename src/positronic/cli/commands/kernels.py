"""Say which form of each kernel runs on this machine, and of every other form why it does not.

Forms are of four kinds: reference (the definition), torch, triton and cpp. POSITRONIC_KERNELS picks: a kind for all
kernels, KERNEL=KIND for one, or several with commas between; a kernel without that kind runs the best below it.

Examples:
  positronic kernels
  positronic kernels --json
  POSITRONIC_KERNELS=torch,store=reference positronic kernels
"""

import os
from dataclasses import dataclass

from positronic.cli.console import print_json, table


@dataclass(frozen=True)
class Command:
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from positronic.kernels.registry import VARIABLE, devices, survey

        found = survey()
        running = {kernel: next(f for f, why in forms.items() if why is None) for kernel, forms in found.items()}
        if self.json:
            kernels = {
                kernel: {
                    "runs": running[kernel].label,
                    "forms": [
                        {"form": f.label, "kind": f.kind, "by": f.by or None, "takes": f.takes, "reason": why}
                        for f, why in forms.items()
                    ],
                }
                for kernel, forms in found.items()
            }
            asked = os.environ.get(VARIABLE) or None
            print_json({"devices": list(devices()), "asked": asked, "kernels": kernels})
            return
        table(f"Kernels on {' and '.join(devices())}", ["kernel", "runs"], [(k, f.label) for k, f in running.items()])
        for kernel, forms in found.items():
            for form, why in forms.items():
                if why is not None:
                    print(f"{kernel}, {form.label}: {why}")
