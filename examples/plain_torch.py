"""Use an exported encoder with torchvision and safetensors alone: python plain_torch.py
encoder.safetensors.
"""

import sys

import torch
from safetensors.torch import load_file
from torchvision.models import resnet18

model = resnet18()
missing, unexpected = model.load_state_dict(load_file(sys.argv[1]), strict=False)
model.fc = torch.nn.Identity()
features = model.eval()(torch.rand(2, 3, 224, 224))
print(f"missing {missing}, unexpected {unexpected}, features {tuple(features.shape)}")
