#!/bin/sh
# From raw text to a small language model. Interrupt it when you like: run again, it goes on where it stood.
#   runs/bootstrap_tiny_llm.sh                               15 million parameters, for a GPU and an afternoon
#   SIZE=tiny DATA=embedded runs/bootstrap_tiny_llm.sh       4 million on two CPU cores, without a network
#   MIXER=oscillator DATA=my-stories/ runs/bootstrap_tiny_llm.sh
# Settings: runs/settings.sh
set -eu
. "$(dirname -- "$0")/settings.sh"

step "What this machine can do; text; a vocabulary; a new model"
bootstrap

step "Training"
positronic train --resume --out "$RUN" --device "$DEVICE"

step "Is the loss normal?"
positronic doctor "$RUN"

step "A sample"
positronic generate "$RUN" --prompt "$PROMPT" --max-new-tokens 120 --device "$DEVICE"

step "Next: teach it to answer, then talk to it"
cat >&2 <<END
  RUN=$RUN $here/sft_quickstart.sh
  RUN=$RUN $here/ask_model.sh
END
