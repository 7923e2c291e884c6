"""Turns one TorchScript network into ONNX: a script for an environment with torch, never our own.

``python torchscript_to_onnx.py network.pt network.onnx check.npz SIZE`` writes the network for an input of
(1, 1, SIZE, SIZE, SIZE), and beside it a fixed random input with torch's own answer, for whoever uses the
network to compare.
"""

from __future__ import annotations

import sys

OPSET = 17
SEED = 20260101


def main(arguments: list[str]) -> int:
    """Convert one network.

    Args:
        arguments: TorchScript file, ONNX file and NPZ file to write, and edge of the input in voxels.

    Returns:
        An exit code.
    """
    import numpy as np
    import torch

    source, target, check, edge = arguments
    torch.set_grad_enabled(False)
    network = torch.jit.load(source, map_location="cpu").eval().float()
    generator = np.random.default_rng(SEED)
    values = generator.normal(0.449, 0.226, (1, 1, int(edge), int(edge), int(edge))).astype(np.float32)
    example = torch.from_numpy(values)
    answer = network(example)
    torch.onnx.export(
        network,
        (example,),
        target,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["channels"],
        dynamo=False,
    )
    np.savez(check, image=values, channels=answer.numpy(), torch=np.array(torch.__version__))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
