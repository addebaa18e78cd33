#!/usr/bin/env bash
# The whole method on your own photos: prune on them, find the well-trained layers, train, score, and draw.
#
#   docs/own-photos.sh IMAGES LABELS CLASSES [IGNORE [TRAIN_LIST VAL_LIST]]
#
#   IMAGES      folder of photos
#   LABELS      folder of label maps: PNG or TIFF of the same names, class ids as palette indices or grey values
#   CLASSES     text file, one class a line: name,synonym,...
#   IGNORE      label ids that mean "not labelled", with commas (default: those that CLASSES calls void, else 255)
#   TRAIN_LIST  text file, one image a line: train on these
#   VAL_LIST    the same: score these. Without the two lists the score is that of the training images, and no measure
#               of how the result does on other photos.
#
# More from the environment: SOURCE, OUT, SPARSITY, HOLD_OUT and the sizes below. See own-photos.md.
set -euo pipefail

if [[ $# -lt 3 || $# -eq 5 || $# -gt 6 ]]; then
  echo "usage: $0 IMAGES LABELS CLASSES [IGNORE [TRAIN_LIST VAL_LIST]]" >&2
  exit 2
fi
IMAGES=$1 LABELS=$2 CLASSES=$3 IGNORE=()
if [[ -n ${4:-} ]]; then
  IGNORE=(--ignore "$4")
fi

SOURCE=${SOURCE:-RN50-quickgelu:openai}  # downloaded by open_clip at first use; any source of `opentrans prune`
OUT=${OUT:-own-photos}                   # new folder
SPARSITY=${SPARSITY:-0.9}
RATE=${RATE:-0.1}                        # 0.5 takes fewer, larger rounds
CRITERION=${CRITERION:-fisher}           # magnitude needs less memory and time
DISTILL_IMAGES=${DISTILL_IMAGES:-4096}   # views of the photos to distil on, two of each photo
DISTILL_BATCH=${DISTILL_BATCH:-64}
STEPS_PER_ROUND=${STEPS_PER_ROUND:-16}
FINAL_STEPS=${FINAL_STEPS:-352}
STEPS=${STEPS:-400}                      # of fine-tuning
BATCH_SIZE=${BATCH_SIZE:-16}
HOLD_OUT=${HOLD_OUT:-}                   # class names to leave unlabelled in training, with commas
PICTURE=${PICTURE:-$IMAGES}              # photo or folder of photos to draw the result on

# ${A[@]+...}: bash 3.2 knows no empty arrays.
DATA=(--dataset folder --images "$IMAGES" --labels "$LABELS" --classes "$CLASSES" ${IGNORE[@]+"${IGNORE[@]}"})
TRAIN=() VAL=()
if [[ $# -eq 6 ]]; then
  TRAIN=(--split-list "$5") VAL=(--split-list "$6")
fi

# Nothing expensive starts on data that cannot work.
CHECK=(opentrans check "$IMAGES" "$LABELS" "$CLASSES" ${IGNORE[@]+"${IGNORE[@]}"})
"${CHECK[@]}" ${TRAIN[@]+"${TRAIN[@]}"} >&2
if [[ $# -eq 6 ]]; then
  "${CHECK[@]}" "${VAL[@]}" >&2
fi

if [[ -n $HOLD_OUT ]]; then
  TRAIN+=(--hold-out "$HOLD_OUT")
fi

# Pruning needs photos and no labels: the subnet learns to embed them as the dense tower does.
SUBNET=$(opentrans prune "$SOURCE" --sparsity "$SPARSITY" --rate "$RATE" --criterion "$CRITERION" \
  --images "$IMAGES" --image-limit "$DISTILL_IMAGES" --batch-size "$DISTILL_BATCH" \
  --steps-per-round "$STEPS_PER_ROUND" --final-steps "$FINAL_STEPS" --out "$OUT/subnet")
SUBNET=$(opentrans analyze "$SUBNET")

# finetune builds DeepLabV3 around a bundle that holds no segmentor yet.
TRAINED=$(opentrans finetune "$SUBNET" "${DATA[@]}" ${TRAIN[@]+"${TRAIN[@]}"} --steps "$STEPS" \
  --batch-size "$BATCH_SIZE" --out "$OUT/finetuned")
TRAINED=$(opentrans eval "$TRAINED" "${DATA[@]}" ${VAL[@]+"${VAL[@]}"})
PICTURES=$(opentrans segment "$TRAINED" "$PICTURE" --classes "$CLASSES" --out "$OUT/pictures")

echo "$TRAINED"
echo "$PICTURES"
