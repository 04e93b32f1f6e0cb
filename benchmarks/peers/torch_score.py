#!/usr/bin/env python3
"""Times scoring a batch of windows in PyTorch: rows on the host to scores on the host. Flags and JSON are those of
score_bench.

    torch_score.py --weights FILE                 weights and sizes from a checkpoint of score_bench
    torch_score.py --weights FILE --export FILE   times nothing: writes the graph as ONNX for onnx_score.py
    torch_score.py --check DIR                    times nothing: compares with what score_bench --check DIR left there

--check computes the scores twice, in double precision and as the other flags say; exit code 1 where those of score_bench or
this program's own are further away from the first than the tolerance, relative to the largest.
"""

import argparse
import json
import pathlib
import sys

sys.dont_write_bytecode = True
try:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    import measure
    import torch_model
except ImportError as error:
    sys.exit(f"torch_score.py: {error}; install PyTorch for it: bash benchmarks/peers/install.sh torch")

TOLERANCES = {"fp32": 1e-5, "tf32": 0.01, "bf16": 0.05}


class Scorer(torch.nn.Module):
    def __init__(self, net, flags):
        super().__init__()
        self.net = net
        chosen = np.zeros((flags.B, flags.L), dtype=bool)
        chosen[:, -1] = True
        self.read = torch_model.RowsRead(chosen, flags.device) if flags.last_row else None

    def forward(self, x):
        return self.net.scores(x, self.read)


def make_scorer(flags, dtype, mode):
    net = torch_model.load_model(flags.weights, 0) if flags.weights else torch_model.TorchModel(
        "finetuning", flags.N, torch_model.settings_of(flags, [16], "masked"), 0)
    scorer = Scorer(net, flags).to(flags.device).eval()
    if dtype == "fp64":
        scorer = scorer.double()
    if dtype == "bf16":
        scorer = scorer.bfloat16()
    return torch.compile(scorer, dynamic=False) if mode == "compile" else scorer


def check(flags):
    tensors = load_file(flags.check / "ours.safetensors")
    x, ours = tensors["x"], tensors["scores"].double()
    reference = make_scorer(flags, "fp64", "eager")(x.to(flags.device).double()).cpu()
    number = torch.bfloat16 if flags.dtype == "bf16" else torch.float32
    own = make_scorer(flags, flags.dtype, flags.mode)(x.to(flags.device, number)).double().cpu()
    errors = {who: ((found - reference).abs().max() / reference.abs().max()).item()
              for who, found in (("ours", ours), ("peer", own))}
    print(json.dumps({"scores": len(ours), **{who: {"score_error": error} for who, error in errors.items()}}))
    return 0 if max(errors.values()) < TOLERANCES[flags.dtype] else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    measure.add_flags(parser, 1)
    parser.add_argument("--last-row", type=int, default=1, choices=[0, 1],
                        help="0: the last block is computed for every row")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "tf32", "bf16"], help="of parameters and rows")
    parser.add_argument("--mode", default="eager", choices=["eager", "compile"])
    parser.add_argument("--export", type=pathlib.Path, help="write the graph of these sizes there, as ONNX")
    parser.add_argument("--check", type=pathlib.Path, help="compare with what score_bench --check left in this folder")
    flags = parser.parse_args()
    if flags.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU")
    if flags.dtype == "tf32":
        torch.set_float32_matmul_precision("high")
    if flags.threads:
        torch.set_num_threads(flags.threads)
    flags.threads = torch.get_num_threads()
    torch.manual_seed(1)
    if flags.check:
        flags.weights = flags.check / "weights.safetensors"
    if flags.weights:
        measure.take_sizes(flags, flags.weights)
    with torch.inference_mode():
        if flags.check:
            return check(flags)
        scorer = make_scorer(flags, flags.dtype, flags.mode)
        number = torch.bfloat16 if flags.dtype == "bf16" else torch.float32
        batches = [torch.randn(flags.B, flags.L, flags.N).to(number) for _ in range(measure.BATCHES)]
        if flags.export:
            torch.onnx.export(scorer, (batches[0],), flags.export, input_names=["x"], output_names=["scores"],
                              dynamo=True, external_data=False, verbose=False)
            return 0
        ms = measure.turns(lambda i: scorer(batches[i % len(batches)].to(flags.device)).cpu(), flags)
    memory = measure.peak_memory_mib()
    more = {"device_memory_mib": torch.cuda.max_memory_allocated() / 2**20,
            "gpu": torch.cuda.get_device_name()} if flags.device == "cuda" else {}
    measure.report(flags, "score", f"torch {torch.__version__}", flags.mode, ms, memory, last_row=flags.last_row, **more)
    return 0


if __name__ == "__main__":
    sys.exit(main())
