"""What all peers share: flags, timing, the machine, and the JSON that the benchmarks of the library write too."""

import json
import pathlib
import statistics
import time

BATCHES = 8  # that a measurement goes through in turn


def proc_value(file, key):
    for line in pathlib.Path(file).read_text().splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return ""


def add_flags(parser, B):
    for name, default, what in (("B", B, "sequences in a batch"), ("L", 30, "rows per sequence"),
                                ("E", 512, "width of the encoder"), ("heads", 4, "attention heads"),
                                ("blocks", 4, "encoder blocks"), ("N", 18, "features of a row")):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (%(default)s)")
    parser.add_argument("--upscaling", default="linear",
                        choices=["none", "linear", "attention_linear", "attention_concatenation"])
    parser.add_argument("--norm", default="post", choices=["post", "pre"])
    parser.add_argument("--threads", type=int, default=0, help="0 takes all")
    parser.add_argument("--seconds", type=float, default=10, help="how long is measured (%(default)s)")
    parser.add_argument("--warmup", type=float, default=3, help="seconds before that which do not count (%(default)s)")
    parser.add_argument("--weights", type=pathlib.Path, help="weights and sizes from this checkpoint")
    parser.add_argument("--json", type=pathlib.Path, help="write the result there, with the time of every repetition")


def repetitions(run, seconds, warmup, per_block=1, wait=lambda: None):
    """Milliseconds of each run(i), i = 0, 1, ...; over a block of `per_block` where more than one, between two waits."""
    ms, i = [], 1
    run(0)  # what is compiled is compiled now
    wait()
    begin = time.perf_counter() + warmup
    end = begin + seconds
    last = time.perf_counter()
    while last < end or len(ms) < 3:
        for _ in range(per_block):
            run(i)
            i += 1
        wait()
        now = time.perf_counter()
        if last >= begin:
            ms.append(1e3 * (now - last) / per_block)
        last = now
    return ms


def rate_of_products(multiply, T, E, wait=lambda: None):
    """GFLOP/s of multiply(), a product [T, E] x [E, 4 E]."""
    ms = repetitions(lambda i: multiply(), 0.3, 0.1, 1, wait)
    return 2 * T * E * 4 * E / (1e6 * statistics.median(ms))


def peak_memory_mib():
    """Most memory that the process had, with all that its libraries take."""
    return float((proc_value("/proc/self/status", "VmHWM") or "0").split()[0]) / 1024


def report(flags, program, library, mode, ms, memory, **more):
    quartiles = statistics.quantiles(ms, n=4, method="inclusive")
    result = {
        "program": program, "library": library, "mode": mode, "device": getattr(flags, "device", "cpu"),
        "processor": proc_value("/proc/cpuinfo", "model name"), "threads": flags.threads, "dtype": flags.dtype,
        "B": flags.B, "L": flags.L, "E": flags.E, "heads": flags.heads, "blocks": flags.blocks, "N": flags.N,
        "upscaling": flags.upscaling, "norm": flags.norm, "repetitions": len(ms),
        "ms": {"median": quartiles[1], "lower_quartile": quartiles[0], "upper_quartile": quartiles[2]},
        "rows_per_second": 1e3 * flags.B * flags.L / quartiles[1],
        "peak_memory_mib": memory,
        **more, "all_ms": ms,
    }
    print(f"{library}, {mode}, {result['processor']}, {flags.threads} threads, {flags.dtype}\n"
          f"ms               {quartiles[1]:.4g}  [{quartiles[0]:.4g}, {quartiles[2]:.4g}], median and quartiles of {len(ms)}\n"
          f"rows/s           {result['rows_per_second']:.4g}\n"
          f"peak memory MiB  {result['peak_memory_mib']:.4g}")
    if flags.json:
        flags.json.write_text(json.dumps(result) + "\n")

