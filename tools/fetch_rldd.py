#!/usr/bin/env python3
"""Fetches the blinks of real recordings that the authors published, and rebuilds rldd_blinks.csv from them.

    python3 tools/fetch_rldd.py --out rldd_blinks.csv

The arrays BlinksTest_30_Fold{1..5}.npy and LabelsTest_30_Fold{1..5}.npy of github.com/rezaghoddoosian/Early-Drowsiness-Detection
(MIT licence; R. Ghoddoosian, M. Galib, V. Athitsos, CVPR Workshops 2019, arXiv:1904.07312) hold overlapping windows of 30 blinks
[windows, 30, 4] at stride 2, recording after recording; a recording of fewer blinks is one window with zeros in front. Windows
that continue one another are joined. Every person has three recordings, one after another, of levels 0, 5 and 10. Values keep 8
significant digits. The SHA-256 of the result is checked before anything is written.

It has not been run against the real address yet: the names are those of the repository's list of files, and from arrays cut out
of rldd_blinks.csv in that layout it rebuilds the file byte by byte.

Exit code: 0 the file is there, 1 it could not be fetched or is another one, 2 wrong usage. Needs nothing but Python.
"""

import argparse
import array
import ast
import hashlib
import math
import pathlib
import sys
import urllib.error
import urllib.request

ADDRESS = "https://raw.githubusercontent.com/rezaghoddoosian/Early-Drowsiness-Detection/HEAD"
SHA256 = "2a062efd103944c1e6a9b9aeb5d69acf0be49aca71a24427096875cae4c56f61"
FOLDS, BLINKS, FEATURES, STRIDE = 5, 30, 4, 2
LEVELS = (0, 5, 10)  # of a person's three recordings
HEADER = "recording,driver,fold,blink,frequency,amplitude,duration,velocity,drowsiness"


class Failure(Exception):
    pass


def fetch(address):
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise Failure(f"{address}: {getattr(error, 'reason', error)}") from error


def read_npy(content, name):
    """Shape and values of an array of floating-point numbers in C order, little endian."""
    def demand(holds, what):
        if not holds:
            raise Failure(f"{name}: {what}")

    demand(content[:6] == b"\x93NUMPY" and len(content) > 12, "not a .npy file")
    begin, digits = (10, 2) if content[6] == 1 else (12, 4)
    end = begin + int.from_bytes(content[8:8 + digits], "little")
    try:
        header = ast.literal_eval(content[begin:end].decode("latin1"))
        kind, shape = header["descr"], header["shape"]
        demand(not header["fortran_order"], "is in Fortran order, expected C order")
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise Failure(f"{name}: its header is not that of a .npy file") from error
    demand(kind in ("<f8", "<f4"), f"holds {kind}, expected <f8 or <f4")
    values = array.array("d" if kind == "<f8" else "f")
    demand(len(content) - end == math.prod(shape) * values.itemsize, f"{len(content)} bytes, not what {shape} takes")
    values.frombytes(content[end:])
    if sys.byteorder == "big":
        values.byteswap()
    return shape, values


def recordings_of(windows, labels):
    """Joins windows [[blink, ...], ...] into [(label, [blink, ...]), ...]; a blink is a tuple of features."""
    recordings = []
    before = None
    for window, label in zip(windows, labels):
        if before == (label, window[:-STRIDE]):
            recordings[-1][1].extend(window[-STRIDE:])
        else:
            first = next((i for i, blink in enumerate(window) if any(blink)), len(window))
            recordings.append((label, window[first:]))
        before = (label, window[STRIDE:])
    return recordings


def read_fold(address, fold):
    name = f"BlinksTest_30_Fold{fold}.npy"
    shape, values = read_npy(fetch(f"{address}/{name}"), name)
    if len(shape) != 3 or shape[1:] != (BLINKS, FEATURES):
        raise Failure(f"{name}: has the shape {shape}, expected (windows, {BLINKS}, {FEATURES})")
    labels_name = f"LabelsTest_30_Fold{fold}.npy"
    labels_shape, labels = read_npy(fetch(f"{address}/{labels_name}"), labels_name)
    if labels_shape not in ((shape[0],), (shape[0], 1)):
        raise Failure(f"{labels_name}: has the shape {labels_shape}, expected ({shape[0]}, 1)")
    blinks = [tuple(values[i:i + FEATURES]) for i in range(0, len(values), FEATURES)]
    recordings = recordings_of([blinks[i:i + BLINKS] for i in range(0, len(blinks), BLINKS)], labels)
    levels = tuple(label for label, _ in recordings)
    if levels != LEVELS * (len(levels) // len(LEVELS)):
        raise Failure(f"{name}: its {len(levels)} recordings are not three a person, of levels 0, 5 and 10")
    return recordings


def csv_of(folds):
    lines, recording = [HEADER], 0
    for fold, recordings in enumerate(folds, 1):
        for label, blinks in recordings:
            for blink, features in enumerate(blinks):
                values = ",".join(str(float(f"{value:.8g}")) for value in features)
                lines.append(f"{recording},{recording // len(LEVELS)},{fold},{blink},{values},{label:g}")
            recording += 1
    return ("\r\n".join(lines) + "\r\n").encode()  # as csv.writer ends lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="CSV file to write")
    parser.add_argument("--address", default=ADDRESS, help="where the arrays are")
    parser.add_argument("--sha256", default=SHA256, help="of the CSV file")
    options = parser.parse_args()
    try:
        if options.out.exists():
            if hashlib.sha256(options.out.read_bytes()).hexdigest() != options.sha256:
                print(f"fetch_rldd: --out {options.out}: is there and is another file; remove it, or name another",
                      file=sys.stderr)
                return 2
            print(f"{options.out}: is there already, SHA-256 as expected")
            return 0
        content = csv_of([read_fold(options.address.rstrip("/"), fold) for fold in range(1, FOLDS + 1)])
        found = hashlib.sha256(content).hexdigest()
        if found != options.sha256:
            raise Failure(f"the rebuilt file has the SHA-256 {found}, expected {options.sha256}; nothing was written")
        temporary = options.out.with_name(options.out.name + ".tmp")
        temporary.write_bytes(content)
        temporary.replace(options.out)
    except (Failure, OSError) as error:
        print(f"fetch_rldd: {error}", file=sys.stderr)
        return 1
    lines = content.count(b"\n") - 1
    print(f"{options.out}: {lines} blinks, SHA-256 as expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
