#!/bin/sh
# Train in chunks of one fixed schedule: after each a sample, and the question whether to go on. The model becomes what it
# would have become in one piece, bit for bit; a run that does not exist yet is begun as in bootstrap_tiny_llm.sh.
#   runs/train_incremental.sh [CHUNK=1000]
# Settings: runs/settings.sh
set -eu
. "$(dirname -- "$0")/settings.sh"

step "What this machine can do; text; a vocabulary; a new model"
bootstrap

step "Training, ${1:-1000} steps at a time"
positronic train --resume --out "$RUN" --chunk "${1:-1000}" --ask "$PROMPT" --device "$DEVICE"

step "Is the loss normal so far?"
positronic doctor "$RUN"

step "Next: more of the same, or teach it to answer"
cat >&2 <<END
  RUN=$RUN $here/train_incremental.sh ${1:-1000}
  RUN=$RUN $here/sft_quickstart.sh
END
