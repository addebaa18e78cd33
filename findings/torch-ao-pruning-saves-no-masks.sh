#!/usr/bin/env bash
# torch.ao.pruning leaves its masks out of the model's state dict, which no prepared model then loads strictly.
#
# torch 2.13.0. A sparsifier puts a FakeSparsity with a buffer `mask` on every weight, and its state_dict() is empty on
# purpose. The model's state dict holds the dense `original` alone: a strict load into a model that was prepared in the same
# way is refused for the missing mask, and strict=False gives dense weights. The module cannot be saved whole either. The
# masks are in the sparsifier's own state dict, or are multiplied in by squash_mask(). `opentrans` reads the former where
# it is saved beside the model's, and refuses a parametrized weight without its mask.
#
# Seen:
#   in the state dict: bias parametrizations.weight.original; 50 % of the weight is zero
#   loaded into another prepared model: RuntimeError: Missing key(s) in state_dict: "0.parametrizations.weight.0.mask".
#   loaded with strict=False: 0 % of the weight is zero
#   in the sparsifier's state dict: weight mask, 50 % zeros
#   saved whole: RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6
cat > seen.py <<'PY'
import warnings

import torch
from torch.ao.pruning import WeightNormSparsifier

warnings.simplefilter("ignore")


def prepared():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 4), zeros_per_block=4)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    return model, sparsifier


def zeros(tensor) -> str:
    return f"{100 * float((tensor == 0).float().mean()):.0f} %"


torch.manual_seed(0)
model, sparsifier = prepared()
sparsifier.step()
names = " ".join(name.removeprefix("0.") for name in model.state_dict())
print(f"in the state dict: {names}; {zeros(model[0].weight)} of the weight is zero")
other, _ = prepared()
try:
    other.load_state_dict(model.state_dict())
except RuntimeError as error:
    print("loaded into another prepared model: RuntimeError:", str(error).splitlines()[1].strip())
other.load_state_dict(model.state_dict(), strict=False)
print(f"loaded with strict=False: {zeros(other[0].weight)} of the weight is zero")
((name, entry),) = sparsifier.state_dict()["state"].items()
print(f"in the sparsifier's state dict: {name.removeprefix('0.')} mask, {zeros(entry['mask'])} zeros")
try:
    torch.save(model, "model.pt")
except RuntimeError as error:
    print("saved whole:", type(error).__name__)
PY
venv/bin/python seen.py | tee seen.txt
diff - seen.txt <<'TXT'
in the state dict: bias parametrizations.weight.original; 50 % of the weight is zero
loaded into another prepared model: RuntimeError: Missing key(s) in state_dict: "0.parametrizations.weight.0.mask".
loaded with strict=False: 0 % of the weight is zero
in the sparsifier's state dict: weight mask, 50 % zeros
saved whole: RuntimeError
TXT
