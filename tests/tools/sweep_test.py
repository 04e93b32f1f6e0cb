#!/usr/bin/env python3
"""tools/sweep.py with the real programs on a small space:  python3 tests/tools/sweep_test.py BIN
Exit code: 0 passed, 1 not, 77 Optuna is not installed."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

try:
    import optuna
    import sklearn  # noqa: F401
except ImportError as error:
    print(f"skipped: {error.name} is not installed (tools/requirements.txt)")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import sweep  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)
BIN = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else ROOT / "build" / "release" / "bin"
SMALL = ["--", "--set", "model.blocks=1", "--set", "data.calibration=none", "--set", "data.stride=60"]
HEAD = 'program = "pretrain"\nobjective = "masked_loss"\ntrials = 4\nrandom_trials = 4\nprune_after = 1000\n[space]\n'
SPACE = HEAD + """
"model.upscaling" = ["none", "linear"]
"model.width" = [4, 8, 9]
"model.heads" = [2, 8]
"head.hidden" = ["[8, 8]", "[8]"]
"train.rate" = { low = 1e-3, high = 1e-2, step = 1e-3 }
"""
# One choice, so that every trial is a run.
PLAIN = HEAD + '"model.upscaling" = ["linear"]\n"model.width" = [8]\n"train.rate" = { low = 1e-3, high = 1e-2, step = 1e-3 }\n'


def wait_for(condition, what):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


class SweepTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        cls.data = cls.folder / "drivers.csv"
        subprocess.run([BIN / "simulate", "--drivers", "8", "--out", cls.data, "--quiet"], check=True, stdout=subprocess.DEVNULL)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def setUp(self):
        self.out = self.folder / self.id().rsplit(".", 1)[1]

    def command(self, space, *flags, epochs=2, data=None):
        file = self.out.with_suffix(".toml")
        file.write_text(space)
        return [sys.executable, ROOT / "tools" / "sweep.py", file, "--data", data or self.data, "--out", self.out,
                "--programs", BIN, "--threads", "1", *flags, *SMALL, "--set", f"train.epochs={epochs}",
                "--set", "train.patience=1000"]

    def sweep(self, code, space, *flags, **settings):
        done = subprocess.run(self.command(space, *flags, **settings), capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stderr + done.stdout)
        return done

    def start(self, space, *flags, **settings):
        process = subprocess.Popen(self.command(space, *flags, **settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        return process

    def summary(self):
        return json.loads((self.out / "sweep.json").read_text())

    def trials(self):
        return {one["trial"]: one for one in map(json.loads, (self.out / "trials.jsonl").read_text().splitlines())}

    def epochs(self, trial):
        log = self.out / "trials" / f"{trial:05}" / "metrics.jsonl"
        return [line for line in log.read_text().splitlines() if '"epoch"' in line] if log.exists() else []

    def test_log_that_a_resumed_run_cuts(self):
        """A resumed run writes again, with other times, what it had not saved."""
        with tempfile.TemporaryDirectory() as folder:
            log = sweep.EpochLog(pathlib.Path(folder))
            self.assertEqual(list(log.news()), [])

            def write(epochs, seconds, end=""):
                lines = [json.dumps({"event": "epoch", "epoch": epoch, "time": seconds}) + "\n" for epoch in epochs]
                log.path.write_text("".join(lines) + end)
                return [event["epoch"] for event in log.news()]

            self.assertEqual(write([1, 2, 3], 1.5), [1, 2, 3])
            self.assertEqual(write([1], 1.5), [])
            self.assertEqual(write([1, 2, 3, 4], 1.23456789, end='{"event": "ep'), [4])

    def test_results_and_infeasible_draws(self):
        done = self.sweep(0, SPACE)
        counts, trials = self.summary()["counts"], self.trials()
        self.assertEqual((counts["complete"], counts["failed"]), (4, 0))
        for one in trials.values():
            drawn = one["parameters"]
            fits = drawn["model.upscaling"] == "linear" or drawn["model.width"] == "9"
            fits = fits and int(drawn["model.heads"]) <= int(drawn["model.width"])
            self.assertEqual(one["outcome"], "complete" if fits else "infeasible")
            # Rejected before a run: nothing is left of one.
            self.assertEqual((self.out / "trials" / f"{one['trial']:05}").exists(), fits)
        self.assertGreater(counts["infeasible"], 0)
        self.assertEqual(done.stderr.count("is infeasible, drawn anew: model."), counts["infeasible"])

        best = self.summary()["best"]
        self.assertEqual(best["value"], min(one["value"] for one in trials.values() if one["value"] is not None))
        # The file is the trial: the same bits come out.
        again = subprocess.run([BIN / "pretrain", "--config", self.out / "best.toml", "--data", self.data, "--threads", "1",
                                "--out", self.out / "again", "--json", "--quiet"], capture_output=True, text=True, check=True)
        self.assertEqual(json.loads(again.stdout)["best"], best["value"])

        importances = self.summary()["importances"]
        self.assertEqual(set(importances), set(sweep.read_space(self.out.with_suffix(".toml")).space))
        self.assertAlmostEqual(sum(importances.values()), 1, places=12)
        self.assertEqual(list(importances.values()), sorted(importances.values(), reverse=True))
        chart = xml.etree.ElementTree.parse(self.out / "importances.svg").getroot()
        bars = [one for one in chart if one.get("class") == "bar"]
        words = [one.text for one in chart if one.tag.endswith("text")]
        self.assertEqual(len(bars), len(importances))
        self.assertLessEqual(set(importances), set(words))
        widths = [float(bar.get("width")) for bar in bars]
        most = max(importances.values())
        for width, share in zip(widths, importances.values()):
            self.assertAlmostEqual(width, share / most * max(widths), delta=0.11)  # written with one decimal

        # Finished: resumed it does nothing; without the flag, or with something else in it, it is refused.
        before = (self.out / "trials.jsonl").read_text()
        self.sweep(0, SPACE, "--resume")
        self.assertEqual((self.out / "trials.jsonl").read_text(), before)
        self.assertIn("go on with --resume", self.sweep(2, SPACE).stderr)
        self.assertIn("another seed (1)", self.sweep(2, SPACE, "--resume", "--seed", "2").stderr)
        self.assertIn("another space", self.sweep(2, SPACE.replace("[2, 8]", "[2, 4]"), "--resume").stderr)
        self.assertIn("another configuration: train.epochs", self.sweep(2, SPACE, "--resume", epochs=3).stderr)
        other = self.folder / "others.csv"
        subprocess.run([BIN / "simulate", "--drivers", "8", "--seed", "7", "--out", other, "--quiet"], check=True,
                       stdout=subprocess.DEVNULL)
        self.assertIn("another data", self.sweep(2, SPACE, "--resume", data=other).stderr)
        self.assertEqual((self.out / "trials.jsonl").read_text(), before)
        self.sweep(0, SPACE, "--resume", "--trials", "5")
        self.assertEqual(self.summary()["counts"]["complete"], 5)
        self.assertTrue((self.out / "trials.jsonl").read_text().startswith(before))

    def test_failed_trials_are_named_and_the_others_go_on(self):
        space = HEAD.replace("random_trials = 4", "random_trials = 3")
        space += '"model.upscaling" = ["none", "linear"]\n"model.width" = [8]\n"train.rate" = [1e-3, 1e38]\n'
        done = self.sweep(0, space, "--trials", "8", "--seed", "2")
        trials = list(self.trials().values())
        wanted = {("none", "0.001"): "infeasible", ("none", "1e+38"): "infeasible", ("linear", "1e+38"): "failed",
                  ("linear", "0.001"): "complete"}
        for one in trials:
            self.assertEqual(one["outcome"], wanted[one["parameters"]["model.upscaling"], one["parameters"]["train.rate"]])
            if one["outcome"] == "failed":
                self.assertRegex(one["failed"], "exit code 3: the loss of step .* is not finite")
                self.assertIn(f"trial {one['trial']} failed, exit code 3: ", done.stderr)
        outcomes = [one["outcome"] for one in trials if one["outcome"] != "infeasible"]
        self.assertEqual(len(outcomes), 8)
        self.assertIn("failed", outcomes[:3])
        # Once TPE decides, it keeps away from both: without their lessons it would draw little else.
        self.assertEqual(outcomes[3:], ["complete"] * 5)
        self.assertLess(sum(one["outcome"] == "infeasible" for one in trials), 8)  # fewer than trials; else twice as many

        # Input that no trial can do with ends the sweep.
        self.out = self.out.with_name("all_fail")
        broken = self.folder / "broken.csv"
        with self.data.open() as file, broken.open("w") as target:
            rows = list(csv.reader(file))
            rows[5][2] = "nonsense"
            csv.writer(target).writerows(rows)
        done = self.sweep(1, PLAIN, "--trials", "50", data=broken)
        self.assertEqual(done.stderr.count("failed, exit code 2: "), sweep.MOST_FAILED)
        self.assertIn("all 5 trials failed", done.stderr)

    def test_without_a_feasible_draw(self):
        done = self.sweep(2, HEAD + '"model.upscaling" = ["none"]\n"model.width" = [8, 16]\n')
        self.assertIn("draws in a row are infeasible; the last: model.width", done.stderr)

    def test_pruning(self):
        space = PLAIN.replace("prune_after = 1000", "prune_after = 2").replace("random_trials = 4", "random_trials = 2")
        space = space.replace("{ low = 1e-3, high = 1e-2, step = 1e-3 }", "[1e-2, 1e-9]")
        self.out.mkdir()
        study = optuna.create_study(study_name=self.out.name, storage=f"sqlite:///{self.out}/study.sqlite3")
        for rate in (1e-2, 1e-2, 1e-9):
            study.enqueue_trial({"train.rate": rate})
        done = self.sweep(0, space, "--resume", "--trials", "3", epochs=100)
        trials = self.trials()
        self.assertEqual([trials[i]["outcome"] for i in range(3)], ["complete", "complete", "pruned"], done.stderr)
        self.assertGreaterEqual(trials[2]["epochs"], 2)
        self.assertLess(trials[2]["epochs"], 100)

    def test_killed_sweep_goes_on(self):
        # What an undisturbed sweep draws depends on the seed and on the trials' numbers alone.
        space = PLAIN + '"head.dropout" = { low = 0.0, high = 0.2, step = 0.01 }\n'
        self.sweep(0, space)
        reference = {number: one["parameters"] for number, one in self.trials().items()}
        self.out = self.out.with_name("killed")
        process = self.start(space, "--stale-after", "5", "--study", "killed", epochs=100)
        wait_for(lambda: len(self.epochs(1)) >= 3, "epochs of trial 1")
        process.kill()
        process.wait()
        self.sweep(0, space, "--resume", "--stale-after", "5", "--study", "killed", epochs=100)
        trials = self.trials()
        self.assertEqual(sum(one["outcome"] == "complete" for one in trials.values()), 4)
        self.assertEqual(trials[1]["outcome"], "lost")
        for number, one in trials.items():
            if "continues" not in one and number in reference:
                self.assertEqual(one["parameters"], reference[number])
        (taken,) = (one for one in trials.values() if one.get("continues") == 1)
        self.assertEqual(taken["parameters"], trials[1]["parameters"])
        self.assertEqual(taken["outcome"], "complete")
        # It went on where the run had stopped: the lines of its first epochs, times included, are those of the dead worker.
        self.assertEqual(self.epochs(taken["trial"])[:2], self.epochs(1)[:2])

    def test_two_workers_of_which_one_is_killed(self):
        process = self.start(PLAIN, "--workers", "2", "--stale-after", "5", "--trials", "5", epochs=100)
        wait_for(lambda: len(self.epochs(0)) >= 3 and len(self.epochs(1)) >= 3, "epochs of trials 0 and 1")
        study = optuna.load_study(study_name=None, storage=f"sqlite:///{self.out}/study.sqlite3")
        running = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        worker = int(running[0].user_attrs["worker"].rsplit(":", 1)[1])
        self.assertNotEqual(worker, process.pid)
        os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate(timeout=900)
        self.assertEqual(process.returncode, 0, errors)
        self.assertIn(f"worker {worker} was killed by signal 9; the others go on", errors)
        trials = self.trials()
        workers = {one["worker"] for one in trials.values()}
        self.assertEqual(len(workers), 2)
        self.assertEqual(trials[running[0].number]["outcome"], "lost")
        self.assertIn(running[0].number, [one.get("continues") for one in trials.values()])
        self.assertIn(self.summary()["counts"]["complete"], (5, 6))  # two that look at once may both draw

    def test_ctrl_c_keeps_everything(self):
        process = self.start(PLAIN, epochs=100)
        wait_for(lambda: len(self.epochs(1)) >= 3, "epochs of trial 1")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn("interrupted; go on with --resume", errors)
        self.assertEqual(self.trials()[0]["outcome"], "complete")
        self.assertEqual(self.trials()[1]["outcome"], "interrupted")
        self.assertTrue((self.out / "best.toml").exists())
        self.sweep(0, PLAIN, "--resume", epochs=100)
        trials = self.trials()
        self.assertEqual((trials[2]["continues"], trials[2]["outcome"]), (1, "complete"))
        self.assertEqual(self.epochs(2)[:2], self.epochs(1)[:2])
        self.assertEqual(self.summary()["counts"]["complete"], 4)

    def test_bad_space_files(self):
        for space, message in [
            ("program = ", "not TOML"),
            (SPACE.replace('program = "pretrain"\n', ""), "program is missing"),
            (SPACE.replace('"pretrain"', '"score"'), 'program must be "pretrain" or "finetune"'),
            (SPACE.replace('"masked_loss"', '"kpi"'), "objective must be one of masked_loss"),
            (SPACE.replace("trials = 4\nr", "trials = 0\nr"), "trials must be an integer from 1 on"),
            ("pruner = 1\n" + SPACE, "unknown key pruner"),
            (HEAD, "[space] must hold at least one key"),
            (HEAD + '"head.hidden" = [[8], [16]]', "[space] head.hidden: choices must be strings"),
            (HEAD + '"head.hidden" = []', "[space] head.hidden: choices must be"),
            (HEAD + '"model.width" = [8, 8]', "model.width: a choice is named twice"),
            (HEAD + '"model.width" = 8', "model.width: must be a list of choices or"),
            (HEAD + '"train.rate" = { low = 0.0, high = 1.0, step = 0.3 }', "train.rate: low must be below high"),
            (SPACE + '[[when]]\n"model.upscaling" = "nine"\nthen = { "model.width" = 9 }', "[[when]] model.upscaling = nine"),
            (SPACE + '[[when]]\n"model.upscaling" = "none"', "[[when]] needs a key"),
        ]:
            with self.subTest(message), self.assertRaises(sweep.Failure) as caught:
                file = self.out.with_suffix(".toml")
                file.write_text(space)
                sweep.read_space(file)
            self.assertIn(message, str(caught.exception))
            self.assertIn(str(file), str(caught.exception))
            self.assertEqual((str(caught.exception).count("\n"), caught.exception.code), (0, 2))
        for space, flags, data, message in [
            ("program = ", (), None, "not TOML"),
            (HEAD + '"model.widht" = [8]', (), None, "model.widht is no key of pretrain"),
            (SPACE, (), self.folder / "none.csv", "No such file"),
            (SPACE, ("--storage", "nonsense"), None, "--storage: "),
        ]:
            with self.subTest(message):
                done = self.sweep(2, space, *flags, data=data)
                self.assertRegex(done.stderr, f"^sweep: .*{message}.*\n$")
                self.assertFalse((self.out / "trials").exists())

    def test_published_spaces(self):
        """Every row of the source's two tables; the program takes every value of them."""
        for name, rows, choices in [("pretraining", 14, 4 + 5 + 3 + 3 + 21 + 8 + 21 + 2 + 6 + 100 + 6 + 4 + 101 + 4),
                                    ("finetuning", 5, 8 + 21 + 2 + 6 + 4)]:
            space = sweep.read_space(ROOT / "examples" / "sweeps" / f"{name}.toml")
            self.assertEqual(len(space.space), rows)
            program = BIN / space.program
            found = 0
            for key, values in space.space.items():
                if isinstance(values, dict):
                    found += round((values["high"] - values["low"]) / values["step"]) + 1
                    values = [values["low"], values["high"]]
                else:
                    found += len(values)
                for value in values:
                    drawn = {key: sweep.spell(value), **{rule_key: "" for rule in space.when for rule_key in rule
                                                         if rule_key not in (key, "then")}}
                    settings = {one: word for one, word in space.settings(drawn, 18).items() if word}
                    overrides = [word for one, given in settings.items() for word in ("--set", f"{one}={given}")]
                    done = subprocess.run([program, "--print-config", *overrides], capture_output=True, text=True)
                    self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(found, choices)


if __name__ == "__main__":
    unittest.main(verbosity=2)
