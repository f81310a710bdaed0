#!/bin/sh
# Ask the model one question, or talk to it: `settings` shows and changes how it draws, `quit` leaves. The tuned model
# speaks where there is one (runs/sft_quickstart.sh).
#   runs/ask_model.sh
#   runs/ask_model.sh "What is the sun?"
# Settings: runs/settings.sh
set -eu
. "$(dirname -- "$0")/settings.sh"

trained
exec "$POSITRONIC" chat "$RUN" ${1:+"$1"} --device "$DEVICE"
