#!/usr/bin/env bash
# vLLM's sparse checkpoint patches turn untouched weights into NaN if a loader assigns a slice instead of calling copy_.
#
# vLLM 0.33.0. load_checkpoint_weight_patches marks what a patch does not name by NaN and replaces Tensor.copy_ while the
# model's own load_weights runs, so that NaN means "as it was". A loader that writes `parameter.data[:] = weight` does
# not come by copy_: every other weight of the tensor becomes NaN, the name is reported as loaded, no error is raised.
# Only the file that holds the loader is taken from the wheel; it needs nothing but torch. The patches of `opentrans` are
# read by it as they are; a model to be patched must load by copy_.
#
# Seen:
#   copy_  loaded ['w'], 0 of 6 weights are NaN
#   slice  loaded ['w'], 4 of 6 weights are NaN
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
venv/bin/pip download --quiet --disable-pip-version-check --no-deps --dest wheel vllm==0.33.0
venv/bin/python -c 'import glob, zipfile
[wheel] = glob.glob("wheel/*.whl")
zipfile.ZipFile(wheel).extract("vllm/model_executor/model_loader/checkpoint_weight_patch.py")'
mv vllm/model_executor/model_loader/checkpoint_weight_patch.py .
cat > seen.py <<'PY'
import torch
from checkpoint_weight_patch import CheckpointWeightPatch, load_checkpoint_weight_patches


class Model(torch.nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way, self.w = way, torch.nn.Parameter(torch.ones(2, 3))

    def load_weights(self, weights):
        for _, weight in weights:
            if self.way == "copy_":
                self.w.data.copy_(weight)
            else:
                self.w.data[:] = weight
        return {name for name, _ in weights}


for way in ("copy_", "slice"):
    model = Model(way)
    patch = CheckpointWeightPatch("w", (2, 3), torch.float32, torch.zeros(2), torch.tensor([1, 5], dtype=torch.int32))
    names = sorted(load_checkpoint_weight_patches(model, [patch]))
    print(f"{way}  loaded {names}, {int(model.w.isnan().sum())} of {model.w.numel()} weights are NaN")
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
copy_  loaded ['w'], 0 of 6 weights are NaN
slice  loaded ['w'], 4 of 6 weights are NaN
TXT
