"""What all peers share: flags, timing, the machine, and the JSON that the benchmarks of the library write too."""

import json
import pathlib
import re
import statistics
import sys
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
    parser.add_argument("--turns", type=int, default=0,
                        help="so many measurements, each after a line on standard input and with a line after it")
    parser.add_argument("--weights", type=pathlib.Path, help="weights and sizes from this checkpoint")
    parser.add_argument("--json", type=pathlib.Path, help="write the result there, with the time of every repetition")


STARTED = time.perf_counter()  # by then PyTorch is imported
BLOCK_MS = 200
start = {}  # seconds from there until the first repetition was done


def turns(run, flags):
    """`repetitions` in as many turns as the flags say, when the program at the other end of the pipe says so: so several
    peers can wait ready for each other."""
    if not flags.turns:
        return repetitions(run, flags.seconds, flags.warmup)
    run(0)
    start["seconds"] = time.perf_counter() - STARTED
    ms = []
    for _ in range(flags.turns):
        print("ready", flush=True)
        sys.stdin.readline()
        ms += repetitions(run, flags.seconds, flags.warmup)
    return ms


def repetitions(run, seconds, warmup, per_block=1, wait=lambda: None, drain=lambda: None):
    """Milliseconds of each run(i), i = 0, 1, ...: means over blocks of `per_block`, fewer where these take longer than 200 ms.
    `drain` waits for all that was issued; `wait` is called after each block and may let the device work on, as long as it
    waits for the block before."""
    ms, i, is_first = [], 1, True
    run(0)  # what is compiled is compiled now
    drain()
    start.setdefault("seconds", time.perf_counter() - STARTED)
    wait()
    last = time.perf_counter()
    begin = last + warmup
    end = begin + seconds
    while last < end or len(ms) < 3:
        for _ in range(per_block):
            run(i)
            i += 1
        wait()
        now = time.perf_counter()
        taken = 1e3 * (now - last)
        if last >= begin and not (is_first and per_block > 1):
            ms.append(taken / per_block)
        if not is_first and taken > BLOCK_MS:
            per_block = max(1, per_block // 2)
        last, is_first = now, False
    drain()
    return ms


def wait_one_behind(torch):
    """For `repetitions` on a GPU: waits for what had been issued at the call before, so that the GPU never runs dry."""
    marks = []

    def wait():
        mark = torch.cuda.Event()
        mark.record()
        marks.append(mark)
        if len(marks) > 1:
            marks.pop(0).synchronize()

    return wait


def rate_of_products(multiply, T, E, per_wait=1, wait=lambda: None):
    """GFLOP/s of multiply(), a product [T, E] x [E, 4 E]; waits after every `per_wait`."""
    def products(i):
        for _ in range(per_wait):
            multiply()
        wait()

    ms = repetitions(products, 0.3, 0.1)
    return 2 * T * E * 4 * E * per_wait / (1e6 * statistics.median(ms))


def rate_of_copies(torch):
    """GB/s of copies within the GPU, bytes read and bytes written."""
    size = min(256 << 20, torch.cuda.mem_get_info()[0] // 4)
    source, target = (torch.zeros(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(36)]
    for mark in marks:
        mark.record()
        for _ in range(4):
            target.copy_(source)
    torch.cuda.synchronize()
    ms = [a.elapsed_time(b) for a, b in zip(marks[5:], marks[6:])]
    return 2 * 4 * size / (1e6 * statistics.median(ms))


def metadata_of(path):
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.metadata()


def take_sizes(flags, path):
    """Puts the sizes of a checkpoint into the flags; returns its configuration."""
    metadata = metadata_of(path)
    config = json.loads(metadata["config"])
    model = config["model"]
    flags.B, flags.L, flags.N = config["train"]["batch"], config["data"]["window"], len(json.loads(metadata["features"]))
    flags.E, flags.heads, flags.blocks = model["width"], model["heads"], model["blocks"]
    flags.upscaling, flags.norm = model["upscaling"], model["norm"]
    return config


def rows_read(chosen):
    """Of `chosen` [B, L]: rows of each sequence [B, Q], as many as the longest list has; where the M real ones stand among
    the B Q; where they stand among the B L."""
    import numpy as np

    B, L = chosen.shape
    counts = chosen.sum(axis=1)
    by_sequence = np.argsort(~chosen, axis=1, kind="stable")[:, : counts.max()]
    places = np.flatnonzero(np.arange(counts.max()) < counts[:, None])
    return by_sequence, places, (by_sequence + L * np.arange(B)[:, None]).flatten()[places]


def folder_name(machine):
    """Of a processor or GPU, below benchmarks/results."""
    return re.sub(r"[^A-Za-z0-9]+", "-", machine).strip("-").lower()


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
        "peak_memory_mib": memory, "start_seconds": start.get("seconds", 0.0),
        **more, "all_ms": ms,
    }
    print(f"{library}, {mode}, {result.get('gpu', result['processor'])}, {flags.threads} threads, {flags.dtype}\n"
          f"ms               {quartiles[1]:.4g}  [{quartiles[0]:.4g}, {quartiles[2]:.4g}], median and quartiles of {len(ms)}\n"
          f"rows/s           {result['rows_per_second']:.4g}\n"
          f"peak memory MiB  {result['peak_memory_mib']:.4g}")
    if flags.json:
        flags.json.write_text(json.dumps(result) + "\n")

