#!/usr/bin/env python3
"""Times one whole training step of the pre-training model in PyTorch: forward, loss on the chosen rows, backward, clipping
by the global norm, AdamW. The flags and the JSON are those of step_bench; batches are masked and on the device before
the clock starts, which step_bench does inside its steps.

    torch_step.py --weights FILE        weights, sizes and rates from a checkpoint of step_bench
    torch_step.py --check DIR           times nothing: compares with what step_bench --check DIR left there

--check repeats those steps twice, in double precision and as the other flags say, and compares the loss of every step and
the gradients of the first: step_bench with double precision, and this program's own with it. Exit code 1 where one is
further away than the tolerance.
"""

import argparse
import contextlib
import json
import pathlib
import sys

sys.dont_write_bytecode = True
try:
    import torch
    from safetensors.torch import load_file

    import measure
    import torch_model
except ImportError as error:
    sys.exit(f"torch_step.py: {error}; install PyTorch for it: bash benchmarks/peers/install.sh torch")

RATE, WEIGHT_DECAY, CLIP = 6.2e-4, 0.0095, 1.0
# Of gradients. fp32: largest difference over the largest value of a tensor. Others: norm of the difference over
# the norm; rounding alone reaches several per cent in small tensors, another formula some ten.
TOLERANCES = {"fp64": 1e-5, "fp32": 1e-5, "tf32": 0.05, "bf16": 0.2}
# Of losses. AdamW's first steps divide a gradient by its own size, which magnifies rounding where it is nearly zero: two
# updates of a model of width 512 in fp32 reach 2e-5.
LOSS_TOLERANCES = {"fp64": 1e-4, "fp32": 1e-4, "tf32": 1e-2, "bf16": 0.05}
BACKENDS = {"efficient": "EFFICIENT_ATTENTION", "math": "MATH", "flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION"}


class Batch:
    """One batch on the device, as `masked_loss` takes it."""

    def __init__(self, flags, x, target, chosen, visible, dtype):
        x, target = x.to(flags.device, dtype), target.to(flags.device, dtype)
        chosen, visible = chosen.to(flags.device), visible.to(flags.device)
        places = chosen.flatten().nonzero()[:, 0]
        self.x, self.target, self.places = x, target[chosen], places
        self.keys = visible[:, None, None, :] if flags.hide else None
        self.read = torch_model.RowsRead(chosen) if flags.last_block == "read" else None

    def arguments(self):
        return self.x, self.target, self.keys, self.places, self.read

    def copy_(self, other):
        for mine, its in ((self.x, other.x), (self.target, other.target), (self.places, other.places),
                          (self.keys, other.keys)):
            if mine is not None:
                mine.copy_(its)
        if self.read is not None:
            for name in ("by_sequence", "places", "flat"):
                getattr(self.read, name).copy_(getattr(other.read, name))


def take_rates(flags, path):
    """What a checkpoint of step_bench says of the flags."""
    config = torch_model.take_sizes(flags, path)
    flags.dropout, flags.mask_rate = config["model"]["dropout"], config["mask"]["rate"]
    flags.hide = int(config["mask"]["hide"] == "chosen")
    flags.head_rows, flags.last_block = config["head"]["rows"], config["model"]["last_block"]


def random_batch(flags, generator):
    """Of every sequence as many rows are chosen as by mask.count = "batch"; all of them are replaced."""
    x = torch.randn(flags.B, flags.L, flags.N, generator=generator)
    rate = round(1e6 * flags.mask_rate)
    sums = [(rate * flags.L * b + 500000) // 1000000 for b in range(flags.B + 1)]
    counts = torch.tensor(sums).diff()
    chosen = torch.rand(flags.B, flags.L, generator=generator).argsort(dim=1).argsort(dim=1) < counts[:, None]
    masked = torch.where(chosen[:, :, None], -1.0, x)
    return Batch(flags, masked, x, chosen, ~chosen, flags.number)


def stored_batch(flags, tensors, i, dtype):
    chosen, visible = (tensors[f"{name}.{i}"].bool() for name in ("chosen", "visible"))
    return Batch(flags, tensors[f"x.{i}"], tensors[f"target.{i}"], chosen, visible, dtype)


class Step:
    """A model and its optimizer; `run(batch)` trains one step and returns its loss."""

    def __init__(self, flags, net, mode, dtype):
        self.flags, self.net = flags, net
        self.has_narrow_parameters = dtype == "bf16" and flags.params == "bf16"
        groups = torch_model.parameter_groups(net, WEIGHT_DECAY)
        self.parameters = [p for group in groups for p in group["params"]]
        self.trained = self.parameters
        if self.has_narrow_parameters:
            self.trained = [p.detach().clone() for p in self.parameters]
            for p in self.trained:
                p.grad = torch.zeros_like(p)
            places = iter(self.trained)
            groups = [{**group, "params": [next(places) for _ in group["params"]]} for group in groups]
            net.to(torch.bfloat16)
        self.number = next(net.parameters()).dtype
        if flags.attn == "flex":
            net.attention = torch_model.flex_attention
        loss = net.masked_loss
        if mode == "compile":
            loss = torch.compile(loss, dynamic=False)
        elif mode != "eager":
            loss = torch.compile(loss, dynamic=False, mode=mode)
        self.loss = loss
        self.uses_autocast = dtype == "bf16" and not self.has_narrow_parameters
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, eps=1e-8,
                                           fused=True, capturable=flags.graph == 1)
        self.graph = None

    def attention(self):
        if self.flags.attn in ("default", "flex"):
            return contextlib.nullcontext()
        return torch.nn.attention.sdpa_kernel(getattr(torch.nn.attention.SDPBackend, BACKENDS[self.flags.attn]))

    def backward(self, batch):
        self.net.zero_grad(set_to_none=True)
        with self.attention(), torch.autocast(self.flags.device, torch.bfloat16, enabled=self.uses_autocast):
            loss = self.loss(*batch.arguments())
        loss.backward()
        return loss

    def update(self):
        if self.has_narrow_parameters:
            torch._foreach_copy_([p.grad for p in self.trained], [p.grad for p in self.parameters])
        torch.nn.utils.clip_grad_norm_(self.trained, CLIP, foreach=True)
        self.optimizer.step()
        if self.has_narrow_parameters:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.trained)

    def run(self, batch):
        if self.graph is None:
            loss = self.backward(batch)
            self.update()
            return loss
        self.static.copy_(batch)
        self.graph.replay()
        return self.captured

    def capture(self, batch):
        """From now on a step is one CUDA graph over a batch of its own, which `run` copies into."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.run(batch)
        torch.cuda.current_stream().wait_stream(stream)
        self.static = batch
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.captured = self.backward(batch)
            self.update()
        self.graph = graph


def relative_errors(found, expected, by_norm):
    """Per tensor; a bias relative to its weight's gradient where that is larger, a sum over the same rows: a bias in front
    of a batch norm has no gradient at all but rounding."""
    def size(tensor):
        return (tensor.norm() if by_norm else tensor.abs().max()).item()

    errors = {}
    for name, reference in expected.items():
        scale = size(reference)
        if name.endswith("bias"):
            scale = max(scale, size(expected[name[: -len("bias")] + "weight"]))
        errors[name] = size(found[name].double() - reference) / scale
    return errors


def train_stored(flags, tensors, mode, dtype):
    """Losses of the stored steps, and the gradients of the first."""
    number = torch.float64 if dtype == "fp64" else torch.float32
    net = torch_model.load_model(flags.check / "weights.safetensors", 0).to(flags.device, number).train()
    step = Step(flags, net, mode, dtype)
    losses, gradients = [], None
    while f"x.{len(losses)}" in tensors:
        loss = step.backward(stored_batch(flags, tensors, len(losses), step.number))
        losses.append(loss.item())
        if gradients is None:
            gradients = {name: p.grad.detach().cpu().clone() for name, p in net.named_parameters()}
        step.update()
    return losses, gradients


def check(flags):
    tensors = load_file(flags.check / "ours.safetensors")
    reference_flags = argparse.Namespace(**{**vars(flags), "device": "cpu", "attn": "default", "graph": 0,
                                           "params": "fp32"})
    losses, gradients = train_stored(reference_flags, tensors, "eager", "fp64")
    peer_losses, peer_gradients = train_stored(flags, tensors, flags.mode, flags.dtype)
    ours = ([tensors[f"loss.{i}"].item() for i in range(len(losses))],
            {name: tensors[f"grad.{name}"] for name in gradients})
    by_norm = flags.dtype in ("tf32", "bf16")
    result, is_good = {"steps": len(losses), "tensors": len(gradients)}, True
    for who, (their_losses, their_gradients) in {"ours": ours, "peer": (peer_losses, peer_gradients)}.items():
        errors = relative_errors(their_gradients, gradients, by_norm)
        worst = max(errors, key=errors.get)
        loss_error = max(abs(a / b - 1) for a, b in zip(their_losses, losses))
        result[who] = {"loss_error": loss_error, "gradient_error": errors[worst], "worst": worst}
        is_good &= errors[worst] < TOLERANCES[flags.dtype] and loss_error < LOSS_TOLERANCES[flags.dtype]
    print(json.dumps(result))
    return 0 if is_good else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    measure.add_flags(parser, 64)
    parser.add_argument("--dropout", type=float, default=0.01)
    parser.add_argument("--mask-rate", type=float, default=0.15)
    parser.add_argument("--hide", type=int, default=1, choices=[0, 1], help="1: chosen rows are hidden as keys")
    parser.add_argument("--head-rows", default="all", choices=["all", "masked"])
    parser.add_argument("--last-block", default="all", choices=["all", "read"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=["fp64", "fp32", "tf32", "bf16"],
                        help="bf16: autocast, parameters stay fp32")
    parser.add_argument("--mode", default="eager",
                        choices=["eager", "compile", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
    parser.add_argument("--params", default="fp32", choices=["fp32", "bf16"],
                        help="with --dtype bf16; bf16: no autocast, the optimizer has fp32 copies of bf16 parameters")
    parser.add_argument("--attn", default="default", choices=["default", *BACKENDS, "flex"],
                        help="the only attention allowed; an error where it does not take these inputs")
    parser.add_argument("--graph", type=int, default=0, choices=[0, 1],
                        help="1: the whole step is one CUDA graph (with eager, compile, max-autotune-no-cudagraphs)")
    parser.add_argument("--check", type=pathlib.Path, help="compare with what step_bench --check left in this folder")
    flags = parser.parse_args()
    if flags.last_block == "read" and flags.head_rows == "all":
        parser.error("--last-block read needs --head-rows masked")
    is_cuda = flags.device == "cuda"
    if is_cuda and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU")
    if flags.graph and not is_cuda:
        parser.error("--graph 1 needs --device cuda")
    if flags.dtype == "tf32":
        torch.set_float32_matmul_precision("high")
    if flags.threads:
        torch.set_num_threads(flags.threads)
    flags.threads = torch.get_num_threads()
    flags.number = torch.float64 if flags.dtype == "fp64" else torch.float32
    if flags.check:
        take_rates(flags, flags.check / "weights.safetensors")
        return check(flags)

    torch.manual_seed(1)
    if flags.weights:
        take_rates(flags, flags.weights)
        net = torch_model.load_model(flags.weights, flags.dropout)
    else:
        settings = torch_model.settings_of(flags, [64], flags.head_rows)
        net = torch_model.TorchModel("pretraining", flags.N, settings, flags.dropout)
    net = net.to(flags.device, flags.number).train()
    generator = torch.Generator().manual_seed(1)
    step = Step(flags, net, flags.mode, flags.dtype)
    flags.number = step.number
    batches = [random_batch(flags, generator) for _ in range(measure.BATCHES)]
    if flags.graph:
        step.capture(random_batch(flags, generator))
    drain = torch.cuda.synchronize if is_cuda else lambda: None
    last = {}

    def run(i):
        loss = step.run(batches[i % len(batches)])
        last["loss"] = loss if is_cuda else loss.item()  # on a GPU nothing waits for it

    if is_cuda:
        ms = measure.repetitions(run, flags.seconds, flags.warmup, 20, measure.wait_one_behind(torch), drain)
    else:
        ms = measure.repetitions(run, flags.seconds, flags.warmup)
    memory = measure.peak_memory_mib()
    more = {"device_memory_mib": torch.cuda.max_memory_allocated() / 2**20,
            "gpu": torch.cuda.get_device_name()} if is_cuda else {}
    number = torch.bfloat16 if flags.dtype == "bf16" else flags.number
    T = flags.B * flags.L
    x, weight = (torch.randn(rows, flags.E, device=flags.device, dtype=number) for rows in (T, 4 * flags.E))
    out = torch.empty(T, 4 * flags.E, device=flags.device, dtype=number)
    gemm = measure.rate_of_products(lambda: torch.mm(x, weight.t(), out=out), T, flags.E, 20 if is_cuda else 1, drain)
    if is_cuda:
        more["copy_gbyte_per_second"] = measure.rate_of_copies(torch)
    measure.report(flags, "step", f"torch {torch.__version__}", flags.mode, ms, memory, dropout=flags.dropout,
                   mask_rate=flags.mask_rate, hide=flags.hide, head_rows=flags.head_rows, last_block=flags.last_block,
                   attn=flags.attn, params=flags.params, graph=flags.graph, chosen_rows=len(batches[0].places),
                   loss=float(last["loss"]), gemm_gflop_per_second=gemm, **more)
    return 0


if __name__ == "__main__":
    sys.exit(main())
