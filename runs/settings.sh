# What the scripts of the small pipeline share; they read this file, nobody runs it. Settings, each with its default:
#   RUN=tiny-llm                   the run's folder; MIXER and SIZE are added to the name
#   MIXER=attention                the family: oscillator, colony, metric or hybrid
#   SIZE=15m                       tiny: 2 to 4 million parameters, for a CPU
#   PRESET=                        any other preset or config.json, in place of MIXER and SIZE
#   DATA=                          a file or folder of text, or embedded; TinyStories where there is a network
#   STEPS=5000 VOCAB=16512 SEED=0  of a new run
#   TOKENIZER=bpe                  sentencepiece: learned by that library, of 16,000 entries
#   MINUTES=                       of training, in place of STEPS: as many as fit, STEPS at most
#   DEVICE=auto                    cpu, cuda, cuda:1 or mps
#   PROMPT="Once upon a time"      what the model continues
#   POSITRONIC=                    the command; when not given, .venv is set up and used
# shellcheck shell=sh disable=SC2034

here=$(dirname -- "$0")
root=$(CDPATH='' cd -- "$here/.." && pwd)
if [ -z "${POSITRONIC:-}" ]; then
    "$root/positronic.sh" setup
    POSITRONIC="$root/.venv/bin/positronic"
fi
RUN="${RUN:-tiny-llm${MIXER:+-$MIXER}${SIZE:+-$SIZE}}"
DEVICE="${DEVICE:-auto}"
PROMPT="${PROMPT:-Once upon a time}"

trap 'exit 130' INT TERM # once the step at hand has saved itself

positronic() {
    "$POSITRONIC" "$@"
}

step() {
    printf '\n== %s\n' "$*" >&2
}

# Machine, text, vocabulary and a new run; what stands is kept. A setting that is not given is not passed on.
bootstrap() {
    positronic bootstrap --out "$RUN" --device "$DEVICE" \
        ${MIXER:+--mixer "$MIXER"} ${SIZE:+--size "$SIZE"} ${PRESET:+--model "$PRESET"} ${DATA:+--data "$DATA"} \
        ${STEPS:+--steps "$STEPS"} ${MINUTES:+--minutes "$MINUTES"} ${VOCAB:+--vocab-size "$VOCAB"} ${TOKENIZER:+--tokenizer "$TOKENIZER"} ${SEED:+--seed "$SEED"}
}

# End here where no model has been trained yet.
trained() {
    for checkpoint in "$RUN"/step-*; do
        if [ -d "$checkpoint" ]; then
            return
        fi
    done
    echo "There is no model in $RUN yet. Train one:  RUN=$RUN $here/bootstrap_tiny_llm.sh" >&2
    exit 2
}
