"""Makes tiny networks with random weights: a script for an environment with torch, nnU-Net v2 and MONAI.

``nnunet FOLDER CLASSES`` writes a trained folder of nnU-Net v2; ``swin FOLDER`` a SwinUNETR of four inputs
as ``net.onnx``, with an input and torch's answer in ``check.npz``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SPACING = [3.0, 3.0, 3.0]
ARCHITECTURE = {
    "n_stages": 3,
    "features_per_stage": [8, 16, 32],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]
UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def resampling(name: str, is_seg: bool) -> dict[str, object]:
    """How nnU-Net's plans say that something is resampled."""
    words = {"is_seg": is_seg, "order": 1, "order_z": 0, "force_separate_z": None}
    return {f"resampling_fn_{name}": "resample_data_or_seg_to_shape", f"resampling_fn_{name}_kwargs": words}


def nnunet(folder: Path, classes: int) -> None:
    """Write a trained folder."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    labels = {"background": 0, **{f"region{number}": number for number in range(1, classes)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    architecture = {"network_class_name": UNET, "arch_kwargs": ARCHITECTURE, "_kw_requires_import": IMPORTED}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32, 32, 32],
        "median_image_size_in_voxels": [40, 40, 40],
        "spacing": SPACING,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        **resampling("data", False),
        **resampling("seg", True),
        **resampling("probabilities", False),
        "architecture": architecture,
        "batch_dice": False,
    }
    values = {"max": 1500, "mean": -100, "median": 0, "min": -1000, "std": 300}
    plans = {
        "dataset_name": "Dataset999_tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": SPACING,
        "original_median_shape_after_transp": [40, 40, 40],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {**values, "percentile_00_5": -1000, "percentile_99_5": 1000}
        },
    }
    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(plans))
    torch.manual_seed(3)
    network = get_network_from_plans(UNET, ARCHITECTURE, IMPORTED, 1, classes, deep_supervision=False)
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": "3d_fullres", "fold": 0, "plans": plans, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


def swin(folder: Path) -> None:
    """Write a SwinUNETR in ONNX, and what torch says of an input."""
    import numpy as np
    import torch
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    network = SwinUNETR(in_channels=4, out_channels=3, feature_size=12).eval()
    example = torch.randn(1, 4, 64, 64, 64)
    answer = network(example)
    names = {"input_names": ["image"], "output_names": ["channels"]}
    torch.onnx.export(network, (example,), folder / "net.onnx", opset_version=17, dynamo=False, **names)
    np.savez(folder / "check.npz", image=example.numpy()[0], channels=answer.numpy()[0])


if __name__ == "__main__":
    if sys.argv[1] == "nnunet":
        nnunet(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        swin(Path(sys.argv[2]))
