#!/usr/bin/env python3
"""Compares the library with its peers on this machine: whole training steps and scoring.

    cmake --preset release -D BLINKBERT_BENCHMARKS=ON && cmake --build --preset release
    bash benchmarks/peers/install.sh
    python3 benchmarks/run.py --quick          fewer peers, shorter: all that is required, in five minutes on two cores
    python3 benchmarks/run.py                  more peers, longer
    python3 benchmarks/run.py --grid           many sizes instead of those of the table
    python3 benchmarks/run.py --device cuda --only step --quick --minutes 8.5      on a GPU: docs/gpu.md

For each case it first checks that all compute the same from the same weights without dropout: losses and gradients of
training steps, or scores. Then it measures them in turn, A B A B, each in a process of its own with the same threads, and prints
one table per case: median and quartiles of a repetition, rows/s, GFLOP/s (of what was computed: a last block for the rows that
are read takes less, and gives the same numbers), the share of the fastest matrix product that any of them reached in this run,
peak memory of the process, and the ratio: time of the case's fastest peer over the library's. Rows with the commands go to
benchmarks/results/<processor or GPU>/.

On a CPU, peers start once and wait for their turns. The ratio counts the peers that compute the last block for every row, as
their models are; those rewritten for the rows that are read have rows of their own. At the end comes what is required
(REQUIREMENTS) beside what was measured, which a run of all cases also writes to README.md in the folder of the results. A case
whose numbers the library does not have yet is named as not there. After --minutes (quick: 5) no case begins.
"tuned" peers have malloc keep its memory, and MKL take the path that it has for Intel's processors; "autocast" is bf16 with fp32
parameters.

Sizes are B 64, L 30, 18 features, 4 heads, 4 blocks where a case does not say others; the head reads the masked rows.

On a GPU the peers are those of PyTorch: eager and compiled, the whole step as one CUDA graph, every implementation of attention
forced. The ratio counts those that compute the same: mask and dropout, or mask without dropout where the case says so; the
others are marked "other mathematics". A peer that does not run is named with its reason. Checks are made at B 64 at most,
those of compiled peers not in quick runs. After --minutes nothing new begins, and what is left is named.
Exit code: 0 done, 1 a check or a program failed, 2 wrong usage or something is not installed.
"""

import argparse
import concurrent.futures
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
    runtime: str = "torch"  # own, torch, tensorflow, jax, onnxruntime, openvino
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
    dtype: str
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
    if device == "cpu" and case.dtype == "fp32":
        yield Contender(WITHOUT_AMX, (*whole, "--products", "onednn"), "own", is_checked=False)
    if device == "cpu" and case.program == "step":
        eager = "PyTorch eager" + (" autocast" if case.dtype == "bf16" else "")
        yield Contender(AS_INSTALLED if case.dtype == "fp32" else f"{eager}, as installed", whole,
                        is_checked=False)  # the tuned one computes the same
        yield Contender(f"{eager}, tuned", whole, is_tuned=True)
        yield Contender("PyTorch compiled, tuned", (*whole, "--mode", "compile"), is_tuned=True, is_quick=False)
        yield Contender("TensorFlow", whole, "tensorflow")
        yield Contender("JAX", whole, "jax")
        yield Contender(f"{eager}, tuned, {less}", read, is_tuned=True, is_quick=False)
        yield Contender(f"TensorFlow, {less}", read, "tensorflow", is_quick=False)
        yield Contender(f"JAX, {less}", read, "jax", is_quick=False)
    elif device == "cpu":
        yield Contender("PyTorch eager, tuned", whole, is_tuned=True)
        yield Contender("PyTorch compiled, tuned", (*whole, "--mode", "compile"), is_tuned=True, is_quick=False)
        if case.dtype == "fp32":
            yield Contender("ONNX Runtime", whole, "onnxruntime")  # has no bf16 on x86
        yield Contender("OpenVINO", whole, "openvino")
        yield Contender(f"PyTorch eager, tuned, {less}", read, is_tuned=True, is_quick=False)
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


AS_INSTALLED = "PyTorch eager, as installed"
WITHOUT_AMX = "blinkbert, no AMX"  # floats multiplied as floats


@dataclass(frozen=True)
class Requirement:
    """A ratio is the peer's time over the library's; a share and memory are better when lower."""
    work: str
    case: str
    accept: float
    target: float
    reads_rows: bool = False
    against: str = ""  # a peer; otherwise the fastest
    kind: str = "ratio"  # ratio, share outside GEMMs, memory


REQUIREMENTS = (
    Requirement("pre-training step, fp32, E 512, identical math", "step, E 512", 1.05, 1.12),
    Requirement("same, against PyTorch as installed", "step, E 512", 2.0, 2.3, against=AS_INSTALLED),
    Requirement("same, last block on masked rows only", "step, E 512", 1.25, 1.35, True),
    Requirement("step, bf16, E 512, identical math", "step, E 512, bf16", 1.25, 1.45),
    Requirement("same, last block on masked rows only", "step, E 512, bf16", 1.5, 1.75, True),
    Requirement("step, fp32, E 64, identical math", "step, E 64", 1.6, 2.0),
    Requirement("same, last block on masked rows only", "step, E 64", 1.9, 2.35, True),
    Requirement("scoring one window, fp32, E 512, the peers' graph", "score 1, E 512", 1.1, 1.25),
    Requirement("scoring one window, fp32, E 64, the peers' graph", "score 1, E 64", 1.8, 2.5),
    Requirement("scoring 64 windows, fp32, E 512, the peers' graph", "score 64, E 512", 1.0, 1.05),
    Requirement("scoring 64 windows, fp32, E 64, the peers' graph", "score 64, E 64", 1.15, 1.3),
    Requirement("scoring 64 windows, last block for the last row only, E 512", "score 64, E 512", 1.2, 1.3, True),
    Requirement("scoring 64 windows, last block for the last row only, E 64", "score 64, E 64", 1.35, 1.55, True),
    Requirement("scoring in bf16, one window, E 512", "score 1, E 512, bf16", 1.05, 1.2),
    Requirement("scoring in bf16, 64 windows, E 512", "score 64, E 512, bf16", 1.05, 1.15),
    Requirement("share of a step outside GEMMs, E 512, fp32", "step, E 512", 0.15, 0.10, kind="share"),
    Requirement("peak memory of a step, against PyTorch eager's", "step, E 512", 0.6, 0.4, against=AS_INSTALLED,
                kind="memory"),
)


def table_cases():
    """In the order in which a run that is cut can do without them."""
    sizes = [("step", f"step, E {E}", ("--E", str(E), "--head-rows", "masked")) for E in (512, 64)]
    sizes += [("score", f"score {B}, E {E}", ("--E", str(E), "--B", str(B))) for E in (512, 64) for B in (1, 64)]
    for program, name, flags in sizes:
        yield Case(program, name, flags, "fp32")
    for program, name, flags in sizes:
        yield Case(program, f"{name}, bf16", flags, "bf16")


def is_required(case):
    return any(one.case == case.name for one in REQUIREMENTS)


def gpu_cases(dtype):
    for B, L in ((1024, 30), (64, 30), (1024, 64), (256, 30), (4096, 30)):
        sizes = ("--B", str(B), "--L", str(L), "--head-rows", "masked")
        yield Case("step", f"step, B {B}, L {L}", sizes, dtype, is_leading=(B, L) == (1024, 30))
    for B, L in ((1024, 30), (1024, 64)):
        yield Case("step", f"step, B {B}, L {L}, no dropout",
                   ("--B", str(B), "--L", str(L), "--head-rows", "masked", "--dropout", "0"), dtype)
    for E in (64, 128, 256):
        sizes = ("--B", "1024", "--L", "30", "--E", str(E), "--head-rows", "masked")
        yield Case("step", f"step, B 1024, L 30, E {E}", sizes, dtype)
    for B in (1, 64, 1024):
        yield Case("score", f"score {B}", ("--B", str(B)), dtype)


def grid_cases(dtype):
    for E in (32, 64, 128, 256, 512):
        for L in (16, 30, 64, 128):
            for B in (1, 16, 64, 256):
                sizes = ("--E", str(E), "--L", str(L), "--B", str(B))
                name = f"E {E}, L {L}, B {B}"
                if B > 1:
                    yield Case("step", f"step, {name}", (*sizes, "--head-rows", "masked"), dtype)
                yield Case("score", f"score, {name}", sizes, dtype)


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
        self.python = {name: VENVS / name / "bin" / "python" for name in ("torch", "tensorflow", "jax")}
        if options.python:
            self.python["torch"] = options.python
        self.python["onnxruntime"] = self.python["openvino"] = VENVS / "onnx" / "bin" / "python"
        if not self.python["torch"].is_file():
            raise Failure(f"PyTorch is not installed in {self.python['torch'].parents[1]}; run: "
                          "bash benchmarks/peers/install.sh torch (or name an interpreter with --python)", 2)
        self.threads = options.threads or len(os.sched_getaffinity(0))
        preload = VENVS / "mkl_as_on_intel.so"
        self.tuned = {**MALLOC, **({"LD_PRELOAD": str(preload)} if preload.is_file() else {})}

    def run(self, command, environment=()):
        command = [str(word) for word in command]
        left = None if self.deadline is None or self.options.device == "cpu" else self.deadline - time.monotonic()
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

    def is_over(self):
        return self.deadline is not None and time.monotonic() > self.deadline

    def contenders(self, case):
        is_short = self.options.quick or self.options.grid
        return [one for one in contenders(case, self.options.device)
                if (one.is_quick or not is_short) and (one.runtime == "own" or self.python[one.runtime].is_file())]

    def command(self, case, contender, work, *flags):
        common = (*case.flags, *contender.flags, "--threads", self.threads, "--dtype", case.dtype)
        device = ("--device", self.options.device)
        if contender.runtime == "own":
            return [self.programs / f"{case.program}_bench", *common, *device, *flags]
        python = self.python[contender.runtime]
        if contender.runtime == "torch":
            return [python, PEERS / f"torch_{case.program}.py", *common, *device, *flags]
        if contender.runtime in ("tensorflow", "jax"):
            return [python, PEERS / f"{contender.runtime}_step.py", *common, *flags]
        return [python, PEERS / "onnx_score.py", "--runtime", contender.runtime, "--graph", work / "graph.onnx", *common,
                *flags]

    def environment(self, contender):
        return self.tuned if contender.is_tuned else {}

    def check(self, case, work):
        """Every peer against the library's variant that computes the same rows. Returns why peers did not pass."""
        found = self.contenders(case)
        on_gpu = self.options.device == "cuda"
        if on_gpu:
            case = case.with_flag("--B", min(64, int(case.flag("--B", "64"))))
        if case.program == "step":
            case = case.with_flag("--dropout", 0)
            if self.options.quick and not on_gpu:
                case = case.with_flag("--B", 16)
        folders, failures = {}, {}
        for own in (one for one in found if one.runtime == "own" and one.is_checked):
            folders[own.reads_rows()] = folder = work / ("read" if own.reads_rows() else "all")
            self.run(self.command(case, own, work, "--check", folder))
            if not any(one.reads_rows() == own.reads_rows() for one in found if one.runtime != "own"):
                plain = Contender("PyTorch eager", own.flags)
                print(f"  {self.check_one(case, plain, work, folder)}", flush=True)
        if any(one.runtime in ("onnxruntime", "openvino") for one in found):
            self.run([self.python["torch"], PEERS / "torch_score.py", "--weights",
                      folders[False] / "weights.safetensors", *ALL_ROWS["score"], "--export", work / "graph.onnx"])
        def check_one(peer):
            try:
                return peer, self.check_one(case, peer, work, folders[peer.reads_rows()])
            except Failure as failure:
                if on_gpu and peer.name == "PyTorch eager":
                    raise
                return peer, failure

        checked = [peer for peer in found if peer.runtime != "own" and peer.is_checked
                   and not ("--mode" in peer.flags and on_gpu and self.options.quick)]
        # One after the other on a GPU; nothing is timed here.
        with concurrent.futures.ThreadPoolExecutor(1 if on_gpu else 2) as pool:
            for peer, result in pool.map(check_one, checked):
                if isinstance(result, Failure):
                    failures[peer] = str(result)
                    result = f"{peer.name} did not pass the check: {result.reason()}"
                print(f"  {result}", flush=True)
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
        return f"same numbers as {peer.name}: {', '.join(errors)}"

    def time_on_cpu(self, case, work, failures):
        """Everyone in turn, as often as there are rounds; peers wait ready for theirs."""
        part = 0.4 if case.program == "score" and self.options.quick else 1  # of the time: these are short
        seconds = ("--seconds", part * self.options.seconds / self.options.rounds, "--warmup", part * self.options.warmup)
        all_runs = [Runs(case, one, failure=failures.get(one, "")) for one in self.contenders(case)]
        waiting = {}
        try:
            for i, runs in enumerate(all_runs):
                own = runs.contender.runtime == "own"
                command = self.command(case, runs.contender, work, *seconds)
                command += [] if own else ["--turns", self.options.rounds]
                command = [str(word) for word in command]
                environment = self.environment(runs.contender)
                words = [f"{name}={value}" for name, value in environment.items()] + command
                runs.command = shlex.join(words).replace(f"{HERE.parent}/", "").replace(f"{work}/", "")
                command += ["--json", str(work / f"result{i}.json")]
                if not own and not runs.failure:
                    waiting[i] = WaitingPeer(command, environment)
                    if not self.options.quick:  # there they start together, half as long
                        runs.failure = waiting[i].wait()
            for i, peer in waiting.items():
                runs = all_runs[i]
                runs.failure = runs.failure or (peer.wait() if self.options.quick else "")
                if runs.failure:
                    print(f"  {runs.contender.name} did not run: {runs.failure}", flush=True)
            for _ in range(self.options.rounds):
                for i, runs in enumerate(all_runs):
                    if runs.failure:
                        continue
                    if i in waiting:
                        runs.failure = waiting[i].take_turn()
                        continue
                    result = work / "result.json"
                    self.run([*self.command(case, runs.contender, work, *seconds), "--json", result])
                    runs.results.append(json.loads(result.read_text()))
        finally:
            for peer in waiting.values():
                peer.end()
        for i in waiting:
            runs = all_runs[i]
            if not runs.failure:
                runs.results.append(json.loads((work / f"result{i}.json").read_text()))
        return all_runs

    def time_on_gpu(self, case, work, failures):
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
                    with Clocks() as clocks:
                        self.run([*command, "--json", work / "result.json"], environment)
                except OutOfTime:
                    left = ", ".join(one.contender.name for one in all_runs if not one.results and not one.failure)
                    print(f"  out of time in turn {turn + 1}; not measured: {left or 'nothing'}", flush=True)
                    return all_runs
                except Failure as failure:
                    if runs.contender.runtime == "own":
                        raise
                    runs.failure = str(failure)
                    print(f"  {runs.contender.name} did not run: {failure.reason()}", flush=True)
                    continue
                words = [f"{name}={value}" for name, value in environment.items()] + command
                runs.command = shlex.join(words).replace(f"{HERE.parent}/", "").replace(f"{work}/", "")
                runs.results.append(json.loads((work / "result.json").read_text()))
                runs.clocks += clocks.mhz()
        return all_runs


class WaitingPeer:
    """A peer with --turns: it says "ready" before each turn, and ends after the last one."""

    def __init__(self, command, environment):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, **environment})

    def wait(self):
        """Until it is ready or has ended. Returns why it failed, if it did."""
        for line in self.process.stdout:
            if line == "ready\n":
                return ""
        if self.process.wait() == 0:
            return ""
        self.log.seek(0)
        return "".join(self.log.read().strip().splitlines()[-1:]) or f"exit code {self.process.returncode}"

    def take_turn(self):
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has ended; wait says why
        return self.wait()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Clocks:
    """What nvidia-smi, where it is there, says of the GPU's clock while something runs."""

    def __init__(self):
        self.samples, self.is_over = [], threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
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


def counts(runs):
    """Whether a peer is one of those that the library's time is compared with."""
    on_cpu = runs.results[0]["device"] == "cpu"
    return runs.contender.runtime != "own" and runs.contender.is_same and not (on_cpu and runs.contender.reads_rows())


def rows_of(all_runs):
    """The table. The rate of matrix products is the best that anyone measured at the same width."""
    best_peer, gemm, gflop = {}, {}, {}
    all_runs = [runs for runs in all_runs if runs.results]
    for runs in all_runs:
        case, result, median = runs.case, runs.results[0], statistics.median(runs.ms())
        if runs.contender.runtime == "own":
            gflop[case, runs.contender.reads_rows()] = result["gflop"]
        elif counts(runs):
            best_peer[case] = min(median, best_peer.get(case, median))
        rates = [one["gemm_gflop_per_second"] for one in runs.results if "gemm_gflop_per_second" in one]
        if rates and result["B"] > 1:
            width = result["E"], result["dtype"]
            gemm[width] = max(statistics.median(rates), gemm.get(width, 0))
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
            "percent_of_gemm": 100 * rate / gemm[width] if (width := (result["E"], result["dtype"])) in gemm else None,
            "peak_memory_mib": max(one.get("device_memory_mib", one["peak_memory_mib"]) for one in runs.results),
            "gemm_share": result.get("gemm_share"),
            "start_seconds": result.get("start_seconds"),
            "clock_mhz": statistics.median(runs.clocks) if runs.clocks else None,
            "ratio": best_peer[case] / median if is_own and case in best_peer else None,
            "command": runs.command,
        }


def print_table(rows):
    widest = max(len(row["who"]) for row in rows) + 2
    for case in dict.fromkeys(row["case"] for row in rows):
        head = (f"{case:<{widest}}{'ms':>9}  {'quartiles':<19}{'rows/s':>9}{'GFLOP/s':>9}{'% GEMM':>8}{'MiB':>7}{'ratio':>7}")
        print(f"\n{head}\n{'-' * len(head)}")
        for row in (row for row in rows if row["case"] == case):
            quartiles = f"[{row['lower_quartile']:.4g}, {row['upper_quartile']:.4g}]"
            percent = "" if row["percent_of_gemm"] is None else f"{row['percent_of_gemm']:.0f}"
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            print(f"{row['who']:<{widest}}{row['ms']:>9.4g}  {quartiles:<19}{row['rows_per_second']:>9.3g}"
                  f"{row['gflop_per_second']:>9.4g}{percent:>8}{row['peak_memory_mib']:>7.0f}{ratio:>7}")


SUMMARY = ("work", "best peer", "ours ms", "peer ms", "ratio", "accept", "target", "reached")


def summary_rows(all_runs):
    """REQUIREMENTS beside what was measured, cells by the names of SUMMARY; and a line for every case in which a peer rewritten
    for the rows that are read was measured."""
    measured = {}
    for runs in all_runs:
        if runs.results:
            measured.setdefault(runs.case.name, []).append(runs)
    for one in REQUIREMENTS:
        found = measured.get(one.case, ())
        own = own_runs(found, one.reads_rows)
        peers = [runs for runs in found if counts(runs) and one.against in ("", runs.contender.name)]
        peer = min(peers, key=lambda runs: statistics.median(runs.ms()), default=None)
        unit = "" if one.kind == "share" else "x"
        cells = [one.work, "", "", "", "not measured", f"{one.accept:g}{unit}", f"{one.target:g}{unit}", ""]
        value = None
        if own is not None and one.kind == "share":
            if "gemm_share" in own.results[0]:
                value = 1 - statistics.median(result["gemm_share"] for result in own.results)
            cells[2] = f"{statistics.median(own.ms()):.4g}"
        elif own is not None and peer is not None:
            if one.kind == "memory":
                ours, theirs = (max(result["peak_memory_mib"] for result in runs.results) for runs in (own, peer))
                cells[1:4] = peer.contender.name, f"{ours:.0f} MiB", f"{theirs:.0f} MiB"
                value = ours / theirs
            else:
                ours, theirs = (statistics.median(runs.ms()) for runs in (own, peer))
                cells[1:4] = peer.contender.name, f"{ours:.4g}", f"{theirs:.4g}"
                value = theirs / ours
        if value is not None:
            def reaches(limit):
                return value >= limit if one.kind == "ratio" else value <= limit

            cells[4] = f"{value:.2f}{unit}"
            cells[7] = "target" if reaches(one.target) else "accept" if reaches(one.accept) else "no"
        yield cells
    yield ["quickstart, packages and build apart", "", "", "", "not measured here", "60 s", "30 s", ""]


def own_runs(found, reads_rows):
    """The library's own, with all its products."""
    return next((runs for runs in found if runs.results and runs.contender.runtime == "own"
                 and runs.contender.name != WITHOUT_AMX and runs.contender.reads_rows() == reads_rows), None)


def notes_on_rows_read(all_runs):
    """Lines on peers whose last block was rewritten for the rows that are read."""
    for runs in all_runs:
        if not runs.results or runs.contender.runtime == "own" or not runs.contender.reads_rows():
            continue
        own = own_runs([other for other in all_runs if other.case == runs.case], True)
        if own is not None:
            theirs, ours = (statistics.median(one.ms()) for one in (runs, own))
            yield f"{runs.case.name}: {runs.contender.name} {theirs:.4g} ms, the library {ours:.4g} ms, ratio {theirs / ours:.2f}"


def notes_without_amx(all_runs):
    """Lines on the library without matrix units, where it would have used them."""
    for runs in all_runs:
        if not runs.results or runs.contender.name != WITHOUT_AMX:
            continue
        same = [other for other in all_runs if other.case == runs.case and other.results]
        own = own_runs(same, False)
        peer = min((statistics.median(other.ms()) for other in same if counts(other)), default=math.nan)
        if own is not None and "AMX" in own.results[0]["products"]:
            ms = statistics.median(runs.ms())
            yield (f"{runs.case.name}: {ms:.4g} ms without AMX, {statistics.median(own.ms()):.4g} ms with it; "
                   f"ratio to the fastest peer without {peer / ms:.2f}")


def notes_on(all_runs):
    """Titles, each with its lines; none without lines."""
    notes = {"Peers whose last block was rewritten for the rows that are read:": list(notes_on_rows_read(all_runs)),
             "In fp32 the library multiplies on the matrix units, each float as three bf16 (backend/cpu/amx.hpp). "
             "With `--products onednn` it does not:": list(notes_without_amx(all_runs))}
    return {title: lines for title, lines in notes.items() if lines}


def print_summary(rows):
    widths = [max(len(row[i]) for row in (SUMMARY, *rows)) + 2 for i in range(len(SUMMARY))]
    print()
    for row in (SUMMARY, *rows):
        print("".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def write_summary(rows, notes, path, all_runs, machine, load, options):
    libraries = dict.fromkeys(result["library"] for runs in all_runs for result in runs.results)
    threads = next(result["threads"] for runs in all_runs for result in runs.results)
    words = " ".join(shlex.quote(word) for word in sys.argv[1:])
    lines = [f"# {machine}", "",
             f"`python3 benchmarks/run.py {words}` on {datetime.date.today().isoformat()}, {threads} threads, load {load} before, "
             f"commit {commit(options)}: {', '.join(libraries)}.", "",
             "A ratio is the time of the fastest peer over the library's, medians of one run; shares and memory are better when "
             "lower. B 64, L 30, 4 blocks. Every measurement is in the CSV files.", "",
             f"| {' | '.join(SUMMARY)} |", "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
             *(f"| {' | '.join(row)} |" for row in rows)]
    for title, found in notes.items():
        lines += ["", title, "", *(f"- {note}" for note in found)]
    path.write_text("\n".join(lines) + "\n")
    print(f"{str(path).replace(f'{HERE.parent}/', '')}: the table above")


def commit(options):
    if options.commit:
        return options.commit

    def git(*words):
        try:
            return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True).stdout.strip()
        except OSError:
            return ""

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def folder_of(machine, options):
    folder = options.results / re.sub(r"[^A-Za-z0-9]+", "-", machine).strip("-").lower()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_rows(rows, machine, program, load, options):
    path = folder_of(machine, options) / f"{program}.csv"
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
    parser.add_argument("--dtype", choices=["fp32", "tf32", "bf16"], help="only cases in it (both; with --grid fp32); bf16 with CUDA")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all")
    parser.add_argument("--seconds", type=float, help="measured for each contender, over all rounds (10; quick 2.5)")
    parser.add_argument("--warmup", type=float, help="seconds before each measurement (3; quick 0.5)")
    parser.add_argument("--rounds", type=int, help="turns (4; quick 2)")
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results", help="the machine's folder is in there")
    parser.add_argument("--minutes", type=float, help="after these nothing new begins (quick on the CPU: 5)")
    parser.add_argument("--commit", help="of the sources, where git does not know it")
    options = parser.parse_args()
    options.build = options.build or HERE.parent / "build" / ("cuda" if options.device == "cuda" else "release")
    is_short = options.quick or options.grid
    if options.minutes is None and options.quick and options.device == "cpu":
        options.minutes = 5
    for name, short, long in (("seconds", 2.5, 10), ("warmup", 0.5, 3), ("rounds", 2, 4)):
        if getattr(options, name) is None:
            setattr(options, name, short if is_short else long)
    return options


def main():
    options = parse()
    bench = Bench(options)
    on_cpu = options.device == "cpu"
    if options.grid:
        all_cases = grid_cases(options.dtype or ("fp32" if on_cpu else "bf16"))
    elif on_cpu:
        all_cases = [case for case in table_cases()
                     if options.dtype in (None, case.dtype) and (is_required(case) or not options.quick)]
    else:
        all_cases = gpu_cases(options.dtype or "bf16")
    cases = [case for case in all_cases
             if options.only in (None, case.program) and (options.case or "") in case.name]
    if not cases:
        raise Failure(f"no case is called anything with \"{options.case}\"", 2)
    runtimes = dict.fromkeys(one.runtime for case in cases for one in contenders(case, options.device))
    missing = [name for name in runtimes if name != "own" and not bench.python[name].is_file()]
    if missing:
        print(f"not installed and left out: {', '.join(missing)}; to have them: bash benchmarks/peers/install.sh")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): times will be disturbed")
    all_runs, left, absent, is_good = [], list(cases), [], True
    for case in cases:
        if bench.is_over():
            break
        print(case.name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            try:
                failures = bench.check(case, work)
                all_runs += (bench.time_on_cpu if on_cpu else bench.time_on_gpu)(case, work, failures)
                is_good = is_good and not (on_cpu and failures)
            except OutOfTime:
                break
            except Failure as failure:
                if not on_cpu or case.dtype == "fp32":
                    raise
                absent.append(case)
                print(f"  not there: {failure.reason()}", flush=True)
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
    dtypes = ", ".join(dict.fromkeys(one["dtype"] for one in result))
    print(f"\n{machine}, {bench.threads} threads, {dtypes}; GFLOP: {formula}")
    if absent:
        print(f"not there: {'; '.join(case.name for case in absent)}")
    for program in dict.fromkeys(case.program for case in cases):
        names = {case.name for case in cases if case.program == program}
        of_program = [row for row in rows if row["case"] in names]
        if of_program:
            write_rows(of_program, machine, program, f"{load:.1f}", options)
    if on_cpu and not options.grid:
        summary, notes = list(summary_rows(all_runs)), notes_on(all_runs)
        print_summary(summary)
        for note in sum(notes.values(), []):
            print(note)
        if len(cases) == len(all_cases) and options.dtype is None:
            write_summary(summary, notes, folder_of(machine, options) / "README.md", all_runs, machine, f"{load:.1f}", options)
    return 0 if is_good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        sys.exit(failure.code)
    except KeyboardInterrupt:
        sys.exit(130)
