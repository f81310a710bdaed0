"""Two processes under torchrun are one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from train_example import Stream, trainer

from positronic.errors import ConfigError
from positronic.train import AdamWConfig, MuonConfig, Ranks

OPTIMIZERS = {"adamw": (AdamWConfig(lr=1e-2), 6), "muon": (MuonConfig(lr=1e-2), 1)}
"""And for how many steps: Muon rounds to bfloat16 on its way, where one flipped bit grows to 1e-4 in the next step."""


@pytest.mark.parametrize("kind", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_two_processes_equal_one(tmp_path, kind):
    here, (optimizer, steps) = Path(__file__).parent, OPTIMIZERS[kind]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    done = subprocess.run(
        [*command, str(here / "two_ranks.py"), str(tmp_path), kind, str(steps)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone, seen = trainer(optimizer=optimizer, micro_rows=8, stream=Stream(padded=True), steps=steps)
    alone.run()
    found = load_file(tmp_path / "model.safetensors")
    for name, values in alone.model.state_dict().items():
        error = float((found[name] - values).norm() / values.norm().clamp(min=1e-9))
        assert error < 1e-5, f"{name}: {error}"
    for ours, theirs in zip(seen.steps, json.loads((tmp_path / "steps.json").read_text()), strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
        assert theirs["bits_per_byte"] == pytest.approx(ours["bits_per_byte"], rel=1e-5)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)
        assert theirs["tokens"] == ours["tokens"]


def test_rows_are_shared_out_once_each_or_refused():
    rows = list(range(12))
    assert [rows[Ranks(rank, 3).share(12)] for rank in range(3)] == [rows[:4], rows[4:8], rows[8:]]
    with pytest.raises(ConfigError, match="multiple of 3"):
        Ranks(0, 3).share(10)
