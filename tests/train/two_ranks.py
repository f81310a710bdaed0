"""What each process of `test_parallel.py` runs: a few steps of the small model, weights saved by the first rank."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from train_example import Stream, trainer, with_experts

from positronic.train import AdamWConfig, MuonConfig, launched

MODELS = {"small": lambda: None, "experts": with_experts}


def main(out: str, kind: str, steps: str, model: str = "small") -> None:
    torch.set_num_threads(1)
    with launched("cpu") as ranks:
        optimizer = {"adamw": AdamWConfig(lr=1e-2), "muon": MuonConfig(lr=1e-2)}[kind]
        made, seen = trainer(
            optimizer=optimizer,
            ranks=ranks,
            micro_rows=2,
            stream=Stream(padded=True),
            steps=int(steps),
            model=MODELS[model](),
        )
        state = made.run()
        assert state.stopped == "finished"
        weights = torch.cat([p.detach().flatten() for p in made.model.parameters()])
        everywhere = ranks.total([float(weights.double().sum())])[0]
        assert everywhere == ranks.world * float(weights.double().sum()), "ranks drifted apart"
        assert bool(seen.steps) == ranks.first
        if ranks.first:
            save_file(made.model.state_dict(), Path(out, "model.safetensors"))
            Path(out, "steps.json").write_text(json.dumps(seen.timeless()))


if __name__ == "__main__":
    main(*sys.argv[1:])
