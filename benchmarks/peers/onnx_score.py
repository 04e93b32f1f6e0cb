#!/usr/bin/env python3
"""Times scoring a batch of windows in ONNX Runtime or OpenVINO, from a graph that torch_score.py --export wrote. Flags and
JSON are those of score_bench; the sizes must be given as they were at the export.

    onnx_score.py --runtime openvino --graph FILE --check DIR     times nothing: compares with what score_bench left there

Exit code 1 where a score is further away than the tolerance, relative to the largest.
"""

import argparse
import json
import os
import pathlib
import sys

sys.dont_write_bytecode = True
try:
    import numpy as np
    from safetensors.numpy import load_file

    import measure
except ImportError as error:
    sys.exit(f"onnx_score.py: {error}; install the runtimes for it: bash benchmarks/peers/install.sh onnx")

TOLERANCES = {"fp32": 2e-5, "bf16": 0.05}  # both sides round


def onnxruntime_scorer(flags):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = flags.threads
    session = onnxruntime.InferenceSession(str(flags.graph), options, providers=["CPUExecutionProvider"])
    return f"onnxruntime {onnxruntime.__version__}", lambda x: session.run(None, {"x": x})[0]


def openvino_scorer(flags):
    import openvino

    precision = {"fp32": "f32", "bf16": "bf16"}[flags.dtype]
    model = openvino.Core().compile_model(str(flags.graph), "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": flags.threads, "INFERENCE_PRECISION_HINT": precision})
    request = model.create_infer_request()
    version = openvino.__version__.split("-")[0]
    return f"openvino {version}", lambda x: request.infer({0: x}, share_inputs=True, share_outputs=True)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    measure.add_flags(parser, 1)
    parser.add_argument("--runtime", required=True, choices=["onnxruntime", "openvino"])
    parser.add_argument("--graph", type=pathlib.Path, required=True, help="what torch_score.py --export wrote")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="bf16: OpenVINO only")
    parser.add_argument("--last-row", type=int, default=1, choices=[0, 1], help="as at the export")
    parser.add_argument("--check", type=pathlib.Path, help="compare with what score_bench --check left in this folder")
    flags = parser.parse_args()
    if flags.dtype == "bf16" and flags.runtime == "onnxruntime":
        parser.error("--dtype bf16 needs --runtime openvino")
    flags.threads = flags.threads or len(os.sched_getaffinity(0))
    try:
        library, score = (onnxruntime_scorer if flags.runtime == "onnxruntime" else openvino_scorer)(flags)
    except ImportError as error:
        sys.exit(f"onnx_score.py: {error}; install the runtimes for it: bash benchmarks/peers/install.sh onnx")
    if flags.check:
        tensors = load_file(flags.check / "ours.safetensors")
        error = float(np.abs(score(tensors["x"]) - tensors["scores"]).max() / np.abs(tensors["scores"]).max())
        print(json.dumps({"scores": len(tensors["scores"]), "ours": {"score_error": error}}))
        return 0 if error < TOLERANCES[flags.dtype] else 1
    random = np.random.default_rng(1)
    batches = [random.normal(size=(flags.B, flags.L, flags.N)).astype(np.float32) for _ in range(measure.BATCHES)]
    ms = measure.turns(lambda i: score(batches[i % len(batches)]), flags)
    memory = measure.peak_memory_mib()
    measure.report(flags, "score", library, flags.runtime, ms, memory, last_row=flags.last_row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
