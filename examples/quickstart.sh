#!/usr/bin/env bash
# Pretrain, probe and export an encoder and draw its curves: about three minutes on two slow cores.
set -euo pipefail

ssltool pretrain npid --data demo:4000 --budget 100s --out runs/quickstart
ssltool probe --weights runs/quickstart --data demo:2000 --test-data demo-test:1000 --kind linear,knn
ssltool export --weights runs/quickstart --to runs/quickstart/exported.safetensors
ssltool visualize curves runs/quickstart
