#!/bin/sh
# Teach a trained model to answer: a hundred instructions of ours, or a file of yours; only the answers are learned.
#   runs/sft_quickstart.sh [FILE.jsonl]       lines {"instruction": ..., "output": ...}, or chats of any usual shape
# The tuned model goes to RUN/tuned; to tune again from a later step, delete that folder.
# Settings: runs/settings.sh, and here EPOCHS=8, QUESTION="What is the sun?"
set -eu
. "$(dirname -- "$0")/settings.sh"
file="${1:-$root/data/tiny_instruct_sample.jsonl}"
filled=""
[ $# -gt 0 ] || filled=--fill-names        # ours says {{name}} and {{author}}; a file of yours is learned as it stands
question="${QUESTION:-What is the sun?}"

trained

step "Before: $question"
positronic generate "$RUN" --chat --prompt "$question" --max-new-tokens 60 --device "$DEVICE"

step "Tuning on $file"
positronic sft --or-resume --model "$RUN/last" --data "$file" --out "$RUN/tuned" $filled --epochs "${EPOCHS:-8}" \
    --batch-tokens 2048 --evaluate-every 5 --set held_out_one_in=8 --device "$DEVICE"

step "After: $question"
positronic chat "$RUN" "$question" --max-new-tokens 60 --device "$DEVICE"

step "Next: talk to it"
echo "  RUN=$RUN $here/ask_model.sh" >&2
