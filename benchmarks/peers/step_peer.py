"""What the peers of step_bench share, on NumPy alone: flags, batches, and the comparison with what step_bench left."""

import argparse
import json
import os
import pathlib
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file, save_file

import measure

RATE, WEIGHT_DECAY, CLIP = 6.2e-4, 0.0095, 1.0
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of AdamW
# Of gradients. fp32: largest difference over the largest value of a tensor. Others: norm of the difference over
# the norm; rounding alone reaches several per cent in small tensors, another formula some ten.
TOLERANCES = {"fp64": 1e-5, "fp32": 1e-5, "tf32": 0.05, "bf16": 0.2}
# Of losses. AdamW's first steps divide a gradient by its own size, which magnifies rounding where it is nearly zero: two
# updates of a model of width 512 in fp32 reach 2e-5.
LOSS_TOLERANCES = {"fp64": 1e-4, "fp32": 1e-4, "tf32": 1e-2, "bf16": 0.05}


@dataclass
class Rows:
    """One batch: masked rows `x` and `target` [B, L, N], which rows are `chosen` and which `visible` as keys [B, L]."""
    x: np.ndarray
    target: np.ndarray
    chosen: np.ndarray
    visible: np.ndarray


def make_parser(description):
    parser = argparse.ArgumentParser(description=description)
    measure.add_flags(parser, 64)
    parser.add_argument("--dropout", type=float, default=0.01)
    parser.add_argument("--mask-rate", type=float, default=0.15)
    parser.add_argument("--hide", type=int, default=1, choices=[0, 1], help="1: chosen rows are hidden as keys")
    parser.add_argument("--head-rows", default="all", choices=["all", "masked"])
    parser.add_argument("--last-block", default="all", choices=["all", "read"])
    parser.add_argument("--check", type=pathlib.Path, help="compare with what step_bench --check left in this folder")
    return parser


def parse(parser):
    flags = parser.parse_args()
    if flags.last_block == "read" and flags.head_rows == "all":
        parser.error("--last-block read needs --head-rows masked")
    if flags.check:
        flags.weights = flags.check / "weights.safetensors"
    if flags.weights:
        take_rates(flags, flags.weights)
    return flags


def take_rates(flags, path):
    """What a checkpoint of step_bench says of the flags."""
    config = measure.take_sizes(flags, path)
    flags.dropout, flags.mask_rate = config["model"]["dropout"], config["mask"]["rate"]
    flags.hide = int(config["mask"]["hide"] == "chosen")
    flags.head_rows, flags.last_block = config["head"]["rows"], config["model"]["last_block"]


def random_rows(flags, random):
    """Of every sequence as many rows are chosen as by mask.count = "batch"; all of them are replaced."""
    x = random.normal(size=(flags.B, flags.L, flags.N)).astype(np.float32)
    rate = round(1e6 * flags.mask_rate)
    counts = np.diff([(rate * flags.L * b + 500000) // 1000000 for b in range(flags.B + 1)])
    chosen = random.random((flags.B, flags.L)).argsort(axis=1).argsort(axis=1) < counts[:, None]
    return Rows(np.where(chosen[:, :, None], np.float32(-1), x), x, chosen, ~chosen)


def stored_rows(tensors):
    """The batches of a check."""
    for i in range(sum(name.startswith("x.") for name in tensors)):
        chosen, visible = (tensors[f"{name}.{i}"].astype(bool) for name in ("chosen", "visible"))
        yield Rows(tensors[f"x.{i}"], tensors[f"target.{i}"], chosen, visible)


def relative_errors(found, expected, by_norm):
    """Per tensor; a bias relative to its weight's gradient where that is larger, a sum over the same rows: a bias in front
    of a batch norm has no gradient at all but rounding."""
    def size(tensor):
        return float(np.linalg.norm(tensor) if by_norm else np.abs(tensor).max())

    errors = {}
    for name, reference in expected.items():
        scale = size(reference)
        if name.endswith("bias"):
            scale = max(scale, size(expected[name[: -len("bias")] + "weight"]))
        errors[name] = size(found[name].astype(np.float64) - reference) / scale
    return errors


def reference_of(flags, tensors, train, **reference_flags):
    """Losses and gradients in double precision: by the first peer that checks this folder, read by the others."""
    path, ours = flags.check / "reference.safetensors", flags.check / "ours.safetensors"
    if path.exists() and path.stat().st_mtime_ns > ours.stat().st_mtime_ns:
        stored = load_file(path)
        return stored.pop("losses").tolist(), stored
    losses, gradients = train(argparse.Namespace(**{**vars(flags), "dtype": "fp64", **reference_flags}), tensors)
    # Transposed views are saved by their memory, not by their order.
    whole = {name: np.ascontiguousarray(value) for name, value in gradients.items()}
    unfinished = path.with_suffix(f".{os.getpid()}")
    save_file({"losses": np.array(losses), **whole}, unfinished)
    unfinished.replace(path)
    return losses, gradients


def check(flags, train, **reference_flags):
    """Repeats the stored steps twice, in double precision and as the flags say: train(flags, tensors) gives the loss of
    every step and the gradients of the first, by the names of a checkpoint. Prints the errors; returns the exit code."""
    tensors = load_file(flags.check / "ours.safetensors")
    losses, gradients = reference_of(flags, tensors, train, **reference_flags)
    peer = train(flags, tensors)
    ours = ([tensors[f"loss.{i}"].item() for i in range(len(losses))],
            {name: tensors[f"grad.{name}"] for name in gradients})
    by_norm = flags.dtype in ("tf32", "bf16")
    result, is_good = {"steps": len(losses), "tensors": len(gradients)}, True
    for who, (their_losses, their_gradients) in {"ours": ours, "peer": peer}.items():
        errors = relative_errors(their_gradients, gradients, by_norm)
        worst = max(errors, key=errors.get)
        loss_error = max(abs(a / b - 1) for a, b in zip(their_losses, losses, strict=True))
        result[who] = {"loss_error": loss_error, "gradient_error": errors[worst], "worst": worst}
        is_good &= errors[worst] < TOLERANCES[flags.dtype] and loss_error < LOSS_TOLERANCES[flags.dtype]
    print(json.dumps(result))
    return 0 if is_good else 1


def report(flags, library, mode, ms, memory, chosen_rows, loss, gemm, **more):
    measure.report(flags, "step", library, mode, ms, memory, dropout=flags.dropout, mask_rate=flags.mask_rate,
                   hide=flags.hide, head_rows=flags.head_rows, last_block=flags.last_block, chosen_rows=chosen_rows,
                   loss=loss, gemm_gflop_per_second=gemm, **more)
