#!/usr/bin/env bash
# Pretrain, probe and export an encoder and draw its predictions: about two minutes on a laptop.
set -euo pipefail

ssltool pretrain jigsaw --data demo:2000 --image-size 32 --preset small --epochs 10 --out runs/quickstart
ssltool probe --weights runs/quickstart --data demo:1000 --test-data demo-test:500 --grid-dim 0
ssltool export --weights runs/quickstart --to runs/quickstart/exported.safetensors
ssltool visualize predictions jigsaw --weights runs/quickstart --data demo-test:100 --to runs/quickstart/predictions.png
ssltool visualize curves runs/quickstart
