#!/usr/bin/env python3
"""Compares the models with PyTorch: outputs, losses and every parameter gradient, in double precision.

    compare.py PROGRAMS [--self-check]

PROGRAMS is the folder of `simulate`, `pretrain`, `finetune` and `parity`. For each case they train a model for one
epoch and run its checkpoint on random arrays: short, empty and wholly masked sequences, and NaN in the padding (the
models must not look there). model.py computes the same from the float32 checkpoint in float64; where the heads divide
the width, torch.nn.TransformerEncoder does too, with the encoder's tensors as they are. Each case is compared twice:
with lengths and a target (`output`, `loss`, `grad.*`), and without either (`output`).

The error of a tensor is its largest difference over the largest value of the reference, and must be below 1e-5: the
float arithmetic of a few dozen operations, each about 6e-8, with room for cancellation in the sums of a gradient.
Gradients that are zero by construction are compared absolutely:
  the key part of each `in_proj_bias`: it moves all scores of a query by the same amount, which softmax does not see; at
      most 1e-6 of the sum of its terms' sizes, one term a row;
  rows of `position.weight` that no sequence reaches: exactly zero.

Every key of a checkpoint's configuration is either in COMPARED, and the values that met PyTorch are printed, or in
NOT_COMPARED with the reason; a key in neither fails.

--self-check then changes one weight of every tensor of a checkpoint in turn, on the side of PyTorch only, and demands
that the comparison fails.

Exit codes: 0 all agree, 1 not, 2 wrong usage, 77 skipped (PyTorch, NumPy or safetensors cannot be imported).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field

sys.dont_write_bytecode = True
try:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    import model
except ImportError as error:
    if error.name and error.name.split(".")[0] == "model":
        raise
    print(f"skipped: {error}")
    sys.exit(77)

TOLERANCE = 1e-5
ZERO_TOLERANCE = 1e-6
SEED = 20230612


@dataclass(frozen=True)
class Case:
    name: str
    task: str
    upscaling: str
    norm: str
    keys: dict = field(default_factory=dict)  # what differs from SMALL
    from_scratch: bool = False


# 18 features and 3 heads of 6 in the upscaling's block, 3 heads of 8 in the encoder.
SMALL = {
    "data.window": 12, "data.stride": 40, "data.evaluation_stride": 120, "model.width": 24, "model.blocks": 2,
    "model.heads": 3, "head.hidden": [10], "train.epochs": 1, "train.batch": 16, "train.warmup": 0, "train.rate": 5e-3,
}
NINE = {"data.calibration": "none"}
# Rows and windows as the recipe for real recordings makes them (examples/configs): 4 features and an increment.
RECIPE = {
    "data.features": ["duration_ms", "amplitude", "closing_velocity", "interval_s"], "data.increments": ["interval_s"],
    "data.transform": "asinh", "data.transform_scale": [5, 1, 1, 1, 20], "data.calibration": "none",
    "data.scaler": "uncentred", "data.scaler_weight": "recording", "data.window_statistics": True,
    "splits.fractions": [0.8, 0, 0.2], "train.monitor": "none", "model.width": 32, "model.blocks": 1, "model.heads": 4,
}

# What outputs, losses and gradients depend on.
COMPARED = {
    "data.window_statistics", "model.upscaling", "model.width", "model.blocks", "model.heads", "model.last_block",
    "model.norm", "model.position", "model.max_length", "head.hidden", "head.batch_norm", "head.rows", "head.pool",
    "labels.edges", "train.loss",
}
NOT_COMPARED = {
    "the arrays are rows as the model reads them, already transformed, scaled and masked": [
        "data.features", "data.recording", "data.driver", "data.label", "data.quality", "data.missing",
        "data.increments", "data.transform", "data.transform_scale", "data.calibration", "data.calibration_blinks",
        "data.scaler", "data.scaler_weight", "data.tail_bound", "data.window", "data.stride",
        "data.evaluation_stride", "data.min_length", "splits.*", "mask.rate", "mask.actions", "mask.value",
        "mask.noise", "mask.count", "mask.hide"],
    "evaluation mode": ["model.dropout", "head.dropout"],
    "`parity` takes all weights of a loss as 1, and a loss on values themselves as the square": [
        "mask.calibration_weight", "train.recording_weights", "train.huber_delta"],
    "one pass, no training": [
        "train.epochs", "train.batch", "train.patience", "train.monitor", "train.rate", "train.warmup", "train.decay",
        "train.weight_decay", "train.accumulate", "train.clip", "train.seed", "train.precision",
        "train.checkpoint_seconds", "train.graph", "train.freeze", "train.unfreeze"],
    "metrics": ["labels.range", "labels.bands"],
}


def all_cases():
    cases = []
    for task in ("pretraining", "finetuning"):
        for upscaling in ("none", "linear", "attention_linear", "attention_concatenation"):
            for norm in ("post", "pre"):
                keys = {"model.width": 18} if upscaling == "none" else {}
                cases.append(Case("small", task, upscaling, norm, keys, from_scratch=norm == "pre"))
    more = [
        ("9 features, 4 heads", "attention_linear", "post", {**NINE, "model.heads": 4}),
        ("9 features, 4 heads of 3, width 9", "none", "pre", {**NINE, "model.heads": 4, "model.width": 9}),
        ("9 features, 4 heads, width 10", "attention_concatenation", "pre",
         {**NINE, "model.heads": 4, "model.width": 10}),
        ("18 features, 8 heads, width 26", "attention_concatenation", "post", {"model.heads": 8, "model.width": 26}),
        ("one head, one block", "linear", "post", {"model.heads": 1, "model.blocks": 1}),
        ("sinusoidal, odd width", "attention_linear", "post",
         {"model.position": "sinusoidal", "model.width": 25, "model.heads": 5}),
        ("no batch norm", "attention_linear", "post", {"head.batch_norm": False}),
        ("no hidden layer", "linear", "pre", {"head.hidden": []}),
        ("two hidden layers", "attention_linear", "pre", {"head.hidden": [12, 7]}),
        ("positions beyond the window", "attention_linear", "post", {"model.max_length": 40}),
        ("width 128, window 30", "attention_linear", "post",
         {"model.width": 128, "model.heads": 4, "model.blocks": 4, "data.window": 30, "head.hidden": [64]}),
        ("published size", "attention_linear", "post",
         {"model.width": 512, "model.heads": 4, "model.blocks": 4, "data.window": 30, "head.hidden": [64],
          "train.batch": 64, "train.rate": 6.2e-4}),
        ("window statistics", "attention_linear", "post", {"data.window_statistics": True}),
        ("window statistics, width 81", "attention_concatenation", "pre",
         {"data.window_statistics": True, "model.width": 81}),
        ("window statistics of 9, width 36", "none", "post",
         {**NINE, "data.window_statistics": True, "model.width": 36}),
    ]
    for name, upscaling, norm, keys in more:
        for task in ("pretraining", "finetuning"):
            cases.append(Case(name, task, upscaling, norm, keys, from_scratch=True))
    for norm in ("post", "pre"):
        cases.append(Case("head on chosen rows", "pretraining", "attention_linear", norm, {"head.rows": "masked"}))
        cases.append(Case("last block for chosen rows", "pretraining", "attention_linear", norm,
                          {"head.rows": "masked", "model.last_block": "read"}))
    for norm in ("post", "pre"):
        cases.append(Case("mean of the rows", "finetuning", "attention_linear", norm, {"head.pool": "mean"}, True))
        for loss in ("softmax", "ordinal"):
            cases.append(Case(loss, "finetuning", "attention_linear", norm, {"train.loss": loss}, True))
    for loss in ("softmax", "ordinal"):
        two_levels = {"train.loss": loss, "labels.edges": [6.5], "head.pool": "mean", "head.hidden": []}
        cases.append(Case(f"{loss}, two levels, pooled", "finetuning", "linear", "post", two_levels, True))
    cases.append(Case("recipe for real recordings", "pretraining", "linear", "post", RECIPE))
    recipe = {**RECIPE, "head.hidden": [], "head.pool": "mean", "train.loss": "softmax",
              "train.recording_weights": True, "train.freeze": False}
    cases.append(Case("recipe for real recordings", "finetuning", "linear", "post", recipe))
    return cases


class Programs:
    """The programs and the folder that they work in."""

    def __init__(self, folder, work):
        self.folder, self.work, self.backbones = folder, work, {}
        self.data = work / "drivers.csv"
        self.run("simulate", "--drivers", 8, "--seed", 3, "--out", self.data)

    def run(self, program, *arguments):
        command = [str(self.folder / program), "--quiet", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")

    def train(self, program, name, keys, *arguments):
        out = self.work / name
        settings = [f"--set={key}={json.dumps(value)}" for key, value in keys.items()]
        self.run(program, "--data", self.data, "--out", out, "--threads", 1, *settings, *arguments)
        return out / "checkpoints" / "last.safetensors"

    def checkpoint(self, index, case):
        keys = {**SMALL, "model.upscaling": case.upscaling, "model.norm": case.norm, **case.keys}
        if case.task == "pretraining":
            path = self.train("pretrain", f"run{index}", keys)
            self.backbones.setdefault((case.name, case.upscaling, case.norm), path)
            return path
        keys.update({"train.accumulate": 1, "train.unfreeze": []})
        if case.from_scratch:
            return self.train("finetune", f"run{index}", keys, "--from-scratch")
        inherited = ("model.", "data.window", "data.features", "data.increments", "data.transform", "data.calibration",
                     "data.scaler")
        keys = {key: value for key, value in keys.items() if not key.startswith(inherited)}
        backbone = self.backbones[case.name, case.upscaling, case.norm]
        return self.train("finetune", f"run{index}", keys, "--backbone", backbone, "--split",
                          backbone.parent.parent / "split.json")

    def parity(self, checkpoint, arrays):
        """The tensors that `parity` writes for these arrays."""
        folder = self.work / "arrays"
        folder.mkdir(exist_ok=True)
        arguments = ["--checkpoint", checkpoint, "--out", folder, "--threads", 1]
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
            arguments += [f"--{name}", folder / f"{name}.npy"]
        self.run("parity", *arguments)
        return load_file(folder / "parity.safetensors")


def make_arrays(case, features, window, settings):
    """Arrays of one call with a target. Padded rows, and targets that no loss reads, hold NaN.

    Chosen rows hold random values too: -1 in every feature, as in training, leaves layer norm hardly any spread to
    divide by, which magnifies float rounding up to the tolerance and compares nothing more.
    """
    random = np.random.default_rng(SEED)
    lengths = np.array([window, window - 1, window // 2, 5, 3, 1, 0], dtype=np.int32)
    B, L = len(lengths), window
    real = np.arange(L) < lengths[:, None]
    x = random.normal(size=(B, L, features)).astype(np.float32)
    x[~real] = np.nan
    if case.task == "finetuning":
        target = random.uniform(1, 9, size=B)
        if settings["train"]["loss"] in ("softmax", "ordinal"):  # every level, and the edges themselves
            edges = settings["labels"]["edges"]
            target = np.resize([edges[0] - 1, *edges, edges[-1] + 0.25], B)
        target = np.where(lengths > 0, target, np.nan).astype(np.float32)
        return {"input": x, "lengths": lengths, "target": target}
    masked = random.random((B, L)) < 0.3
    masked[:2, 1] = True  # the full-length sequences always choose a row ...
    masked[4] = True  # ... and one has no visible key
    masked &= real
    target = random.normal(size=(B, L, features)).astype(np.float32)
    target[~masked] = np.nan
    return {"input": x, "lengths": lengths, "masked": masked, "target": target}


def other_arrays(case, arrays, reads_chosen_rows):
    """A call without a target: the other side of each optional array."""
    x = np.nan_to_num(arrays["input"])
    if case.task == "finetuning":
        masked = np.random.default_rng(SEED + 1).random(x.shape[:2]) < 0.3
        masked[:2, -1] = True, False
        return {"input": x, "masked": masked}
    return {"input": x, "masked": arrays["masked"]} if reads_chosen_rows else {"input": x}


def as_torch(arrays):
    """x, lengths, masked, target, with the optional ones filled in."""
    x = torch.from_numpy(arrays["input"]).double()
    B, L = x.shape[:2]
    lengths = torch.from_numpy(arrays.get("lengths", np.full(B, L))).long()
    masked = torch.from_numpy(arrays.get("masked", np.zeros((B, L), dtype=bool)))
    target = torch.from_numpy(arrays["target"]).double() if "target" in arrays else None
    return x, lengths, masked, target


def reference(net, arrays):
    """What `parity` should write, in double precision."""
    x, lengths, masked, target = as_torch(arrays)
    net.zero_grad()
    output = net(x, lengths, masked)
    expected = {"output": output.detach()}
    if target is not None:
        loss = net.loss(output, target, lengths, masked)
        loss.backward()
        expected["loss"] = loss.detach()
        expected.update({f"grad.{name}": value.grad for name, value in net.named_parameters()})
    return expected


def relative_error(found, expected):
    """Largest difference over the largest value; infinite where a number is not finite or the reference is all zero."""
    scale = expected.abs().max().item()
    error = (found.double() - expected).abs().max().item() / scale if scale > 0 else float("inf")
    return error if np.isfinite(error) else float("inf")


@dataclass
class Result:
    """The worst tensor of a case, and what is wrong."""
    worst: str = ""
    error: float = -1.0
    tensors: int = 0
    failures: list = field(default_factory=list)

    def add(self, name, error):
        self.tensors += 1
        if error > self.error:
            self.worst, self.error = name, error
        if not error < TOLERANCE:
            self.failures.append(f"{name}: error {error:.1e}")

    def demand(self, holds, message):
        if not holds:
            self.failures.append(message)


def compare_tensors(result, found, expected, prefix=""):
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    result.demand(not missing and not extra, f"{prefix}missing {sorted(missing)}, unexpected {sorted(extra)}")
    for name in sorted(expected.keys() & found.keys()):
        same_shape = found[name].shape == expected[name].shape
        shapes = f"shape {list(found[name].shape)}, expected {list(expected[name].shape)}"
        result.demand(same_shape, f"{prefix}{name}: {shapes}")
        if same_shape:
            result.add(prefix + name, relative_error(found[name], expected[name]))


def compare_zeros(result, found, net, longest):
    """The gradients that are zero by construction."""
    for name, gradient in found.items():
        if name.endswith("in_proj_bias"):
            size = gradient.numel() // 3
            key_bias = gradient[size:2 * size].abs().max().item()
            attention = net.get_submodule(name.removeprefix("grad.").removesuffix(".in_proj_bias"))
            scale = attention.key_gradient_sizes.max().item()
            is_zero = key_bias <= ZERO_TOLERANCE * scale
            result.demand(is_zero, f"{name}: key part {key_bias:.1e}, not 0 beside {scale:.1e}")
        if name.endswith("position.weight"):
            result.demand(not gradient[longest:].any(), f"{name}: not zero beyond row {longest}")


def compare_torch_encoder(result, net, tensors, settings, arrays, found):
    """The output again, by way of torch.nn.TransformerEncoder. It has no answer where no key is visible."""
    x, lengths, masked, _ = as_torch(arrays)
    real = torch.arange(x.shape[1]) < lengths[:, None]
    answers = (real & ~masked).any(dim=1)
    x, lengths, masked, real = x[answers], lengths[answers], masked[answers], real[answers]
    with torch.no_grad():
        expected = net(x, lengths, masked, encoder=model.torch_encoder(tensors, settings))
    output = found["output"]
    if net.pretrains and net.reads_chosen_rows:
        sequence_of_row = torch.from_numpy(np.nonzero(arrays["masked"])[0])
        output = output[answers[sequence_of_row]]
    else:
        output = output[answers]
    result.add("output of torch.nn.TransformerEncoder", relative_error(output, expected))


def check_file(result, case, path, metadata, tensors):
    """The file itself: what the safetensors package reads must make sense without the library."""
    result.demand(metadata["task"] == case.task, f"metadata: task {metadata['task']}")
    channels = len(case.keys.get("data.features", range(9))) + len(case.keys.get("data.increments", []))
    features = channels if case.keys.get("data.calibration") == "none" else 2 * channels
    names, scaler = json.loads(metadata["features"]), json.loads(metadata["scaler"])
    result.demand(len(names) == len(set(names)) == features, f"metadata: {len(names)} features, expected {features}")
    result.demand(len(scaler["center"]) == len(scaler["scale"]) == features, "metadata: the scaler has another length")
    is_float = all(value.dtype == torch.float32 for value in tensors.values())
    result.demand(is_float, f"{path.name}: not all tensors are float32")


def check_keys(result, settings, compared):
    """Adds this checkpoint's values of the compared keys to `compared`; a key that is in no list is a failure."""
    reasons = {key for keys in NOT_COMPARED.values() for key in keys}
    for section, values in settings.items():
        for key, value in values.items():
            name = f"{section}.{key}"
            if name in COMPARED:
                compared.setdefault(name, set()).add(json.dumps(value))
            result.demand(name in COMPARED or name in reasons or f"{section}.*" in reasons,
                          f"{name}: say in COMPARED or NOT_COMPARED whether outputs depend on it")


def print_keys(compared):
    print("\nkeys that outputs, losses and gradients depend on, and the values compared")
    for name in sorted(COMPARED):
        print(f"  {name:<24} {', '.join(sorted(compared.get(name, []), key=lambda value: (len(value), value)))}")
    print("not compared")
    for reason, keys in NOT_COMPARED.items():
        print(textwrap.fill(f"{reason}: {', '.join(keys)}", 118, initial_indent="  ", subsequent_indent="    "))


def run_case(programs, index, case, compared):
    result = Result()
    path = programs.checkpoint(index, case)
    net, tensors, metadata = model.load_checkpoint(path)
    settings = json.loads(metadata["config"])
    check_file(result, case, path, metadata, tensors)
    check_keys(result, settings, compared)
    features, window = len(json.loads(metadata["features"])), settings["data"]["window"]
    heads_divide = settings["model"]["width"] % settings["model"]["heads"] == 0

    arrays = make_arrays(case, features, window, settings)
    found, expected = programs.parity(path, arrays), reference(net, arrays)
    compare_tensors(result, found, expected)
    compare_zeros(result, found, net, window)
    if heads_divide:
        compare_torch_encoder(result, net, tensors, settings, arrays, found)

    other = other_arrays(case, arrays, net.reads_chosen_rows)
    other_found = programs.parity(path, other)
    compare_tensors(result, other_found, reference(net, other), "without target: ")
    if heads_divide:
        compare_torch_encoder(result, net, tensors, settings, other, other_found)
    return result, (net, arrays, found)


def self_check(net, arrays, found):
    """Tensors of which one changed weight goes unnoticed. The last element: of in_proj, that is one of the values."""
    unnoticed = []
    values = {name: value for name, value in net.state_dict().items()}
    for name, value in values.items():
        last = value.view(-1)[-1]
        before = last.item()
        last.copy_(torch.tensor(before + 0.01))
        result = Result()
        compare_tensors(result, found, reference(net, arrays))
        if not result.failures:
            unnoticed.append(name)
        last.copy_(torch.tensor(before, dtype=value.dtype))
    restored = Result()
    compare_tensors(restored, found, reference(net, arrays))
    return len(values), unnoticed, restored.failures


def main():
    parser = argparse.ArgumentParser(description="Compares outputs, losses and gradients with PyTorch.")
    parser.add_argument("programs", type=pathlib.Path, help="folder of simulate, pretrain, finetune and parity")
    parser.add_argument("--self-check", action="store_true", help="also show that one changed weight is noticed")
    arguments = parser.parse_args()
    if not (arguments.programs / "parity").is_file():
        parser.error(f"{arguments.programs} holds no program `parity`")
    torch.set_num_threads(1)

    row = "{:<36} {:<12} {:<24} {:<5} {:>7}  {:<62} {:>7}"
    print(f"torch {torch.__version__}; errors relative to a tensor's largest value, below {TOLERANCE:.0e}\n")
    print(row.format("case", "model", "upscaling", "norm", "tensors", "worst tensor", "error"))
    failed, count, checked, compared = 0, 0, {}, {}
    with tempfile.TemporaryDirectory() as work:
        programs = Programs(arguments.programs.resolve(), pathlib.Path(work))
        for index, case in enumerate(all_cases()):
            try:
                result, kept = run_case(programs, index, case, compared)
            except (RuntimeError, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
                result, kept = Result(failures=[str(error)]), None
            what = case.name, case.task, case.upscaling, case.norm
            print(row.format(*what, result.tensors, result.worst, f"{result.error:.1e}"))
            for failure in result.failures:
                print(f"  FAILED {failure}")
            failed += bool(result.failures)
            count += 1
            is_small = case.name == "small" and case.upscaling == "attention_concatenation"
            if not result.failures and (is_small or case.name in ("softmax", "ordinal")):
                checked[f"{case.name}, {case.task}, {case.norm}-norm"] = kept
    print_keys(compared)
    if arguments.self_check:
        print()
        if not checked:
            print("FAILED self-check: no case to check with")
            failed += 1
        for name, kept in checked.items():
            weights, unnoticed, failures = self_check(*kept)
            print(f"self-check, {name}: {weights - len(unnoticed)} of {weights} changed weights noticed")
            for problem in [f"unnoticed: {tensor}" for tensor in unnoticed] + failures:
                print(f"  FAILED {problem}")
            failed += bool(unnoticed or failures)
    print(f"\n{count} cases, {failed} failed" if failed else f"\n{count} cases, all agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
