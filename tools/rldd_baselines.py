#!/usr/bin/env python3
"""Simple models on the real recordings, for the five published folds: what a network has to beat.

    python3 tools/rldd_baselines.py rldd_blinks.csv [--shuffles N] [--seed N] [--json FILE]

Needs numpy and scikit-learn (1.2 or newer, from Debian or PyPI). Lines:

    two-stage logistic   0 against the rest, then 5 against 10, on statistics of windows of 30 blinks; the mean posterior over
                         the strengths of regularisation in STRENGTHS, so that none is chosen
    ... whole recording  the same on the statistics of all blinks of a recording: VA and VRE alone
    ... 5/10 shuffled    the same after swapping the labels 5 and 10 of half of the training drivers, by chance: how good an
                         answer is that knows nothing of the two drowsy levels. Mean over --shuffles draws, and their spread
    ... without frequency and absolute means
                         the file is standardised by the alert video, so small absolute values recognise that video
    ridge                on the same statistics, to the levels 0, 5, 10 as numbers; thresholds as published

Rows are asinh(frequency / 5), asinh(increment of the frequency / 20), asinh of the other three; statistics are mean, mean
absolute value and standard deviation of each, standardised on the training windows. Training windows start every 10 blinks,
test windows every 2; a window weighs 1 / (windows of its recording). Every test driver is left out of its fold's fit. Nothing
was tuned on test folds.

VA, BSA: per cent of recordings, of windows with the right level; VRE, BSRE: squared distance to the right level's band
(Ghoddoosian et al. 2019, arXiv:1904.07312). A posterior counts as its most likely level: the expected level, clipped into that
level's band. Brackets: 95 % of 2,000 draws of the drivers.
"""

import argparse
import csv
import json
import sys

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

LEVELS = np.array([0.0, 5.0, 10.0])
EDGES = np.array([3.34, 6.68])   # levels are cut here
BANDS = np.array([3.3, 6.6])     # errors are measured to here
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WINDOW, TRAINING_STRIDE, TEST_STRIDE = 30, 10, 2
COLUMNS = ("recording", "driver", "fold", "frequency", "amplitude", "duration", "velocity", "drowsiness")


class Recording:
    def __init__(self, name, driver, fold, label):
        self.name, self.driver, self.fold, self.label = name, driver, fold, label
        self.rows = []


def read_recordings(path):
    """Recordings with rows [blinks, 5], in file order."""
    recordings = {}
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            sys.exit(f"{path}: has no column {missing[0]}; needed are {', '.join(COLUMNS)}")
        for number, row in enumerate(reader, 2):
            try:
                values = [float(row[name]) for name in COLUMNS[3:]]
                fold = int(row["fold"])
            except (TypeError, ValueError):
                sys.exit(f"{path}:{number}: not a row of numbers")
            one = recordings.setdefault(row["recording"], Recording(row["recording"], row["driver"], fold, values[-1]))
            one.rows.append(values[:4])
    for one in recordings.values():
        rows = np.array(one.rows)
        n = np.arange(1, len(rows) + 1)
        increment = np.diff(n * rows[:, 0], prepend=0.0)  # the frequency is a running mean
        one.rows = np.arcsinh(np.column_stack([rows[:, 0] / 5, increment / 20, rows[:, 1:]]))
    return list(recordings.values())


def windows_of(recording, stride):
    rows = recording.rows
    if len(rows) < WINDOW:
        return [rows]
    return [rows[start:start + WINDOW] for start in range(0, len(rows) - WINDOW + 1, stride)]


def statistics(rows):
    return np.concatenate([rows.mean(0), np.abs(rows).mean(0), rows.std(0)])


WITHOUT_FREQUENCY_AND_ABSOLUTE_MEANS = np.array([2, 3, 4, 12, 13, 14])  # of `statistics`


class Set:
    """Statistics of windows, with the place of their recording and their weights."""

    def __init__(self, recordings, stride, columns, whole):
        cut = [[one.rows] if whole else windows_of(one, stride) for one in recordings]
        self.x = np.array([statistics(rows) for windows in cut for rows in windows])
        if columns is not None:
            self.x = self.x[:, columns]
        self.recording = np.repeat(np.arange(len(recordings)), [len(windows) for windows in cut])
        counts = np.bincount(self.recording)
        self.weight = len(self.x) / (len(recordings) * counts[self.recording])


def two_stage(train, labels, test):
    """Posterior [windows, 3] of the test set."""
    y = labels[train.recording]
    posterior = np.zeros((len(test.x), 3))
    for strength in STRENGTHS:
        def fit(rows, target):
            model = LogisticRegression(C=strength, max_iter=1000)
            return model.fit(train.x[rows], target[rows], train.weight[rows]).predict_proba(test.x)[:, 1]
        drowsy = fit(np.ones(len(y), bool), y > 0)
        deeper = fit(y > 0, y == 10)
        posterior += np.column_stack([1 - drowsy, drowsy * (1 - deeper), drowsy * deeper])
    return posterior / len(STRENGTHS)


def predictions(posterior):
    """The expected level, clipped into the band of the most likely level."""
    level = posterior.argmax(1)
    low = np.concatenate([[-np.inf], EDGES])[level]
    high = np.concatenate([np.nextafter(EDGES, 0), [np.inf]])[level]
    return np.clip(posterior @ LEVELS, low, high)


def level_of(value):
    return np.searchsorted(EDGES, value, side="right")


def band_error(prediction, level):
    below = np.where(level > 0, BANDS[np.maximum(level - 1, 0)], np.nan)
    above = np.where(level < 2, BANDS[np.minimum(level, 1)], np.nan)
    error = np.fmin((prediction - below) ** 2, (prediction - above) ** 2)
    return np.where(level_of(prediction) == level, 0, error)


def sums_by_driver(recordings, test, prediction):
    """{driver: [windows, right, error, recordings, right, error]}, recordings by the majority of their windows."""
    sums = {}
    for r, one in enumerate(recordings):
        own = np.clip(prediction[test.recording == r], 0, 10)
        level = int(np.searchsorted(EDGES, one.label, side="right"))
        votes = np.bincount(level_of(own), minlength=3)
        tied = np.sum(votes == votes.max()) > 1
        answer = level_of(own.mean()) if tied else votes.argmax()
        row = [len(own), np.sum(level_of(own) == level), band_error(own, np.full(len(own), level)).sum(),
               1, answer == level, band_error(np.array([own.mean()]), np.array([level]))[0]]
        sums[one.driver] = sums.get(one.driver, 0) + np.array(row, float)
    return sums


def metrics(sums):
    """VA, BSA in per cent, BSRE, VRE of sums [..., 6]."""
    sums = np.asarray(sums)
    return {"va": 100 * sums[..., 4] / sums[..., 3], "bsa": 100 * sums[..., 1] / sums[..., 0],
            "bsre": sums[..., 2] / sums[..., 0], "vre": sums[..., 5] / sums[..., 3]}


def shuffled(recordings, random):
    """Labels with 5 and 10 swapped for half of the drivers, drawn by chance."""
    swaps = {driver: random.random() < 0.5 for driver in dict.fromkeys(one.driver for one in recordings)}
    return np.array([15 - one.label if one.label > 0 and swaps[one.driver] else one.label for one in recordings])


def run(recordings, model, columns=None, whole=False, shuffle=None):
    """Sums by driver over the five folds."""
    sums = {}
    for fold in sorted({one.fold for one in recordings}):
        training = [one for one in recordings if one.fold != fold]
        held_out = [one for one in recordings if one.fold == fold]
        train, test = (Set(part, stride, columns, whole)
                       for part, stride in ((training, TRAINING_STRIDE), (held_out, TEST_STRIDE)))
        mean = np.average(train.x, axis=0, weights=train.weight)
        scale = np.sqrt(np.average((train.x - mean) ** 2, axis=0, weights=train.weight))
        train.x, test.x = (train.x - mean) / scale, (test.x - mean) / scale
        labels = np.array([one.label for one in training]) if shuffle is None else shuffled(training, shuffle)
        sums.update(sums_by_driver(held_out, test, model(train, labels, test)))
    return sums


def logistic(train, labels, test):
    return predictions(two_stage(train, labels, test))


def ridge(train, labels, test):
    model = Ridge(alpha=len(train.x) / 10).fit(train.x, labels[train.recording], train.weight)
    return model.predict(test.x)


def summary(sums, random, names=("va", "bsa", "bsre", "vre")):
    table = np.array([sums[driver] for driver in sorted(sums)])
    whole = metrics(table.sum(0))
    draws = metrics(np.array([table[random.integers(len(table), size=len(table))].sum(0) for _ in range(2000)]))
    return {name: {"value": float(whole[name]), "interval": [float(x) for x in np.percentile(draws[name], [2.5, 97.5])]}
            for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     epilog="What each line is: the head of this file.")
    parser.add_argument("data", help="rldd_blinks.csv")
    parser.add_argument("--shuffles", type=int, default=20, help="draws of the null with the labels 5 and 10 shuffled")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="write the table here too")
    flags = parser.parse_args()
    if flags.shuffles < 2:
        parser.error(f"--shuffles {flags.shuffles}: a spread needs at least 2")
    try:
        recordings = read_recordings(flags.data)
    except OSError as error:
        sys.exit(f"{flags.data}: {error.strerror}")
    random = np.random.default_rng(flags.seed)
    whole_names = ("va", "vre")
    lines = {
        "two-stage logistic": summary(run(recordings, logistic), random),
        "... whole recording": summary(run(recordings, logistic, whole=True), random, whole_names),
        "... without frequency and absolute means":
            summary(run(recordings, logistic, WITHOUT_FREQUENCY_AND_ABSOLUTE_MEANS), random),
        "ridge": summary(run(recordings, ridge), random),
    }
    nulls = []
    for _ in range(flags.shuffles):
        sums = run(recordings, logistic, shuffle=random)
        nulls.append(metrics(sum(sums.values())))
    lines["... 5/10 shuffled"] = {
        name: {"value": float(np.mean([one[name] for one in nulls])),
               "spread": float(np.std([one[name] for one in nulls], ddof=1))} for name in ("va", "bsa", "bsre", "vre")}

    print(f"{len(recordings)} recordings, {len({one.driver for one in recordings})} drivers, "
          f"{len({one.fold for one in recordings})} folds")
    print(f"{'':42}{'VA':>18}{'BSA':>19}{'BSRE':>19}{'VRE':>19}")
    for name, line in lines.items():
        cells = ""
        for metric, digits in (("va", 1), ("bsa", 1), ("bsre", 2), ("vre", 2)):
            cell = ""
            if metric in line:
                cell = f"{line[metric]['value']:.{digits}f}"
                if "spread" in line[metric]:
                    cell += f" +- {line[metric]['spread']:.{digits}f}"
                else:
                    low, high = line[metric]["interval"]
                    cell += f" [{low:.{digits}f}, {high:.{digits}f}]"
            cells += f"{cell:>19}"
        print(f"{name:41}{cells}")
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(lines, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
