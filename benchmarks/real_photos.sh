#!/usr/bin/env bash
# The whole chain on real photos, with the tiny tower and once with a full-size RN50, timed by stage.
#
#   benchmarks/real_photos.sh DATA WORK > benchmarks/results/DATE-real-photos.md
#
# DATA holds msrc_v2/ and camvid/, each with images/, annotations/, classes.txt, train.txt and test.txt (camvid: one
# folder of images and annotations per split). WORK is a new folder. The RN50 has random weights: it shows size and
# speed, no accuracy. The tiny tower was trained on drawn shapes, so its accuracy on photos is that of a small network
# fine-tuned for minutes.
set -euo pipefail
DATA=$(realpath "$1") WORK=$2
HERE=$(dirname "$(realpath "$0")")
mkdir -p "$WORK" && cd "$WORK"
export PYTHONWARNINGS=ignore

stage() { # stage NAME COMMAND...: run, print a table row with seconds and peak memory, leave stdout in $OUT
  local name=$1; shift
  /usr/bin/time -f '%e %M' -o time.txt "$@" > stage.txt 2> stage.err || { tail -n 3 stage.err >&2; exit 1; }
  OUT=$(cat stage.txt)
  read -r seconds kilobytes < time.txt
  printf '| %s | %.1f | %d |\n' "$name" "$seconds" "$((kilobytes / 1024))"
}

score() { # score BUNDLE DATASET: one line from the eval report
  python - "$1/reports/eval-folder.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
percent = lambda v: "-" if v is None else f"{100 * v:.1f}"
print(f"\nmIoU {percent(r['miou'])} % (seen {percent(r['miou_seen'])}, held out {percent(r['miou_unseen'])}), pixel "
      f"accuracy {percent(r['pixel_accuracy'])} %, {r['images']} images; parameters {r['params_kept'] / 1e6:.2f} of "
      f"{r['params_dense'] / 1e6:.2f} M kept; MACs {r['macs_kept'] / 1e9:.2f} of {r['macs'] / 1e9:.2f} G at "
      f"{r['resolution'][1]} x {r['resolution'][0]}; {1000 * r['seconds_per_image']:.0f} ms an image, dense kernels")
PY
}

chain() { # chain NAME SOURCE IMAGES LABELS TRAIN-IMAGES TEST-IMAGES TEST-LABELS CLASSES IGNORE HOLD-OUT PRUNE... -- TUNE... -- EVAL...
  local name=$1 source=$2 images=$3 labels=$4 test_images=$5 test_labels=$6 classes=$7 ignore=$8 held=$9; shift 9
  local prune=() tune=() score=()
  while [ "$1" != -- ]; do prune+=("$1"); shift; done; shift
  while [ "$1" != -- ]; do tune+=("$1"); shift; done; shift
  score=("$@")
  printf '\n## %s\n\n| stage | seconds | peak MB |\n|---|---|---|\n' "$name"
  stage prune opentrans prune "$source" --sparsity 0.9 --images "$images" "${prune[@]}" -o "$name-subnet"
  local subnet=$OUT
  stage analyze opentrans analyze "$subnet"
  stage transfer opentrans transfer "$subnet" --to deeplabv3 -o "$name-deeplabv3"
  local built=$OUT
  stage finetune opentrans finetune "$built" --dataset folder --images "$images" --labels "$labels" \
    --classes "$classes" --ignore "$ignore" --hold-out "$held" "${tune[@]}" -o "$name-finetuned"
  local tuned=$OUT
  stage eval opentrans eval "$tuned" --dataset folder --images "$test_images" --labels "$test_labels" \
    --classes "$classes" --ignore "$ignore" "${score[@]}"
  local photo; photo=$(find "$test_images" -name '*.jpg' | sort | sed -n 40p)
  stage segment opentrans segment "$tuned" "$photo" --classes "$classes" -o "$name-segmented"
  score "$tuned"
  opentrans verify "$tuned" > /dev/null
  python - "$name-subnet" <<'PY'
import json, sys
m = json.load(open(f"{sys.argv[1]}/manifest.json"))
files = sum(f["bytes"] for f in m["files"] if f["name"] in ("mask.safetensors", "weights.safetensors"))
kept, total = sum(l["kept"] for l in m["layers"]), sum(l["total"] for l in m["layers"])
print(f"\nSubnet: {kept:,} of {total:,} prunable weights, mask and weights {files / 1e6:.2f} MB "
      f"(dense prunable weights alone {4 * total / 1e6:.2f} MB).")
PY
}

printf '# Real photos, %s\n\n' "$(date +%F)"
printf '%s; %s cores; %s\n' "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)" "$(nproc)" \
  "$(python -c 'import torch, open_clip; print(f"torch {torch.__version__}, open_clip {open_clip.__version__}")')"

M=$DATA/msrc_v2 C=$DATA/camvid
[ -d rn50-random ] || python "$HERE/random_rn50.py" rn50-random

chain msrc-tiny tiny "$M/images" "$M/annotations" "$M/images" "$M/annotations" "$M/classes.txt" 255 "cow,boat,road" \
  --image-limit 1024 -- --split-list "$M/train.txt" --steps "${STEPS:-300}" --crop 160 -- --split-list "$M/test.txt"
chain camvid-tiny tiny "$C/images/train" "$C/annotations/train" "$C/images/test" "$C/annotations/test" "$C/classes.txt" 11 "Bicyclist" \
  --image-limit 1024 -- --steps "${STEPS:-300}" --crop 160 -- --limit "${LIMIT:-233}"
chain msrc-rn50 ./rn50-random "$M/images" "$M/annotations" "$M/images" "$M/annotations" "$M/classes.txt" 255 "cow,boat,road" \
  --image-limit 64 --batch-size 8 --rate 0.5 --steps-per-round 2 --final-steps 4 -- \
  --split-list "$M/train.txt" --steps 10 --batch-size 4 --crop 224 -- --split-list "$M/test.txt" --limit 20
