"""`python -m benchmarks`: every benchmark that this machine can run without arguments, one after another."""

import subprocess
import sys

MODULES = (
    "benchmarks.train_step",
    "benchmarks.pipeline",
    "benchmarks.oscillators",
    "benchmarks.colony",
    "benchmarks.metric",
    "benchmarks.chimera",
    "benchmarks.decode",
)
"""The tokenizer benchmark needs text: python -m benchmarks.tokenizers --help. The course's has one thread for both of
its engines: OMP_NUM_THREADS=1 python -m benchmarks.course. benchmarks.hf_generate needs Transformers, without
which benchmarks.decode leaves its Llama out."""

for module in MODULES:
    print(f"== {module}", flush=True)
    subprocess.run([sys.executable, "-m", module], check=True)
