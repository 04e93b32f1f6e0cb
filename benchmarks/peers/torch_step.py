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

import contextlib
import sys

sys.dont_write_bytecode = True
try:
    import numpy as np
    import torch

    import measure
    import step_peer
    import torch_model
except ImportError as error:
    sys.exit(f"torch_step.py: {error}; install PyTorch for it: bash benchmarks/peers/install.sh torch")

BACKENDS = {"efficient": "EFFICIENT_ATTENTION", "math": "MATH", "flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION"}


class Batch:
    """One batch on the device, as `masked_loss` takes it."""

    def __init__(self, flags, rows, dtype):
        x, target = (torch.from_numpy(values).to(flags.device, dtype) for values in (rows.x, rows.target))
        chosen, visible = (torch.from_numpy(values).to(flags.device) for values in (rows.chosen, rows.visible))
        places = chosen.flatten().nonzero()[:, 0]
        self.x, self.target, self.places = x, target[chosen], places
        self.keys = visible[:, None, None, :] if flags.hide else None
        self.read = torch_model.RowsRead(rows.chosen, flags.device) if flags.last_block == "read" else None

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


class Step:
    """A model and its optimizer; `run(batch)` trains one step and returns its loss."""

    def __init__(self, flags, net, mode, dtype):
        self.flags, self.net = flags, net
        self.has_narrow_parameters = dtype == "bf16" and flags.params == "bf16"
        groups = torch_model.parameter_groups(net, step_peer.WEIGHT_DECAY)
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
        self.optimizer = torch.optim.AdamW(groups, lr=step_peer.RATE, betas=(step_peer.BETA1, step_peer.BETA2),
                                           eps=step_peer.EPSILON, fused=True, capturable=flags.graph == 1)
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
        torch.nn.utils.clip_grad_norm_(self.trained, step_peer.CLIP, foreach=True)
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


def train_stored(flags, tensors):
    """Losses of the stored steps, and the gradients of the first."""
    number = torch.float64 if flags.dtype == "fp64" else torch.float32
    net = torch_model.load_model(flags.weights, 0).to(flags.device, number).train()
    step = Step(flags, net, flags.mode, flags.dtype)
    losses, gradients = [], None
    for rows in step_peer.stored_rows(tensors):
        loss = step.backward(Batch(flags, rows, step.number))
        losses.append(loss.item())
        if gradients is None:
            gradients = {name: p.grad.detach().double().cpu().numpy().copy() for name, p in net.named_parameters()}
        step.update()
    return losses, gradients


def main():
    parser = step_peer.make_parser(__doc__.split("\n\n")[0])
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
    flags = step_peer.parse(parser)
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
        return step_peer.check(flags, train_stored, device="cpu", mode="eager", attn="default", graph=0, params="fp32")

    torch.manual_seed(1)
    if flags.weights:
        net = torch_model.load_model(flags.weights, flags.dropout)
    else:
        settings = torch_model.settings_of(flags, [64], flags.head_rows)
        net = torch_model.TorchModel("pretraining", flags.N, settings, flags.dropout)
    net = net.to(flags.device, flags.number).train()
    random = np.random.default_rng(1)
    step = Step(flags, net, flags.mode, flags.dtype)
    batches = [Batch(flags, step_peer.random_rows(flags, random), step.number) for _ in range(measure.BATCHES)]
    if flags.graph:
        step.capture(Batch(flags, step_peer.random_rows(flags, random), step.number))
    drain = torch.cuda.synchronize if is_cuda else lambda: None
    last = {}

    def run(i):
        loss = step.run(batches[i % len(batches)])
        last["loss"] = loss if is_cuda else loss.item()  # on a GPU nothing waits for it

    if is_cuda:
        ms = measure.repetitions(run, flags.seconds, flags.warmup, 20, measure.wait_one_behind(torch), drain)
    else:
        ms = measure.turns(run, flags)
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
    step_peer.report(flags, f"torch {torch.__version__}", flags.mode, ms, memory, len(batches[0].places),
                     float(last["loss"]), gemm, attn=flags.attn, params=flags.params, graph=flags.graph, **more)
    return 0


if __name__ == "__main__":
    sys.exit(main())
