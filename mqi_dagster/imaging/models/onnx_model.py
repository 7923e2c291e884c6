"""Networks in ONNX, run by onnxruntime in our own environment.

The images come to the network's orientation and grid, and its probabilities or labels come back to the grid
of the first image. A large image goes through in windows that overlap, averaged with Gaussian weights (sigma
an eighth of the window, as nnU-Net does: Isensee et al., Nature Methods 18 (2021) 203). On the processor the
same images, card and number of threads give the same labels, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import SimpleITK as sitk  # noqa: N813 - the name its own documentation uses
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures
from scipy import ndimage, special
from scipy.signal import windows

from mqi_dagster.imaging.models.card import (
    Device,
    Intensity,
    Locate,
    Model,
    Network,
    OnnxRuntime,
    Standardise,
)
from mqi_dagster.imaging.models.label_map import Labels, read_image, verified
from mqi_dagster.imaging.models.model_errors import ModelCardError, ModelError
from mqi_dagster.imaging.models.running import Outcome, RunOptions

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}
_TENSORS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_FAILURES = (
    failures.EngineError,
    failures.EPFail,
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NoSuchFile,
    failures.NotImplemented,
    failures.RuntimeException,
)
_BELOW_EVERY_VALUE = -1e30
_SMALLEST_WEIGHT = 1e-3


@dataclass(frozen=True, slots=True)
class _Field:
    """A box in space: its first corner, its extent along its axes [mm], and these (direction cosines)."""

    corner: Triple
    extent: Triple
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> _Field:
        """The box of all voxels of an image."""
        spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
        corner = image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, -0.5))
        return cls(_triple(corner), _triple(spacing * size), image.GetDirection())

    def part(self, start: NDArray[np.float64], end: NDArray[np.float64]) -> _Field:
        """The box between two corners, as fractions of this one's extent."""
        start, end = np.clip(start, 0, 1), np.clip(end, 0, 1)
        extent = np.array(self.extent)
        corner = self.corner + np.array(self.direction).reshape(3, 3) @ (start * extent)
        return _Field(_triple(corner), _triple((end - start) * extent), self.direction)


def run_onnx(model: Model, images: Mapping[str, Path], options: RunOptions) -> Outcome:
    """Segment with the networks of a card.

    Args:
        model: Its weights are verified.
        images: A NIfTI file for each role, in the card's order.
        options: Device and threads. Which GPU of several is for whoever starts this process to say.

    Raises:
        ModelInputError: An image cannot be read.
        ModelCardError: A network is not what the card says.
        ModelError: A network fails, or what it finds is not valid.
    """
    runtime = model.card.onnx
    if runtime is None:
        raise ModelCardError("its runtime is not onnx", where=model.where)
    sources = [read_image(path, role) for role, path in images.items()]
    runner = _Runner(model, runtime, sources, options)
    field: _Field | None = _Field.of(runner.images[0])
    if runtime.locate is not None:
        field = runner.located(runtime.locate)
    if field is None:
        labels = np.zeros(sources[0].GetSize()[::-1], np.uint16)
    else:
        channels = runner.channels(runtime.network, field)
        labels = _cleaned(_on_image(channels, runtime.network, sources[0]), runtime)
    remarks = []
    if options.device != runner.device:
        remarks.append(f"{options.device} was asked for, and onnxruntime has no provider for it here")
    if options.in_pieces:
        remarks.append("pieces were asked for, and the window of a network is the card's")
    return Outcome(
        labels=verified(labels, model),
        image=sources[0],
        device_used=runner.device,
        provider=runner.provider,
        versions={name: version(name) for name in ("onnxruntime", "SimpleITK", "numpy", "scipy")},
        remarks=tuple(remarks),
    )


class _Runner:
    """Networks of one card on one set of images."""

    def __init__(
        self, model: Model, runtime: OnnxRuntime, sources: Sequence[sitk.Image], options: RunOptions
    ) -> None:
        self.images = [sitk.DICOMOrient(image, runtime.orientation) for image in sources]
        self.device: Device = "cpu"
        self.provider = _CPU
        self._model = model
        self._transposed = runtime.axes == "xyz"
        self._threads = runtime.threads or options.threads
        cuda = options.device == "gpu" and _CUDA in onnxruntime.get_available_providers()
        self._providers = [_CUDA, _CPU] if cuda else [_CPU]

    def located(self, locate: Locate) -> _Field | None:
        """The box of the largest finding of a first network; None where it finds nothing."""
        field = _Field.of(self.images[0])
        found = _decided(self.channels(locate.network, field), locate.network)
        mask = _largest(sitk.GetArrayViewFromImage(found) > 0)
        if not mask.any():
            return None
        (box,) = ndimage.find_objects(mask.astype(np.uint8))
        start = np.array([axis.start for axis in reversed(box)])
        end = np.array([axis.stop for axis in reversed(box)])
        margin, size = locate.margin * (end - start), np.array(found.GetSize())
        return field.part((start - margin) / size, (end + margin) / size)

    def channels(self, network: Network, field: _Field) -> list[sitk.Image]:
        """Each channel of a network's output, on its own grid within a box."""
        grid = _grid(network, field)
        tensor = np.stack([self._channel(network, number, grid) for number in range(len(self.images))])
        output = self._run(network, tensor)
        if self._transposed:
            output = output.transpose(0, 3, 2, 1)
        images = [sitk.GetImageFromArray(np.ascontiguousarray(channel)) for channel in output]
        for image in images:
            image.CopyInformation(grid)
        return images

    def _channel(self, network: Network, number: int, grid: sitk.Image) -> Floats:
        image = self.images[number]
        intensity = network.intensity[number if len(network.intensity) > 1 else 0]
        everything = sitk.GetArrayViewFromImage(image)
        resampled = sitk.Resample(
            image,
            grid,
            sitk.Transform(),
            _INTERPOLATORS[network.interpolation],
            float(everything.min()),
        )
        values = _normalised(sitk.GetArrayFromImage(resampled), intensity, everything)
        return values.transpose(2, 1, 0) if self._transposed else values

    def _run(self, network: Network, tensor: Floats) -> Floats:
        """Shape (channels out, …) of shape (channels in, …), both with the tensor's axes."""
        try:
            session = self._session(network)
            return _activated(self._windowed(session, network, tensor), network)
        except _FAILURES as error:
            raise ModelError(
                f"onnxruntime could not run a network ({type(error).__name__})",
                where=self._model.where,
                log=str(error),
            ) from error

    def _session(self, network: Network) -> onnxruntime.InferenceSession:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self._threads
        settings.inter_op_num_threads = 1
        settings.use_deterministic_compute = True
        # A thread that spins while it waits takes the processor from the other workers.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # As bytes: a network that points to other files, which no card has named, is not loaded.
        content = (self._model.folder / network.weights).read_bytes()
        session = onnxruntime.InferenceSession(content, settings, providers=self._providers)
        self.provider = session.get_providers()[0]
        self.device = "gpu" if self.provider == _CUDA else "cpu"
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TENSORS or len(inputs[0].shape) != 5:
            raise self._other_network("it has not one tensor of five dimensions as its input")
        return session

    def _windowed(self, session: onnxruntime.InferenceSession, network: Network, tensor: Floats) -> Floats:
        size = tensor.shape[1:]
        patch = network.patch or network.shape
        window = size if patch is None else (patch[::-1] if not self._transposed else patch)
        padding = [(0, 0), *((0, max(0, part - whole)) for part, whole in zip(window, size, strict=True))]
        padded = np.pad(tensor, padding)
        if padded.shape[1:] == tuple(window):
            output = self._predicted(session, network, padded)
        else:
            output = self._averaged(session, network, padded, window)
        return output[:, : size[0], : size[1], : size[2]]

    def _averaged(
        self,
        session: onnxruntime.InferenceSession,
        network: Network,
        tensor: Floats,
        window: tuple[int, ...],
    ) -> Floats:
        total = np.zeros((len(network.labels), *tensor.shape[1:]), np.float32)
        weights = np.zeros(tensor.shape[1:], np.float32)
        gaussian = _gaussian(window)
        for place in _places(tensor.shape[1:], window, network.overlap):
            total[:, *place] += gaussian * self._predicted(session, network, tensor[:, *place])
            weights[place] += gaussian
        total /= weights
        return total

    def _predicted(self, session: onnxruntime.InferenceSession, network: Network, tensor: Floats) -> Floats:
        entry = session.get_inputs()[0]
        expected = (1, *tensor.shape)
        if any(
            isinstance(fixed, int) and fixed != given
            for fixed, given in zip(entry.shape, expected, strict=True)
        ):
            raise self._other_network(f"its input is {list(entry.shape)}, the card makes {list(expected)}")
        batch = np.ascontiguousarray(tensor[None], _TENSORS[entry.type])
        output = np.asarray(session.run(None, {entry.name: batch})[0])
        wanted = (1, len(network.labels), *tensor.shape[1:])
        if output.shape != wanted:
            raise self._other_network(f"its output is {list(output.shape)}, the card says {list(wanted)}")
        if not np.isfinite(output).all():
            raise ModelError("a network gave values that are no numbers", where=self._model.where)
        return np.asarray(output[0], np.float32)

    def _other_network(self, reason: str) -> ModelCardError:
        return ModelCardError(f"a network is not the one of the card: {reason}", where=self._model.where)


def _grid(network: Network, field: _Field) -> sitk.Image:
    """An image without content where a network's input lies: it covers the box, around the same centre."""
    extent = np.array(field.extent)
    if network.shape is not None:
        size = np.array(network.shape)
        spacing = extent / size
    else:
        spacing = np.array(network.spacing_mm)
        size = np.maximum(np.ceil(extent / spacing - 1e-6), 1).astype(int)
    first = (extent - size * spacing + spacing) / 2
    grid = sitk.Image([int(one) for one in size], sitk.sitkUInt8)
    grid.SetSpacing(_triple(spacing))
    grid.SetDirection(field.direction)
    grid.SetOrigin(_triple(field.corner + np.array(field.direction).reshape(3, 3) @ first))
    return grid


def _normalised(values: Floats, intensity: Intensity, everything: Floats) -> Floats:
    """The values on a network's grid as the card wants them.

    Args:
        values: On the grid.
        intensity: What is done to them.
        everything: The whole image, which percentiles are of.
    """
    # What has no range, or no spread, is not divided by it.
    if intensity.clip is not None:
        low, high = intensity.clip.values or np.percentile(everything, intensity.clip.percentiles or (0, 100))
        values = np.clip(values, low, high)
        if intensity.rescale:
            values = np.asarray((values - low) / ((high - low) or 1.0), np.float32)
    how = intensity.standardise
    if isinstance(how, Standardise):
        values = np.asarray((values - how.mean) / how.std, np.float32)
    elif how is not None:
        chosen = values if how == "whole" else values[values != 0]
        if chosen.size:
            mean, std = float(chosen.mean(dtype=float)), float(chosen.std(dtype=float))
            values = np.asarray((values - mean) / (std or 1.0), np.float32)
    return np.asarray(intensity.multiply * values + intensity.add, np.float32)


def _activated(output: Floats, network: Network) -> Floats:
    if network.activation == "sigmoid":
        return np.asarray(special.expit(output))
    return np.asarray(special.softmax(output, axis=0)) if network.activation == "softmax" else output


def _gaussian(window: Sequence[int]) -> Floats:
    """Shape of the window: a product of one Gaussian for each axis, and not quite 0 in the corners."""
    axes = [windows.gaussian(size, size / 8) for size in window]
    return np.asarray(np.maximum(reduce(np.multiply.outer, axes), _SMALLEST_WEIGHT), dtype=np.float32)


def _places(size: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[slice, ...]]:
    """Where the window stands: as few evenly spaced places as overlap by that part or more."""
    starts = []
    for whole, part in zip(size, window, strict=True):
        steps = int(np.ceil((whole - part) / max(1, part * (1 - overlap))))
        starts.append([round(step * (whole - part) / max(1, steps)) for step in range(steps + 1)])
    for corner in itertools.product(*starts):
        yield tuple(slice(start, start + part) for start, part in zip(corner, window, strict=True))


def _on_image(channels: Sequence[sitk.Image], network: Network, image: sitk.Image) -> Labels:
    """The labels that a network's channels give on the grid of an image; outside their own, background."""
    if network.back == "nearest":
        decided = _decided(channels, network)
        back = sitk.Resample(decided, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        return np.asarray(sitk.GetArrayFromImage(back), np.uint16)
    onto = (
        sitk.Resample(
            channel, image, sitk.Transform(), sitk.sitkLinear, 0.0 if label == 0 else _BELOW_EVERY_VALUE
        )
        for channel, label in zip(channels, network.labels, strict=True)
    )
    return _labels(onto, network)


def _decided(channels: Sequence[sitk.Image], network: Network) -> sitk.Image:
    decided = sitk.GetImageFromArray(_labels(channels, network))
    decided.CopyInformation(channels[0])
    return decided


def _labels(channels: Sequence[sitk.Image] | Iterator[sitk.Image], network: Network) -> Labels:
    """The label of the greatest channel; with a threshold, of those above it, background aside."""
    labels: Labels | None = None
    for channel, label in zip(channels, network.labels, strict=True):
        values = sitk.GetArrayViewFromImage(channel)
        if labels is None:
            labels = np.zeros(values.shape, np.uint16)
            start = -np.inf if network.threshold is None else network.threshold
            greatest = np.full(values.shape, start, np.float32)
        if label == 0 and network.threshold is not None:
            continue
        higher = values > greatest
        labels[higher] = label
        greatest[higher] = values[higher]
    if labels is None:
        raise ValueError("a network has at least one channel")
    return labels


def _cleaned(labels: Labels, runtime: OnnxRuntime) -> Labels:
    """Of each region the largest piece alone, and its holes filled, where the card says so."""
    if not (runtime.largest_component or runtime.fill_holes):
        return labels
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        part = labels[box]
        mask = part == label
        if runtime.largest_component:
            largest = _largest(mask)
            part[mask & ~largest] = 0
            mask = largest
        if runtime.fill_holes:
            part[ndimage.binary_fill_holes(mask) & (part == 0)] = label
    return labels


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest piece of a mask, voxels connected by corners, too; of equal ones the first."""
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    return np.asarray(pieces == 1 + int(sizes[1:].argmax()))


def _triple(values: Sequence[float] | NDArray[np.float64]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
