#!/usr/bin/env python3
"""Searches hyper-parameters with Optuna: every trial is a run of `pretrain` or `finetune`.

    python3 tools/sweep.py examples/sweeps/pretraining.toml --data drivers.csv --out runs/sweep
    python3 tools/sweep.py examples/sweeps/finetuning.toml --data drivers.csv --out runs/sweep_fine \\
        --backbone runs/pre/checkpoints/best.safetensors -- --split runs/pre/split.json

What follows -- goes to the program as it is (--config FILE, --set key=value, --split FILE, --from-scratch, --device cuda).
docs/sweep.md says how to install Optuna, what a space file holds, and how several machines share a study.

The objective is the best epoch of a run, measured on validation drivers; test drivers decide nothing. Trials are drawn by TPE;
the seed and the number of a trial fix its random part, so neither workers nor an interruption change the random trials. After
the random trials, a run that is worse than the median of the completed ones in the same epoch is pruned. A configuration that the
program refuses is drawn anew and does not count as a trial. A run that fails counts, is named, and the others go on. A trial
whose worker died goes on where its run stopped, as does one that Ctrl-C stopped after --resume.

--out holds study.sqlite3 (without --storage), trials/NNNNN (run folders; checkpoints of ended runs are removed), and, rewritten
at the end: sweep.json (counts, seeds, best trial, importances), trials.jsonl, importances.svg, best.toml (for --config).
Exit code: 0 done, 1 too few trials could be done, 2 wrong usage or input, 130 interrupted.
"""

import argparse
import dataclasses
import datetime
import hashlib
import inspect
import json
import math
import multiprocessing
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import warnings
from decimal import Decimal
from xml.sax.saxutils import escape

try:
    import optuna
    import sklearn  # noqa: F401, what fANOVA needs, asked for before the first trial and not after the last
except ImportError as error:
    print(f"sweep: {error.name} is not installed: python3 -m venv build/tools && build/tools/bin/pip install -r "
          "tools/requirements.txt, then build/tools/bin/python tools/sweep.py", file=sys.stderr)
    sys.exit(2)

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIRECTIONS = {"masked_loss": "minimize", "kpi": "maximize", "mae": "minimize", "rmse": "minimize"}
MOST_ATTEMPTS = 3  # of a trial whose workers die
MOST_INFEASIBLE = 100  # in a row
MOST_FAILED = 5  # while nothing else has ended: then every trial would fail

stop = threading.Event()


class Failure(Exception):
    """Ends the sweep with one line."""

    def __init__(self, message, code=2):
        super().__init__(message)
        self.code = code


class RunFailed(Exception):
    """Why stands in the trial's user attributes."""


class Interrupted(Exception):
    pass


def say(line):
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


# --- the space -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Space:
    name: str
    program: str
    objective: str
    trials: int
    random_trials: int
    prune_after: int
    space: dict  # {key: [choice, ...] or {"low", "high", "step"}}
    when: list  # [{key: value, ..., "then": {key: value}}]

    def draw(self, trial):
        """{key: value as --set takes it}"""
        drawn = {}
        for key, values in self.space.items():
            if isinstance(values, list):
                value = trial.suggest_categorical(key, values)
            else:
                value = trial.suggest_float(key, values["low"], values["high"], step=values["step"])
            drawn[key] = self.spell(key, value)
        return drawn

    def spell(self, key, value):
        """As --set takes it; what was drawn with a step has no more digits than the step."""
        values = self.space[key]
        if isinstance(values, dict):
            value = round(value, max(0, -Decimal(str(values["step"])).as_tuple().exponent))
        return spell(value)

    def settings(self, drawn, features):
        """What the program is given: `drawn` with the rules of [[when]] applied."""
        settings = dict(drawn)
        for rule in self.when:
            if all(drawn[key] == spell(value) for key, value in rule.items() if key != "then"):
                settings |= {key: str(features) if value == "features" else spell(value)
                             for key, value in rule["then"].items()}
        return settings


def spell(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_space(path):
    def demand(holds, what):
        if not holds:
            raise Failure(f"{path}: {what}")

    def is_number(value):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

    def is_table(value):
        return isinstance(value, dict) and len(value) > 0

    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: not TOML: {error}") from error

    fields = [field.name for field in dataclasses.fields(Space) if field.name != "name"]
    content.setdefault("when", [])
    for key in content:
        demand(key in fields, f"unknown key {key}; keys: {', '.join(fields)}")
    for key in fields:
        demand(key in content, f"{key} is missing")
    demand(content["program"] in ("pretrain", "finetune"), "program must be \"pretrain\" or \"finetune\"")
    objectives = ["masked_loss"] if content["program"] == "pretrain" else ["kpi", "mae", "rmse"]
    demand(content["objective"] in objectives, f"objective must be one of {', '.join(objectives)}")
    for key, least in (("trials", 1), ("random_trials", 0), ("prune_after", 0)):
        value = content[key]
        demand(isinstance(value, int) and not isinstance(value, bool) and value >= least,
               f"{key} must be an integer from {least} on")

    demand(is_table(content["space"]), "[space] must hold at least one key")
    for key, values in content["space"].items():
        where = f"[space] {key}"
        if isinstance(values, list):
            demand(len(values) > 0 and all(isinstance(value, str) or isinstance(value, bool) or is_number(value)
                                           for value in values),
                   f"{where}: choices must be strings, numbers or truth values (a list is written \"[64, 64]\")")
            demand(len({spell(value) for value in values}) == len(values), f"{where}: a choice is named twice")
        else:
            demand(isinstance(values, dict) and values.keys() == {"low", "high", "step"}
                   and all(map(is_number, values.values())),
                   f"{where}: must be a list of choices or {{ low = .., high = .., step = .. }}")
            low, high, step = (Decimal(str(values[name])) for name in ("low", "high", "step"))
            demand(step > 0 and low < high and (high - low) % step == 0,
                   f"{where}: low must be below high by a whole number of steps above 0")
    demand(isinstance(content["when"], list) and all(map(is_table, content["when"])), "when must be written [[when]]")
    for rule in content["when"]:
        demand(is_table(rule.get("then")) and len(rule) > 1,
               "[[when]] needs a key of [space] with its value, and then = { key = value }")
        for key, value in rule.items():
            choices = content["space"].get(key)
            demand(key == "then" or isinstance(choices, list) and value in choices,
                   f"[[when]] {key} = {spell(value)}: is no choice of [space]")
    return Space(name=path.stem, **content)


# --- the program ---------------------------------------------------------------------------------------------------


class Program:
    """`pretrain` or `finetune` with everything that all trials share."""

    def __init__(self, options, space):
        self.path = options.programs / space.program
        self.flags = list(options.flags) + ["--set", f"train.monitor={space.objective}"]
        if options.backbone:
            self.flags += ["--backbone", str(options.backbone)]
        self.data, self.threads = options.data, options.threads

    def command(self, settings, *flags):
        overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return [str(self.path), *self.flags, *overrides, *flags]

    def resolve(self, settings):
        """The whole configuration as TOML, or why the program refuses it. Nothing is trained."""
        done = subprocess.run(self.command(settings, "--print-config"), capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout, None
        return None, last_line(done.stderr).removeprefix(f"{self.path.name}: ") or f"exit code {done.returncode}"

    def start(self, settings, folder, output, errors):
        # Its own session, so that Ctrl-C reaches the worker alone; SIGTERM, after which it saves, when the worker dies.
        dies_with_worker = [shutil.which("setpriv"), "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        command = self.command(settings, "--data", str(self.data), "--out", str(folder), "--threads", str(self.threads),
                               "--json", "--quiet", "--resume")
        return subprocess.Popen(dies_with_worker + command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                                start_new_session=True)


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


class EpochLog:
    """The epochs that metrics.jsonl has gained since the last look. A resumed run cuts the log to what it had saved and writes
    later epochs again, with other times: so epochs are counted, and not bytes."""

    def __init__(self, folder):
        self.path, self.last = folder / "metrics.jsonl", 0

    def news(self):
        if not self.path.exists():
            return
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            event = json.loads(line)
            if event["event"] == "epoch" and event["epoch"] > self.last:
                self.last = event["epoch"]
                yield event


# --- trials --------------------------------------------------------------------------------------------------------


def outcome(trial):
    """complete, pruned, failed: these count as trials; infeasible, interrupted, lost, and lesson (below); running, waiting."""
    for name in ("lesson", "infeasible", "failed", "interrupted"):
        if name in trial.user_attrs:
            return name
    if trial.state == optuna.trial.TrialState.FAIL:
        return "failed" if trial.user_attrs.get("attempt", 1) == MOST_ATTEMPTS else "lost"
    return trial.state.name.lower()


ENDED = ("complete", "pruned", "failed")


# TPE learns nothing from failed trials, and so likes best what has always failed. An infeasible trial is therefore told as
# pruned without a value, which TPE takes for the worst, and a failed one is followed by one of that kind, its lesson.
def add_lesson(study, trial):
    study.add_trial(optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED, params=trial.params, distributions=trial.distributions,
        user_attrs={"lesson": trial.number}))


class SeededSampler(optuna.samplers.BaseSampler):
    """TPE whose random numbers follow from the seed and the number of the trial, and from nothing else."""

    def __init__(self, seed, random_trials):
        self.seed, self.random_trials = seed, random_trials

    def infer_relative_search_space(self, study, trial):
        digest = hashlib.sha256(f"{self.seed} {trial.number}".encode()).digest()
        # TPE counts what is told as pruned: an infeasible trial is none, a failed one has its lesson.
        infeasible = sum(outcome(one) == "infeasible" for one in study.get_trials(deepcopy=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant_liar is called experimental by some versions
            self.sampler = optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4], "big"), n_startup_trials=self.random_trials + infeasible,
                multivariate=False, constant_liar=True)
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, name, distribution):
        return self.sampler.sample_independent(study, trial, name, distribution)


def go_on_later(study, trial, attempt):
    study.enqueue_trial(trial.params, user_attrs={"continues": trial.number, "attempt": attempt})


def on_dead_worker(study, trial):
    attempt = trial.user_attrs.get("attempt", 1)
    if attempt < MOST_ATTEMPTS:
        say(f"trial {trial.number}: its worker gave no sign of life; taken over")
        go_on_later(study, trial, attempt + 1)
    else:
        say(f"trial {trial.number} failed: its workers died {MOST_ATTEMPTS} times")


def open_study(options, space):
    """The study and whether it is new."""
    url = options.storage or f"sqlite:///{options.out / 'study.sqlite3'}"
    engine = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    hook = "heartbeat_stale_trial_callback"
    if hook not in inspect.signature(optuna.storages.RDBStorage).parameters:
        hook = "failed_trial_callback"  # its name before Optuna 4.9
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the heartbeat is called experimental
            storage = optuna.storages.RDBStorage(
                url, engine_kwargs=engine, heartbeat_interval=max(1, options.stale_after // 5),
                grace_period=options.stale_after, **{hook: on_dead_worker})
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
        study = optuna.create_study(
            study_name=options.study, storage=storage, direction=DIRECTIONS[space.objective], load_if_exists=True,
            sampler=SeededSampler(options.seed, space.random_trials),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=space.random_trials, n_warmup_steps=space.prune_after))
    except Exception as error:
        reason = str(error.__cause__ or error).partition("\n")[0].replace(url, "the URL")
        raise Failure(f"--storage: {reason}") from error
    return study, options.study not in names


def check_identity(study, identity):
    """All workers of a study must mean the same."""
    found = study.user_attrs.get("sweep")
    if found is None:
        study.set_user_attr("sweep", identity)
        return
    for name, value in identity.items():
        if found[name] == value:
            continue
        if name == "configuration":
            ours, theirs = flat(value), flat(found[name])
            keys = [key for key in ours if ours[key] != theirs.get(key)]
            raise Failure(f"the study {study.study_name} was begun with another configuration: {', '.join(keys)}; "
                          "give the same, or another --study and --out")
        shown = f" ({found[name]})" if name == "seed" else ""
        raise Failure(f"the study {study.study_name} was begun with another {name}{shown}; "
                      "give the same, or another --study and --out")


def flat(toml):
    return {f"{section}.{key}": value for section, keys in tomllib.loads(toml).items() for key, value in keys.items()}


def features_of(configuration):
    """Features of a row as the model sees it."""
    keys = flat(configuration)
    return len(keys["data.features"]) * (2 if keys["data.calibration"] == "append" else 1)


class Worker:
    def __init__(self, options, space, configuration):
        self.options, self.space = options, space
        self.program = Program(options, space)
        self.features = features_of(configuration)
        self.study, _ = open_study(options, space)
        self.number = None  # of the trial that runs

    def should_stop(self):
        parent = multiprocessing.parent_process()
        return stop.is_set() or (parent is not None and not parent.is_alive())

    def work(self):
        """Runs trials until the study has enough of them."""
        while not self.should_stop():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optuna.storages.fail_stale_trials(self.study)
            self.fail_stillborn()
            outcomes = [outcome(trial) for trial in self.study.get_trials(deepcopy=False)]
            ended = sum(one in ENDED for one in outcomes)
            if ended >= self.options.trials:
                return
            if outcomes[-MOST_INFEASIBLE:] == ["infeasible"] * MOST_INFEASIBLE:
                reason = self.study.trials[-1].user_attrs["infeasible"]
                raise Failure(f"{MOST_INFEASIBLE} draws in a row are infeasible; the last: {reason}")
            if ended >= MOST_FAILED and "complete" not in outcomes and "pruned" not in outcomes:
                raise Failure(f"all {ended} trials failed, so others would; mend what the lines above name and begin anew", 1)
            if "running" in outcomes and ended + outcomes.count("running") >= self.options.trials:
                stop.wait(1)  # the others may still fail to end theirs
                continue
            try:
                self.study.optimize(self.run, n_trials=1, catch=(RunFailed,))
            except Interrupted:
                trial = self.study.get_trials(deepcopy=False)[self.number]
                go_on_later(self.study, trial, trial.user_attrs.get("attempt", 1))
            except (ValueError, RuntimeError):
                # So Optuna answers where another worker took this one for dead and ended its trial.
                if all(trial.user_attrs.get("continues") != self.number for trial in self.study.get_trials(deepcopy=False)):
                    raise
                say(f"trial {self.number}: another worker went on with it")

    def fail_stillborn(self):
        """A worker that dies between drawing a trial and its first sign of life leaves one that nobody waits for."""
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            age = (datetime.datetime.now() - trial.datetime_start).total_seconds()
            if "worker" not in trial.user_attrs and age > 2 * self.options.stale_after:
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    def run(self, trial):
        """The objective of one trial."""
        self.number = trial.number
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        settings = self.space.settings(self.space.draw(trial), self.features)
        _, refusal = self.program.resolve(settings)
        if refusal:
            say(f"trial {trial.number} is infeasible, drawn anew: {refusal}")
            trial.set_user_attr("infeasible", refusal)
            raise optuna.TrialPruned

        folder = self.options.out / "trials" / f"{trial.number:05}"
        if "continues" in trial.user_attrs:
            self.take_run(self.options.out / "trials" / f"{trial.user_attrs['continues']:05}", folder)
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            process = self.program.start(settings, folder, output, errors)
            try:
                self.follow(trial, process, EpochLog(folder))
            finally:
                if process.poll() is None:
                    process.terminate()
                process.wait()
                seconds = time.monotonic() - began
                trial.set_user_attr("seconds", round(seconds, 2))
            for file in (output, errors):
                file.seek(0)
            result, message = output.read(), last_line(errors.read()).removeprefix(f"{self.space.program}: ")

        if process.returncode == 0:
            report = json.loads(result)
            if report["best"] is not None:
                trial.set_user_attr("best_epoch", report["best_epoch"])
                say(f"trial {trial.number}: {self.space.objective} {report['best']:.4f} in epoch {report['best_epoch']}, "
                    f"{seconds:.0f} s")
                shutil.rmtree(folder / "checkpoints")
                return report["best"]
            message = f"no epoch has a finite {self.space.objective}"
        code = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        reason = f"{code}: {message}" if message else code
        say(f"trial {trial.number} failed, {reason}")
        trial.set_user_attr("failed", reason)
        add_lesson(self.study, trial)
        raise RunFailed

    def follow(self, trial, process, log):
        """Reports the epochs until the run ends; a pruned one is ended."""
        while True:
            is_over = process.poll() is not None
            for epoch in log.news():
                value = epoch["validation"][self.space.objective]
                if value is None:
                    continue
                trial.report(value, epoch["epoch"])
                if not is_over and trial.should_prune():
                    process.kill()
                    process.wait()
                    shutil.rmtree(log.path.parent / "checkpoints", ignore_errors=True)
                    say(f"trial {trial.number} pruned in epoch {epoch['epoch']}: {self.space.objective} {value:.4f}")
                    raise optuna.TrialPruned
            if is_over:
                return
            if self.should_stop():
                process.terminate()
                process.wait()
                trial.set_user_attr("interrupted", True)
                raise Interrupted
            time.sleep(0.1)

    @staticmethod
    def take_run(source, target):
        """What a run goes on from. A copy, since the program of a worker that only seems dead may still write; without its
        checkpoints it then fails. The state first: the log may be longer than it says, not shorter."""
        if not (source / "checkpoints" / "state.safetensors").exists():
            return
        copy = target.with_suffix(".tmp")
        shutil.rmtree(copy, ignore_errors=True)
        (copy / "checkpoints").mkdir(parents=True)
        for name in ("checkpoints/state.safetensors", "config.toml", "split.json", "metrics.jsonl", "plans.json"):
            if (source / name).exists():
                shutil.copyfile(source / name, copy / name)
        copy.rename(target)
        shutil.rmtree(source / "checkpoints", ignore_errors=True)


# --- results -------------------------------------------------------------------------------------------------------


def importances_of(study, seed):
    """{key: share of the variance of the objective over the space}, largest first, or None and why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed))
    except (RuntimeError, ValueError) as error:
        return None, str(error)
    if not any(shares.values()) or len(set(shares.values())) == 1 and len(shares) > 1:
        return None, "fANOVA needs more completed trials that differ"
    return {key: float(share) for key, share in shares.items()}, None


def bar_chart(importances, title, subtitle):
    """Horizontal bars as one SVG file, for light and dark pages."""
    left, width, row, top = 190, 700, 26, 64
    bottom = top + row * len(importances)
    most = max(importances.values())
    step = next(one for one in (0.02, 0.05, 0.1, 0.2) if most <= 5 * one or one == 0.2)
    ticks = [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]
    scale = (width - left - 60) / ticks[-1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 50}" width="{width}" '
        f'height="{bottom + 50}" role="img" aria-label="{escape(title)}">',
        "<style>",
        "svg { --paper: #ffffff; --ink: #1d1d1f; --faint: #d5d5da; --bar: #2f6db5; font: 13px sans-serif; }",
        "@media (prefers-color-scheme: dark) {",
        "  svg { --paper: #17181b; --ink: #ececf0; --faint: #45474d; --bar: #6ea8ea; } }",
        ".paper { fill: var(--paper); } text { fill: var(--ink); stroke: var(--paper); stroke-width: 4px; paint-order: stroke; }",
        ".title { font-size: 16px; font-weight: bold; }",
        ".grid { stroke: var(--faint); } .bar { fill: var(--bar); }",
        "</style>",
        f'<rect class="paper" width="{width}" height="{bottom + 50}"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        f'<text x="16" y="46">{escape(subtitle)}</text>']
    for tick in ticks:
        x = left + tick * scale
        parts += [f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>',
                  f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick:.2f}</text>']
    for i, (key, share) in enumerate(importances.items()):
        y = top + row * i
        parts += [f'<text x="{left - 10}" y="{y + 17}" text-anchor="end">{escape(key)}</text>',
                  f'<rect class="bar" x="{left}" y="{y + 4}" width="{share * scale:.1f}" height="{row - 8}"/>',
                  f'<text x="{left + share * scale + 6:.1f}" y="{y + 17}">{share:.3f}</text>']
    parts += [f'<text x="{left + (width - left - 60) / 2:.1f}" y="{bottom + 40}" text-anchor="middle">'
              "importance, share of the variance (fANOVA)</text>", "</svg>"]
    return "\n".join(parts) + "\n"


def write(path, text):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_results(options, space, configuration):
    """Returns how many trials have ended, and how many of them are complete."""
    study, _ = open_study(options, space)
    trials = [trial for trial in study.get_trials(deepcopy=False) if outcome(trial) != "lesson"]
    outcomes = [outcome(trial) for trial in trials]
    counts = {name: outcomes.count(name) for name in dict.fromkeys([*ENDED, "infeasible", *sorted(outcomes)])}
    summary = {"study": options.study, "program": space.program, "objective": space.objective,
               "direction": DIRECTIONS[space.objective], "optuna": optuna.__version__, "sampler_seed": options.seed,
               "train_seed": flat(configuration)["train.seed"], "random_trials": space.random_trials, "counts": counts,
               "seconds": round(sum(trial.user_attrs.get("seconds", 0) for trial in trials), 1)}
    lines = [f"{options.study}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
             + f"; {summary['seconds']:.0f} s of runs; seed {options.seed}, train.seed {summary['train_seed']}"]

    program = Program(options, space)
    if counts["complete"]:
        best = study.best_trial
        settings = space.settings({key: space.spell(key, value) for key, value in best.params.items()},
                                  features_of(configuration))
        summary["best"] = {"trial": best.number, "value": best.value, "epoch": best.user_attrs["best_epoch"],
                           "settings": settings}
        best_configuration, refusal = program.resolve(settings)
        if refusal:
            raise Failure(f"trial {best.number} cannot be repeated: {refusal}", 1)
        write(options.out / "best.toml",
              f"# Trial {best.number} of {counts['complete']} complete ones of the study {options.study}: "
              f"{space.objective} {best.value:.6g} in epoch {best.user_attrs['best_epoch']}, on validation drivers.\n"
              + best_configuration)
        lines += [f"best: trial {best.number}, {space.objective} {best.value:.4f} in epoch {best.user_attrs['best_epoch']}",
                  *(f"  {key} = {value}" for key, value in settings.items())]
        importances, reason = importances_of(study, options.seed)
        summary["importances"] = importances
        if importances:
            write(options.out / "importances.svg", bar_chart(
                importances, f"Importance of hyper-parameters for {space.objective}",
                f"{space.name} sweep, {counts['complete']} completed trials"))
        else:
            lines.append(f"no importances: {reason}")
    write(options.out / "sweep.json", json.dumps(summary, indent=1) + "\n")
    write(options.out / "trials.jsonl", "".join(
        json.dumps({"trial": trial.number, "outcome": one, "value": trial.value if one == "complete" else None,
                    "epochs": len(trial.intermediate_values),
                    "parameters": {key: space.spell(key, value) for key, value in trial.params.items()},
                    **{key: trial.user_attrs[key] for key in ("failed", "infeasible", "continues", "attempt", "seconds",
                                                              "best_epoch", "worker") if key in trial.user_attrs}}) + "\n"
        for trial, one in zip(trials, outcomes)))
    print("\n".join([*lines, f"results: {options.out}"]))
    return sum(one in ENDED for one in outcomes), counts["complete"]


# --- the command ---------------------------------------------------------------------------------------------------


def stop_on_signals():
    """The first Ctrl-C lets programs finish their step and save; a second one ends at once."""

    def on_interrupt(number, frame):
        stop.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, on_interrupt)
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def work(options, space, configuration):
    """Works until the study has its trials; returns an exit code."""
    try:
        Worker(options, space, configuration).work()
    except Failure as failure:
        say(f"sweep: {failure}")
        return failure.code
    except optuna.exceptions.StorageInternalError as error:
        say(f"sweep: the database does not answer: {error.__cause__ or error}".partition("\n")[0])
        return 1
    return 0


def run_worker(options, space, configuration):
    stop_on_signals()
    sys.exit(work(options, space, configuration))


def run_workers(options, space, configuration):
    """Returns the first code of a worker that failed."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=run_worker, args=(options, space, configuration)) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    code, left, was_told = 0, list(workers), False
    while left:
        if stop.is_set() and not was_told:
            was_told = True
            for worker in left:
                worker.terminate()
        for worker in list(left):
            worker.join(0.2)
            if worker.exitcode is None:
                continue
            left.remove(worker)
            code = code or max(0, worker.exitcode)
            if worker.exitcode < 0:
                say(f"worker {worker.pid} was killed by signal {-worker.exitcode}; the others go on")
    return code


def digest(path, flag):
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Failure(f"{flag} {path}: {error.strerror}") from error


def sweep(options):
    space = read_space(options.space)
    options.study = options.study or space.name
    options.trials = options.trials or space.trials
    options.threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    if not (options.programs / space.program).exists():
        raise Failure(f"{options.programs / space.program} is missing: build the programs, or name their folder by --programs")
    configuration, refusal = Program(options, space).resolve({})
    if refusal:
        raise Failure(refusal)
    keys = flat(configuration)
    for key in [*space.space, *(key for rule in space.when for key in rule["then"])]:
        if key not in keys:
            raise Failure(f"{options.space}: {key} is no key of {space.program}; {space.program} --print-config shows all")
    identity = {"space": [space.program, space.objective, space.random_trials, space.prune_after, space.space, space.when],
                "configuration": configuration, "data": digest(options.data, "--data"),
                "backbone": options.backbone and digest(options.backbone, "--backbone"), "seed": options.seed}

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"--out {options.out}: {error.strerror}") from error
    study, is_new = open_study(options, space)
    if is_new and (options.out / "trials").exists():
        raise Failure(f"--out {options.out}: holds the trials of another study; name another folder")
    if not is_new and not options.resume:
        raise Failure(f"the study {options.study} exists; go on with --resume, or give another --study and --out")
    check_identity(study, identity)

    if options.workers == 1:
        code = work(options, space, configuration)
    else:
        code = run_workers(options, space, configuration)
    ended, complete = write_results(options, space, configuration)
    if stop.is_set():
        say("interrupted; go on with --resume")
        return 130
    if code == 0 and (ended < options.trials or complete == 0):
        say(f"sweep: {ended} of {options.trials} trials ended, {complete} of them complete; go on with --resume")
        return 1
    return code


def main():
    parser = argparse.ArgumentParser(prog="sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def count(word):
        if (value := int(word)) < 1:
            raise ValueError
        return value

    parser.add_argument("space", type=pathlib.Path, help="space file, TOML")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="CSV file of blinks")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the sweep")
    parser.add_argument("--backbone", type=pathlib.Path, help="pre-training checkpoint, for finetune")
    parser.add_argument("--trials", type=count, help="trials of the whole study; default: the space file's")
    parser.add_argument("--workers", type=count, default=1, help="runs at a time on this machine")
    parser.add_argument("--threads", type=count, help="of each run; default: the processors shared among the workers")
    parser.add_argument("--seed", type=int, default=1, help="of the draws and of fANOVA; runs take train.seed")
    parser.add_argument("--resume", action="store_true", help="go on with, or join, a study; begin it if there is none")
    parser.add_argument("--storage", help="URL of a database that machines share; default: study.sqlite3 in --out")
    parser.add_argument("--study", help="its name in the database; default: that of the space file")
    parser.add_argument("--stale-after", type=count, default=300,
                        help="seconds without a sign of life after which a trial is taken over")
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build" / "release" / "bin",
                        help="folder of pretrain and finetune")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:at])
    options.flags = words[at + 1:]
    stop_on_signals()
    try:
        sys.exit(sweep(options))
    except Failure as failure:
        say(f"sweep: {failure}")
        sys.exit(failure.code)


if __name__ == "__main__":
    main()
