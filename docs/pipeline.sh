#!/usr/bin/env bash
# The whole method on the embedded model, one command after the other.
#
#   docs/pipeline.sh [FOLDER]        FOLDER is new; default ./opentrans-pipeline
#
# Every command prints the path it wrote on stdout and everything else on stderr, so the next one can take it up with
# $(...). This script does the same: its last lines on stdout are the trained segmentor and the folder of pictures.
# Takes some minutes on two cores. Sizes come from the environment, for example STEPS=50 docs/pipeline.sh
set -euo pipefail

OUT=${1:-opentrans-pipeline}
SPARSITY=${SPARSITY:-0.9}                # share of the prunable weights to remove
RATE=${RATE:-0.1}                        # share of the remaining weights that each round removes
DISTILL_IMAGES=${DISTILL_IMAGES:-2048}   # scenes to distil on
DISTILL_BATCH=${DISTILL_BATCH:-64}       # scenes in a batch of distillation
STEPS_PER_ROUND=${STEPS_PER_ROUND:-16}   # distillation steps after each round
FINAL_STEPS=${FINAL_STEPS:-200}          # distillation steps after the last round
BATCH_SIZE=${BATCH_SIZE:-16}             # crops in a batch of fine-tuning
STEPS=${STEPS:-300}                      # steps of fine-tuning
SCENES=${SCENES:-200}                    # scenes to score
PICTURE=${PICTURE:-$(dirname "$0")/scene.png}
WORDS=${WORDS:-orange ring, yellow crescent, water, sand}

# 1. Remove weights round by round; after each round the tower learns to embed images as the dense one does.
SUBNET=$(opentrans prune tiny --sparsity "$SPARSITY" --rate "$RATE" --images shapes --image-limit "$DISTILL_IMAGES" \
  --batch-size "$DISTILL_BATCH" --steps-per-round "$STEPS_PER_ROUND" --final-steps "$FINAL_STEPS" --out "$OUT/subnet")

# 2. Fit the spectrum of every layer and note in the bundle which layers are well trained (heavy tail, small alpha).
SUBNET=$(opentrans analyze "$SUBNET")

# 3. Build a segmentation framework around the subnet; the receipt of every tensor goes into the bundle.
FRESH=$(opentrans transfer "$SUBNET" --to deeplabv3 --out "$OUT/deeplabv3")

# 4. Train it on the seen classes. Layers with a small alpha stay frozen, pruned weights stay zero.
TRAINED=$(opentrans finetune "$FRESH" --steps "$STEPS" --batch-size "$BATCH_SIZE" --out "$OUT/finetuned")

# 5. Score it on scenes it has not seen, seen and unseen classes apart. The report becomes part of the bundle.
TRAINED=$(opentrans eval "$TRAINED" --limit "$SCENES")

# Check every hash, count and value of the result; then ask it for words of our own.
opentrans verify "$TRAINED" >&2
PICTURES=$(opentrans segment "$TRAINED" "$PICTURE" --words "$WORDS" --out "$OUT/words")

echo "$TRAINED"
echo "$PICTURES"
