#!/usr/bin/env bash
# WeightWatcher fits no spectrum to the queries, keys and values of torch's MultiheadAttention, and does not say so.
#
# weightwatcher 0.7.7 with torch 2.13.0. It knows layers by their module: Linear, Conv1d, Conv2d and the like. The packed
# `in_proj_weight` of MultiheadAttention belongs to none of them, so of an attention only `out_proj` is in its table: a
# quarter of the weights. CLIP's image transformers of open_clip are built of such attentions, so averages over a tower
# miss a quarter of it. `opentrans analyze` takes `in_proj_weight` as three layers, q_proj, k_proj and v_proj.
#
# Seen:
#   weights of the model: attn.in_proj_weight attn.out_proj.weight mlp.weight
#   layers in the table: attn.out_proj mlp
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 weightwatcher==0.7.7
cat > seen.py <<'PY'
import logging
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
import torch
import weightwatcher

torch.manual_seed(0)
model = torch.nn.ModuleDict({"attn": torch.nn.MultiheadAttention(64, 4), "mlp": torch.nn.Linear(64, 64)})
print("weights of the model:", *(name for name, weight in model.named_parameters() if weight.ndim > 1))
table = weightwatcher.WeightWatcher(model=model).analyze()
print("layers in the table:", *table["longname"])
PY
venv/bin/python seen.py 2>messages.txt | grep -E "^(weights|layers) " | tee seen.txt
diff - seen.txt <<'TXT'
weights of the model: attn.in_proj_weight attn.out_proj.weight mlp.weight
layers in the table: attn.out_proj mlp
TXT
