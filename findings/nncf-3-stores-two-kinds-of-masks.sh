#!/usr/bin/env bash
# NNCF 3 names and fills its masks by the mode, prunes embedding tables too, and leaves the weights in the file dense.
#
# nncf 3.4.0 with torch 2.13.0. By magnitude a mask is `binary_mask`, bool. By regularization it is `mask`, float logits:
# what is above 0 is kept, so a mask that is nowhere 0 may prune, and 4.6 everywhere prunes nothing. Its name is
# `__nncf_hooks.post_hooks.` and the weight's, with `:` for `.`, and a packed projection of attention has one as well. An
# embedding table is pruned like any weight. The weights stay as they were: strict=False into the plain model gives the
# dense model. `opentrans` reads both kinds on any weight.
#
# Seen:
#   unstructured_magnitude_local: attn:in_proj_weight binary_mask bool, attn:out_proj:weight binary_mask bool, table:weight binary_mask bool; weights with zeros: 0
#   unstructured_regularization_based: attn:in_proj_weight mask float32, attn:out_proj:weight mask float32, table:weight mask float32; weights with zeros: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 nncf==3.4.0
cat > seen.py <<'PY'
import nncf
import torch
from torch import nn


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.attn = nn.Embedding(16, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, ids):
        x = self.table(ids)
        return self.attn(x, x, x)[0]


for mode in (nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL, nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED):
    torch.manual_seed(0)
    state = nncf.prune(Tower(), mode=mode, ratio=0.5, examples_inputs=torch.zeros(1, 4, dtype=torch.long)).state_dict()
    masks, zeros = [], 0
    for name, tensor in state.items():
        if name.startswith("__nncf_hooks.post_hooks."):
            weight, _, kind = name.removeprefix("__nncf_hooks.post_hooks.").partition("__0.0.")
            masks.append(f"{weight} {kind} {str(tensor.dtype).removeprefix('torch.')}")
        else:
            zeros += int(tensor.ndim > 1 and bool((tensor == 0).any()))
    print(f"{mode.value}: {', '.join(sorted(masks))}; weights with zeros: {zeros}")
PY
venv/bin/python seen.py 2>messages.txt | grep '^unstructured' | tee seen.txt
diff - seen.txt <<'TXT'
unstructured_magnitude_local: attn:in_proj_weight binary_mask bool, attn:out_proj:weight binary_mask bool, table:weight binary_mask bool; weights with zeros: 0
unstructured_regularization_based: attn:in_proj_weight mask float32, attn:out_proj:weight mask float32, table:weight mask float32; weights with zeros: 0
TXT
