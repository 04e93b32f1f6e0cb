#!/usr/bin/env python3
"""Compares the library with its peers on this machine: whole training steps and scoring.

    cmake --preset release -D BLINKBERT_BENCHMARKS=ON && cmake --build --preset release
    bash benchmarks/peers/install.sh
    python3 benchmarks/run.py --quick          fewer peers, shorter: made for five minutes on two cores
    python3 benchmarks/run.py                  more peers, longer
    python3 benchmarks/run.py --grid           many sizes instead of those of the table
    python3 benchmarks/run.py --device cuda --only step --quick --minutes 8.5      on a GPU: docs/gpu.md

For each case it first checks that all compute the same from the same weights without dropout: losses and gradients of
training steps, or scores. Then it runs them in turn, A B A B, each in a process of its own with the same threads, and prints
one table: median and quartiles of a repetition, rows/s, GFLOP/s (of what was computed: a last block for the rows that are
read takes less, and gives the same numbers), the share of the fastest matrix product that any of them reached in this run,
peak memory of the process, and the ratio: time of the case's fastest peer over the library's. Rows with the commands go to
benchmarks/results/<processor or GPU>/.

Sizes are B 64, L 30, 18 features, 4 heads, 4 blocks where a case does not say others; the head reads the masked rows.
"tuned" peers have malloc keep its memory, and MKL take the path that it has for Intel's processors.

On a GPU the peers are those of PyTorch: eager and compiled, the whole step as one CUDA graph, every implementation of attention
forced. The ratio counts those that compute the same: mask and dropout, or mask without dropout where the case says so; the
others are marked "other mathematics". A peer that does not run is named with its reason. Checks are made at B 64 at most,
those of compiled peers not in quick runs. After --minutes nothing new begins, and what is left is named.
Exit code: 0 done, 1 a check or a program failed, 2 wrong usage or something is not installed.
"""

import argparse
import csv
import datetime
import json
import math
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace

HERE = pathlib.Path(__file__).resolve().parent
PEERS, VENVS = HERE / "peers", HERE.parent / "build" / "peers"
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592",
          "MALLOC_TOP_PAD_": "268435456"}


class Failure(Exception):
    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code

    def reason(self):
        return str(self).splitlines()[-1]


class OutOfTime(Exception):
    pass


@dataclass(frozen=True)
class Contender:
    name: str
    flags: tuple = ()
    runtime: str = "torch"  # own, torch, onnxruntime, openvino
    is_tuned: bool = False
    is_quick: bool = True  # part of --quick and --grid
    is_checked: bool = True
    is_same: bool = True  # computes what the library does

    def reads_rows(self):
        """Whether the last block is computed for the rows that are read only."""
        return self.flags[:2] in (("--last-block", "read"), ("--last-row", "1"))


@dataclass(frozen=True)
class Case:
    program: str  # step, score
    name: str
    flags: tuple
    is_leading: bool = False  # the one that quick runs give more time

    def flag(self, name, otherwise):
        return self.flags[self.flags.index(name) + 1] if name in self.flags else otherwise

    def with_flag(self, name, value):
        at = self.flags.index(name) if name in self.flags else len(self.flags)
        return replace(self, flags=(*self.flags[:at], name, str(value), *self.flags[at + 2:]))


@dataclass
class Runs:
    """What one contender did in one case, over all rounds."""
    case: Case
    contender: Contender
    command: str = ""
    results: list = field(default_factory=list)
    failure: str = ""
    clocks: list = field(default_factory=list)  # of the GPU, MHz

    def ms(self):
        return [ms for result in self.results for ms in result["all_ms"]]


ALL_ROWS = {"step": ("--last-block", "all"), "score": ("--last-row", "0")}
ROWS_READ = {"step": ("--last-block", "read"), "score": ("--last-row", "1")}


def contenders(case, device):
    whole, read = ALL_ROWS[case.program], ROWS_READ[case.program]
    less = "last block for rows read"
    yield Contender("blinkbert", whole, "own")
    yield Contender(f"blinkbert, {less}", read, "own")
    if device == "cpu":
        if case.program == "step":
            yield Contender("PyTorch eager, as installed", whole, is_checked=False)  # the tuned one computes the same
        yield Contender("PyTorch eager, tuned", whole, is_tuned=True)
        yield Contender("PyTorch compiled, tuned", (*whole, "--mode", "compile"), is_tuned=True, is_quick=False)
        yield Contender(f"PyTorch eager, tuned, {less}", read, is_tuned=True, is_quick=False)
        if case.program == "score":
            yield Contender("ONNX Runtime", whole, "onnxruntime")
            yield Contender("OpenVINO", whole, "openvino")
    elif case.program == "step":
        yield from gpu_step_peers(case, whole, read, less)
    else:
        yield Contender("PyTorch eager", whole)
        yield Contender("PyTorch compiled", (*whole, "--mode", "compile"), is_quick=False)


def gpu_step_peers(case, whole, read, less):
    def peer(name, *flags, rows=whole, **more):
        return Contender(f"PyTorch {name}", (*rows, *flags), **more)

    tuned = "max-autotune-no-cudagraphs"
    yield peer("eager")
    for mode in ("compile", tuned):
        for attention in ("math", "efficient"):
            yield peer(f"{mode}, {attention}, graph", "--mode", mode, "--attn", attention, "--graph", "1",
                       is_quick=mode == "compile" or case.is_leading)
    for mode in ("compile", tuned):
        yield peer(f"{mode}, {less}, graph", "--mode", mode, "--graph", "1", rows=read,
                   is_quick=mode == "compile" and case.is_leading)
        yield peer(f"{mode}, default attention, graph", "--mode", mode, "--graph", "1", is_quick=False)
        yield peer(f"{mode}, bf16 parameters, graph", "--mode", mode, "--params", "bf16", "--graph", "1", is_quick=False)
    yield peer("eager, bf16 parameters", "--params", "bf16", is_quick=False)
    yield peer("eager, efficient, graph", "--attn", "efficient", "--graph", "1", is_quick=False)
    yield peer("eager, math, graph", "--attn", "math", "--graph", "1", is_quick=False)
    for mode in ("compile", "reduce-overhead", "max-autotune"):
        yield peer(mode, "--mode", mode, is_quick=False)
    if float(case.flag("--dropout", "0.01")) == 0:
        yield peer("compile, cudnn, graph", "--mode", "compile", "--attn", "cudnn", "--graph", "1", is_quick=False)
        yield peer("compile, flex, graph", "--mode", "compile", "--attn", "flex", "--graph", "1", is_quick=False)
    yield peer("compile, flash without mask, graph", "--mode", "compile", "--attn", "flash", "--hide", "0", "--graph", "1",
               is_quick=False, is_checked=False, is_same=False)


# Peers that are not written: they are named in every run on a GPU.
MISSING_ON_GPU = ("varlen_attn (padding only, no dropout)", "torch.nn.TransformerEncoder, BertModel of transformers", "JAX")


def table_cases():
    for E in (512, 64):
        yield Case("step", f"step, E {E}", ("--E", str(E), "--head-rows", "masked"))
    for E in (512, 64):
        for B in (1, 64):
            yield Case("score", f"score {B}, E {E}", ("--E", str(E), "--B", str(B)))


def gpu_cases():
    for B, L in ((1024, 30), (64, 30), (1024, 64), (256, 30), (4096, 30)):
        sizes = ("--B", str(B), "--L", str(L), "--head-rows", "masked")
        yield Case("step", f"step, B {B}, L {L}", sizes, is_leading=(B, L) == (1024, 30))
    for B, L in ((1024, 30), (1024, 64)):
        yield Case("step", f"step, B {B}, L {L}, no dropout",
                   ("--B", str(B), "--L", str(L), "--head-rows", "masked", "--dropout", "0"))
    for E in (64, 128, 256):
        yield Case("step", f"step, B 1024, L 30, E {E}", ("--B", "1024", "--L", "30", "--E", str(E), "--head-rows", "masked"))
    for B in (1, 64, 1024):
        yield Case("score", f"score {B}", ("--B", str(B)))


def grid_cases():
    for E in (32, 64, 128, 256, 512):
        for L in (16, 30, 64, 128):
            for B in (1, 16, 64, 256):
                sizes = ("--E", str(E), "--L", str(L), "--B", str(B))
                name = f"E {E}, L {L}, B {B}"
                if B > 1:
                    yield Case("step", f"step, {name}", (*sizes, "--head-rows", "masked"))
                yield Case("score", f"score, {name}", sizes)


class Bench:
    def __init__(self, options):
        self.options = options
        self.programs = options.build.resolve() / "bin"
        for program in ("step_bench", "score_bench"):
            if not (self.programs / program).is_file():
                preset = "cuda" if options.device == "cuda" else "release"
                raise Failure(f"{self.programs} holds no {program}; build it: cmake --preset {preset} "
                              f"-D BLINKBERT_BENCHMARKS=ON && cmake --build --preset {preset}", 2)
        self.deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
        self.python = {"torch": options.python or VENVS / "torch" / "bin" / "python"}
        self.python["onnxruntime"] = self.python["openvino"] = VENVS / "onnx" / "bin" / "python"
        if not self.python["torch"].is_file():
            raise Failure(f"PyTorch is not installed in {self.python['torch'].parents[1]}; run: "
                          "bash benchmarks/peers/install.sh torch (or name an interpreter with --python)", 2)
        self.threads = options.threads or len(os.sched_getaffinity(0))
        preload = VENVS / "mkl_as_on_intel.so"
        self.tuned = {**MALLOC, **({"LD_PRELOAD": str(preload)} if preload.is_file() else {})}

    def run(self, command, environment=()):
        command = [str(word) for word in command]
        left = None if self.deadline is None else self.deadline - time.monotonic()
        if left is not None and left <= 0:
            raise OutOfTime
        try:
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **dict(environment)},
                                  timeout=left)
        except subprocess.TimeoutExpired:
            raise OutOfTime from None
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise Failure(f"exit code {done.returncode}: {shlex.join(command)}\n{''.join(last)}")
        return done.stdout

    def contenders(self, case):
        is_short = self.options.quick or self.options.grid
        return [one for one in contenders(case, self.options.device)
                if (one.is_quick or not is_short) and (one.runtime == "own" or self.python[one.runtime].is_file())]

    def command(self, case, contender, work, *flags):
        common = (*case.flags, *contender.flags, "--threads", self.threads, "--dtype", self.options.dtype)
        device = ("--device", self.options.device)
        if contender.runtime == "own":
            return [self.programs / f"{case.program}_bench", *common, *device, *flags]
        if contender.runtime == "torch":
            return [self.python["torch"], PEERS / f"torch_{case.program}.py", *common, *device, *flags]
        return [self.python[contender.runtime], PEERS / "onnx_score.py", "--runtime", contender.runtime, "--graph",
                work / "graph.onnx", *common, *flags]

    def environment(self, contender):
        return self.tuned if contender.is_tuned else {}

    def check(self, case, work):
        """Every peer against the library's variant that computes the same rows. Returns why peers of a GPU did not run."""
        found = self.contenders(case)
        on_gpu = self.options.device == "cuda"
        if on_gpu:
            case = case.with_flag("--B", min(64, int(case.flag("--B", "64"))))
        if case.program == "step":
            case = case.with_flag("--dropout", 0)
        folders, failures = {}, {}
        for own in (one for one in found if one.runtime == "own"):
            folders[own.reads_rows()] = folder = work / ("read" if own.reads_rows() else "all")
            self.run(self.command(case, own, work, "--check", folder))
            if not any(one.reads_rows() == own.reads_rows() for one in found if one.runtime != "own"):
                plain = Contender("PyTorch eager", own.flags)
                self.check_one(case, plain, work, folder)
        if any(one.runtime in ("onnxruntime", "openvino") for one in found):
            self.run([self.python["torch"], PEERS / "torch_score.py", "--weights",
                      folders[False] / "weights.safetensors", *ALL_ROWS["score"], "--export", work / "graph.onnx"])
        for peer in found:
            is_compiled = "--mode" in peer.flags
            if peer.runtime == "own" or not peer.is_checked or (on_gpu and is_compiled and self.options.quick):
                continue
            try:
                self.check_one(case, peer, work, folders[peer.reads_rows()])
            except Failure as failure:
                if not on_gpu or peer.name == "PyTorch eager":
                    raise
                failures[peer] = str(failure)
                print(f"  {peer.name} did not pass the check: {failure.reason()}", flush=True)
        return failures

    def check_one(self, case, peer, work, folder):
        flags = peer.flags  # less the graph: the same kernels
        if "--graph" in flags:
            at = flags.index("--graph")
            flags = flags[:at] + flags[at + 2:]
        output = self.run(self.command(case, replace(peer, flags=flags), work, "--check", folder),
                          self.environment(peer))
        found = json.loads(output.splitlines()[-1])
        errors = [f"{who} {kind.split('_')[0]} {value:.0e}" for who in ("ours", "peer")
                  for kind, value in found.get(who, {}).items() if kind.endswith("_error")]
        print(f"  same numbers as {peer.name}: {', '.join(errors)}", flush=True)

    def time(self, case, work, failures):
        """Everyone in turn, as often as there are rounds. Stops where time is up, with what there is."""
        seconds = ("--seconds", self.options.seconds / self.options.rounds, "--warmup", self.options.warmup)
        all_runs = [Runs(case, one, failure=failures.get(one, "")) for one in self.contenders(case)]
        for turn in range(self.options.rounds):
            for runs in all_runs:
                if runs.failure:
                    continue
                command = [str(word) for word in self.command(case, runs.contender, work, *seconds)]
                environment = self.environment(runs.contender)
                try:
                    with Clocks(self.options.device == "cuda") as clocks:
                        self.run([*command, "--json", work / "result.json"], environment)
                except OutOfTime:
                    left = ", ".join(one.contender.name for one in all_runs if not one.results and not one.failure)
                    print(f"  out of time in turn {turn + 1}; not measured: {left or 'nothing'}", flush=True)
                    return all_runs
                except Failure as failure:
                    if self.options.device == "cpu" or runs.contender.runtime == "own":
                        raise
                    runs.failure = str(failure)
                    print(f"  {runs.contender.name} did not run: {failure.reason()}", flush=True)
                    continue
                words = [f"{name}={value}" for name, value in environment.items()] + command
                runs.command = shlex.join(words).replace(f"{HERE.parent}/", "").replace(f"{work}/", "")
                runs.results.append(json.loads((work / "result.json").read_text()))
                runs.clocks += clocks.mhz()
        return all_runs


class Clocks:
    """What nvidia-smi, where it is there, says of the GPU's clock while something runs."""

    def __init__(self, is_wanted):
        self.samples, self.is_wanted, self.is_over = [], is_wanted, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch, daemon=True)
        if self.is_wanted:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        if self.is_wanted:
            self.thread.join()

    def watch(self):
        query = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
        while not self.is_over.wait(0.5):
            try:
                self.samples.append(float(subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0]))
            except (OSError, ValueError, IndexError):
                return

    def mhz(self):
        """Of the last second, in which the measurement runs."""
        return self.samples[-2:]


def rows_of(all_runs):
    """The table. The rate of matrix products is the best that anyone measured at the same width."""
    best_peer, gemm, gflop = {}, {}, {}
    all_runs = [runs for runs in all_runs if runs.results]
    for runs in all_runs:
        case, result, median = runs.case, runs.results[0], statistics.median(runs.ms())
        if runs.contender.runtime == "own":
            gflop[case, runs.contender.reads_rows()] = result["gflop"]
        elif runs.contender.is_same:
            best_peer[case] = min(median, best_peer.get(case, median))
        rates = [one["gemm_gflop_per_second"] for one in runs.results if "gemm_gflop_per_second" in one]
        if rates and result["B"] > 1:
            gemm[result["E"]] = max(statistics.median(rates), gemm.get(result["E"], 0))
    for runs in all_runs:
        case, result, ms = runs.case, runs.results[0], runs.ms()
        low, median, high = statistics.quantiles(ms, n=4, method="inclusive")
        rate = 1e3 * gflop.get((case, runs.contender.reads_rows()), math.nan) / median
        is_own = runs.contender.runtime == "own"
        yield {
            "case": case.name, "who": runs.contender.name + ("" if runs.contender.is_same else " (other mathematics)"),
            "library": result["library"],
            "threads": result["threads"], "dtype": result["dtype"], "repetitions": len(ms), "ms": median,
            "lower_quartile": low, "upper_quartile": high,
            "rows_per_second": 1e3 * result["B"] * result["L"] / median, "gflop_per_second": rate,
            "percent_of_gemm": 100 * rate / gemm[result["E"]] if result["E"] in gemm else None,
            "peak_memory_mib": max(one.get("device_memory_mib", one["peak_memory_mib"]) for one in runs.results),
            "start_seconds": result.get("start_seconds"),
            "clock_mhz": statistics.median(runs.clocks) if runs.clocks else None,
            "ratio": best_peer[case] / median if is_own and case in best_peer else None,
            "command": runs.command,
        }


def print_table(rows):
    head = (f"{'case':<32}{'':<66}{'ms':>9}  {'quartiles':<19}{'rows/s':>9}{'GFLOP/s':>9}{'% GEMM':>8}{'MiB':>7}"
            f"{'ratio':>7}")
    print(f"\n{head}\n{'-' * len(head)}")
    last = None
    for row in rows:
        quartiles = f"[{row['lower_quartile']:.4g}, {row['upper_quartile']:.4g}]"
        percent = "" if row["percent_of_gemm"] is None else f"{row['percent_of_gemm']:.0f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        name = row["case"] if row["case"] != last else ""
        last = row["case"]
        print(f"{name:<32}{row['who']:<66}{row['ms']:>9.4g}  {quartiles:<19}{row['rows_per_second']:>9.3g}"
              f"{row['gflop_per_second']:>9.4g}{percent:>8}{row['peak_memory_mib']:>7.0f}{ratio:>7}")


def commit(options):
    if options.commit:
        return options.commit

    def git(*words):
        try:
            return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True).stdout.strip()
        except OSError:
            return ""

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def write_rows(rows, machine, program, load, options):
    folder = options.results / re.sub(r"[^A-Za-z0-9]+", "-", machine).strip("-").lower()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{program}.csv"
    stamp = {"commit": commit(options), "date": datetime.date.today().isoformat(), "load": load}
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*stamp, *rows[0]], lineterminator="\n")
        if is_new:
            writer.writeheader()
        for row in rows:
            numbers = {key: f"{value:.5g}" for key, value in row.items() if isinstance(value, float)}
            writer.writerow({**stamp, **row, **numbers})
    print(f"{str(path).replace(f'{HERE.parent}/', '')}: {len(rows)} rows")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="See the top of this file for what is done.")
    parser.add_argument("--build", type=pathlib.Path,
                        help="build folder of the benchmarks (build/release, with CUDA build/cuda)")
    parser.add_argument("--python", type=pathlib.Path, help="interpreter with torch, numpy and safetensors (and onnx, "
                        "onnxscript for the runtimes) instead of the installed one")
    parser.add_argument("--quick", action="store_true", help="fewer peers, shorter")
    parser.add_argument("--grid", action="store_true", help="many sizes instead of those of the table")
    parser.add_argument("--only", choices=["step", "score"], help="one half")
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", choices=["fp32", "tf32", "bf16"], help="fp32 on the CPU, bf16 with CUDA")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all")
    parser.add_argument("--seconds", type=float, help="measured for each contender, over all rounds (10; quick 2.5)")
    parser.add_argument("--warmup", type=float, help="seconds before each measurement (3; quick 0.5)")
    parser.add_argument("--rounds", type=int, help="turns (4; quick 2)")
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results", help="the machine's folder is in there")
    parser.add_argument("--minutes", type=float, help="after these nothing new begins")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    options = parser.parse_args()
    options.build = options.build or HERE.parent / "build" / ("cuda" if options.device == "cuda" else "release")
    is_short = options.quick or options.grid
    options.dtype = options.dtype or ("fp32" if options.device == "cpu" else "bf16")
    for name, short, long in (("seconds", 2.5, 10), ("warmup", 0.5, 3), ("rounds", 2, 4)):
        if getattr(options, name) is None:
            setattr(options, name, short if is_short else long)
    return options


def main():
    options = parse()
    bench = Bench(options)
    all_cases = grid_cases() if options.grid else gpu_cases() if options.device == "cuda" else table_cases()
    cases = [case for case in all_cases
             if options.only in (None, case.program) and (options.case or "") in case.name]
    if not cases:
        raise Failure(f"no case is called anything with \"{options.case}\"", 2)
    has_scores = any(case.program == "score" for case in cases)
    if options.device == "cpu" and has_scores and not bench.python["openvino"].is_file():
        print("ONNX Runtime and OpenVINO are not installed and left out; to have them: "
              "bash benchmarks/peers/install.sh onnx")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): times will be disturbed")
    all_runs, left = [], list(cases)
    for case in cases:
        print(case.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            try:
                failures = bench.check(case, work)
            except OutOfTime:
                break
            all_runs += bench.time(case, work, failures)
        left.remove(case)
    if left:
        print(f"out of time; not measured: {'; '.join(case.name for case in left)}")
    if options.device == "cuda":
        print(f"peers that are not written: {'; '.join(MISSING_ON_GPU)}")
    result = [one for runs in all_runs for one in runs.results]
    if not result:
        raise Failure("nothing was measured")
    rows = list(rows_of(all_runs))
    print_table(rows)
    gpus = {one["gpu"] for one in result if "gpu" in one}
    if len(gpus) > 1:
        raise Failure(f"measured on different GPUs: {', '.join(sorted(gpus))}")
    machine = next(iter(gpus), result[0]["processor"])
    formula = next((one["formula"] for one in result if "formula" in one), "")
    print(f"\n{machine}, {bench.threads} threads, {options.dtype}; GFLOP: {formula}")
    for program in dict.fromkeys(case.program for case in cases):
        names = {case.name for case in cases if case.program == program}
        of_program = [row for row in rows if row["case"] in names]
        if of_program:
            write_rows(of_program, machine, program, f"{load:.1f}", options)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(130)
