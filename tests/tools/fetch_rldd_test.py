#!/usr/bin/env python3
"""tools/fetch_rldd.py against a stand-in of the authors' repository on the loopback interface.
Exit code: 0 passed, 1 not."""

import functools
import hashlib
import http.server
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

TOOL = pathlib.Path(__file__).resolve().parent.parent.parent / "tools" / "fetch_rldd.py"
# Blinks of the recordings of each fold: below, at and above one window, odd and even.
LENGTHS = [[5, 30, 31], [32, 33, 64, 29, 47, 30], [40, 6, 90], [31, 31, 30], [35, 34, 100]]


def write_npy(path, shape, values, letter="d"):
    header = repr({"descr": {"d": "<f8", "f": "<f4", "q": "<i8"}[letter], "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
                     + struct.pack(f"<{len(values)}{letter}", *values))


def unroll(blinks):
    """The overlapping windows of one recording, as the authors cut them."""
    if len(blinks) <= 30:
        return [[(0.0,) * 4] * (30 - len(blinks)) + blinks]
    return [blinks[begin:begin + 30] for begin in range(0, len(blinks) - 29, 2)]


class FetchTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        (self.folder / "site").mkdir()
        draw = random.Random(1)
        lines, recording = ["recording,driver,fold,blink,frequency,amplitude,duration,velocity,drowsiness"], 0
        for fold, lengths in enumerate(LENGTHS, 1):
            windows, labels = [], []
            for i, length in enumerate(lengths):
                label = (0, 5, 10)[i % 3]
                blinks = [tuple(draw.gauss(0, 30) for _ in range(4)) for _ in range(length)]
                blinks[0] = (0.0, 12.0, -1.25, 123.456789012)  # zeros, whole numbers, more than 8 digits
                cut = unroll(blinks)
                windows += cut
                labels += [label] * len(cut)
                # At stride 2 a longer recording of an odd number of blinks loses its last one.
                kept = length if length <= 30 else length - length % 2
                for blink, values in enumerate(blinks[:kept]):
                    text = ",".join(repr(float(f"{value:.8g}")) for value in values)
                    lines.append(f"{recording},{recording // 3},{fold},{blink},{text},{label}")
                recording += 1
            write_npy(self.array("Blinks", fold), (len(windows), 30, 4), [v for w in windows for row in w for v in row])
            write_npy(self.array("Labels", fold), (len(labels), 1), labels)
        self.expected = "".join(line + "\r\n" for line in lines).encode()

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *words):
                pass

        handler = functools.partial(Quiet, directory=self.folder / "site")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        self.out = self.folder / "blinks.csv"

    def array(self, what, fold):
        return self.folder / "site" / f"{what}Test_30_Fold{fold}.npy"

    def fetch(self, code, message, address=None, sha256=None):
        done = subprocess.run([sys.executable, TOOL, "--out", self.out, "--address", address or self.address,
                               "--sha256", sha256 or hashlib.sha256(self.expected).hexdigest()],
                              capture_output=True, text=True, env=os.environ | {"no_proxy": "127.0.0.1"})
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(message, done.stdout if code == 0 else done.stderr)
        if code != 0:
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertEqual([path for path in self.folder.iterdir() if path.suffix == ".tmp"], [])

    def test_rebuilds_the_file(self):
        self.fetch(0, f"{len(self.expected.splitlines()) - 1} blinks, SHA-256 as expected")
        self.assertEqual(self.out.read_bytes(), self.expected)
        # There already: nothing is fetched.
        self.fetch(0, "is there already", address="http://127.0.0.1:1")
        self.out.write_text("other\n")
        self.fetch(2, "is another file")
        self.assertEqual(self.out.read_text(), "other\n")

    def test_another_sha256(self):
        self.fetch(1, "nothing was written", sha256="0" * 64)
        self.assertFalse(self.out.exists())

    def test_what_is_not_there(self):
        self.array("Labels", 3).unlink()
        self.fetch(1, "LabelsTest_30_Fold3.npy: File not found")
        self.fetch(1, "BlinksTest_30_Fold1.npy: ", address="http://127.0.0.1:1")
        self.assertFalse(self.out.exists())

    def test_other_arrays(self):
        path = self.array("Blinks", 2)
        good = path.read_bytes()
        for content, message in [(b"<html>", "not a .npy file"), (good[:-8], f"{len(good) - 8} bytes, not what"),
                                 (good[:10] + b"x" * 118 + good[128:], "its header is not")]:
            path.write_bytes(content)
            self.fetch(1, f"BlinksTest_30_Fold2.npy: {message}")
        write_npy(path, (1, 30, 4), [1] * 120, "q")
        self.fetch(1, "holds <i8")
        write_npy(path, (1, 31, 4), [1.0] * 124)
        self.fetch(1, "has the shape (1, 31, 4)")
        write_npy(path, (1, 30, 4), [1.0] * 120)
        self.fetch(1, "LabelsTest_30_Fold2.npy: has the shape")
        write_npy(self.array("Labels", 2), (1, 1), [5.0])
        self.fetch(1, "its 1 recordings are not three a person")
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
