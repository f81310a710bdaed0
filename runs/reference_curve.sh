#!/bin/sh
# The curve that `positronic doctor` compares runs of the small pipeline with: the beginning of its recipe, once a seed.
#   SIZE=tiny DATA=embedded runs/reference_curve.sh NAME CURVE.json [STEPS_OF_EACH=250] [SEEDS=6]
# Interrupted, it goes on. Settings: runs/settings.sh; NOTE= is kept in the curve (machine, text).
set -eu
name="${1:?runs/reference_curve.sh NAME CURVE.json [STEPS_OF_EACH] [SEEDS]}"
curve="${2:?say where the curve goes: CURVE.json}"
. "$(dirname -- "$0")/settings.sh"

folder="$RUN"
set -- "${3:-250}" "${4:-6}"
seed=0
while [ "$seed" -lt "$2" ]; do
    RUN="$folder/seed-$seed" SEED="$seed"
    step "Seed $seed of $2"
    bootstrap
    if [ ! -e "$RUN/reached-$1" ]; then
        positronic train --resume --out "$RUN" --chunk "$1" --device "$DEVICE"
        : >"$RUN/reached-$1"
    fi
    seed=$((seed + 1))
done
step "The curve"
positronic reference --name "$name" --out "$curve" --note "${NOTE:-}" "$folder"/seed-*
