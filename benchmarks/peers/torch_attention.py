#!/usr/bin/env python3
"""Times PyTorch's attention on a GPU, one implementation after the other, each forced: forward, and backward as what forward
and backward take more. The sizes are those of kernel_bench's cases of attention, and so are rows and method: a captured graph
of 20 launches over copies of the inputs that make 256 MB together, events between replays, bytes that must move.

    torch_attention.py                  adds rows to benchmarks/results/<GPU>/attention_peers.csv

mask: keys hides 15 % of the keys of each sequence, none hides nothing, which is other mathematics than the model's and an upper
bound only. An implementation that refuses the inputs is named with the reason. Exit code: 0 done, 2 wrong usage or no GPU.
"""

import argparse
import csv
import pathlib
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
try:
    import torch
    import torch.nn.functional as F

    import measure
except ImportError as error:
    sys.exit(f"torch_attention.py: {error}; install PyTorch for it: bash benchmarks/peers/install.sh torch")

LAUNCHES, LEAST_BYTES, REPETITIONS, WARMUP = 20, 256e6, 50, 3
HEADS, WIDTH = 4, 128
BACKENDS = {"efficient": "EFFICIENT_ATTENTION", "math": "MATH", "cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION"}
# Implementation, whether it is compiled, mask, dropout.
VARIANTS = [("efficient", False, "keys", 0.01), ("math", True, "keys", 0.01), ("math", False, "keys", 0.01),
            ("efficient", False, "keys", 0.0), ("cudnn", False, "keys", 0.0), ("math", True, "keys", 0.0),
            ("flash", False, "none", 0.01)]
SIZES = [(1024, 30), (1024, 64), (64, 30), (256, 128), (64, 512)]


def attention(q, k, v, keys, p):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, dropout_p=p)


def time_graph(run, copies):
    """Milliseconds of one of `copies` runs, over replays."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(copies):
            run(i)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(LAUNCHES):
            run(i % copies)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPETITIONS + WARMUP + 1)]
    for mark in marks:
        mark.record()
        graph.replay()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / LAUNCHES for a, b in zip(marks[WARMUP:], marks[WARMUP + 1:])]


def time_variant(size, variant, number):
    """Milliseconds of forward, and of forward and backward."""
    (B, L), (name, is_compiled, mask, p) = size, variant
    T, E = B * L, HEADS * WIDTH
    copies = min(LAUNCHES, max(1, -(-int(LEAST_BYTES) // (4 * T * E * number.itemsize))))
    qkv = [torch.randn(B, L, 3, HEADS, WIDTH, device="cuda", dtype=number, requires_grad=True) for _ in range(copies)]
    gradients = [torch.randn(B, HEADS, L, WIDTH, device="cuda", dtype=number) for _ in range(copies)]
    keys = None
    if mask == "keys":
        hidden = torch.rand(B, L, device="cuda").argsort(dim=1) < round(0.15 * L)
        keys = ~hidden[:, None, None, :]
    call = torch.compile(attention, fullgraph=True, dynamic=False) if is_compiled else attention

    def forward(i):
        q, k, v = qkv[i].permute(2, 0, 3, 1, 4)
        return call(q, k, v, keys, p)

    def forward_alone(i):
        with torch.no_grad():
            forward(i)

    def both(i):
        torch.autograd.grad(forward(i), qkv[i], gradients[i])

    with torch.nn.attention.sdpa_kernel(getattr(torch.nn.attention.SDPBackend, BACKENDS[name])):
        return time_graph(forward_alone, copies), time_graph(both, copies)


def commit():
    words = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "tf32", "fp32"])
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[1] / "results")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    flags = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU")
    if flags.dtype == "tf32":
        torch.set_float32_matmul_precision("high")
    number = torch.bfloat16 if flags.dtype == "bf16" else torch.float32
    gpu = torch.cuda.get_device_name()
    folder = flags.results / measure.folder_name(gpu)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "attention_peers.csv"
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(["commit", "device", "library", "dtype", "implementation", "compiled", "mask", "dropout", "shape",
                             "pass", "us", "lower_quartile", "upper_quartile", "repetitions", "gbyte_per_second",
                             "percent_of_copy", "copy_gbyte_per_second"])
        for size in SIZES:
            B, L = size
            copy_rate = measure.rate_of_copies(torch)
            TE = B * L * HEADS * WIDTH * number.itemsize
            print(f"B {B}, L {L}, H {HEADS}, D {WIDTH}; copies {copy_rate:.0f} GB/s", flush=True)
            for variant in VARIANTS:
                name, is_compiled, mask, p = variant
                what = f"  {name}{', compiled' if is_compiled else ''}, mask {mask}, dropout {p}"
                torch.manual_seed(1)
                try:
                    forward, both = time_variant(size, variant, number)
                except Exception as error:  # whatever an implementation that refuses says
                    print(f"{what}: did not run: {str(error).strip().splitlines()[0]}", flush=True)
                    continue
                finally:
                    torch.cuda.empty_cache()
                backward = [value - statistics.median(forward) for value in both]
                for which, ms, bytes_moved in (("forward", forward, 4 * TE), ("backward", backward, 7 * TE)):
                    low, median, high = (1e3 * value for value in statistics.quantiles(ms, n=4, method="inclusive"))
                    rate = bytes_moved / (1e3 * median)
                    print(f"{what}, {which}: {median:.1f} us [{low:.1f}, {high:.1f}], {rate:.0f} GB/s, "
                          f"{100 * rate / copy_rate:.0f} % copy", flush=True)
                    writer.writerow([flags.commit or commit() or "unknown", gpu, f"torch {torch.__version__}", flags.dtype,
                                     name, int(is_compiled), mask, p, f"B {B}, L {L}, H {HEADS}, D {WIDTH}", which,
                                     f"{median:.5g}", f"{low:.5g}", f"{high:.5g}", len(ms), f"{rate:.5g}",
                                     f"{100 * rate / copy_rate:.4g}", f"{copy_rate:.5g}"])
                    file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
