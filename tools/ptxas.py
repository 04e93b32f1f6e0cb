#!/usr/bin/env python3
"""Registers, spills and shared memory of every CUDA kernel, as ptxas printed them while the kernels were compiled.

    python3 tools/ptxas.py BUILD            compares with benchmarks/results/ptxas/<arch>.csv; exit code 1 if they differ
    python3 tools/ptxas.py BUILD --write    rewrites those files
    python3 tools/ptxas.py BUILD --worst 5  prints the kernels with most spills and registers of each architecture

BUILD is the build folder, e.g. build/release. Numbers belong to a version of nvcc: with another one than the table's, only
spills above the table's are an error, and so are kernels that spill and are not in it.
"""

import argparse
import csv
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "benchmarks" / "results" / "ptxas"
COLUMNS = ["kernel", "registers", "spill_stores", "spill_loads", "shared"]


def read_logs(build):
    """{arch: {mangled kernel: row}} from the files that cmake/keep_ptxas_log.sh leaves beside the object files."""
    kernels = {}
    objects = build / "CMakeFiles" / "blinkbert_cuda_kernels.dir" / "kernels" / "instantiations"
    for unit in sorted((ROOT / "kernels" / "instantiations").glob("*.cu")):
        log = objects / f"{unit.name}.o.ptxas"
        if not log.exists():
            sys.exit(f"{log} is missing: build the target blinkbert_cuda_kernels first")
        name = arch = None
        for line in log.read_text().splitlines():
            if match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
                name, arch = match.groups()
                kernels.setdefault(arch, {})[name] = {}
            elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
                kernels[arch][name].update(spill_stores=int(match[1]), spill_loads=int(match[2]))
            elif match := re.search(r"Used (\d+) registers", line):
                shared = re.search(r"(\d+) bytes smem", line)
                kernels[arch][name].update(registers=int(match[1]), shared=int(shared[1]) if shared else 0)
    return kernels


def short_names(mangled):
    """Demangled, without arguments and the project's namespaces."""
    out = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    names = {}
    for symbol, name in zip(mangled, out.splitlines()):
        depth = 0
        for end, letter in enumerate(name):
            depth += {"<": 1, ">": -1}.get(letter, 0)
            if letter == "(" and depth == 0:
                break
        names[symbol] = re.sub(r"blinkbert::(kernels::)?", "", re.sub(r"^void ", "", name[:end]))
    return names


def rows_of(kernels):
    names = short_names(sorted(kernels))
    rows = [{"kernel": names[symbol], **row} for symbol, row in kernels.items()]
    return sorted(rows, key=lambda row: row["kernel"])


def nvcc_version():
    out = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r", V(\S+)", out)[1]


def write_table(path, version, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.write(f"# nvcc {version}; written by tools/ptxas.py\n")
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path):
    lines = path.read_text().splitlines()
    rows = {}
    for row in csv.DictReader(lines[1:]):
        rows[row["kernel"]] = {column: int(row[column]) for column in COLUMNS[1:]}
    return re.match(r"# nvcc (\S+);", lines[0])[1], rows


def complaints(arch, version, rows):
    path = TABLES / f"{arch}.csv"
    if not path.exists():
        return [f"{path.relative_to(ROOT)} is missing"]
    table_version, table = read_table(path)
    found = []
    for row in rows:
        name, was = row["kernel"], table.get(row["kernel"])
        spills = row["spill_stores"] + row["spill_loads"]
        budget = was["spill_stores"] + was["spill_loads"] if was else 0
        if spills > budget:
            found.append(f"{arch} {name}: {spills} bytes of spills, {budget} allowed")
        elif table_version == version and was != {column: row[column] for column in COLUMNS[1:]}:
            found.append(f"{arch} {name}: {row}, in the table {was}")
    if table_version == version:
        gone = sorted(set(table) - {row["kernel"] for row in rows})
        found += [f"{arch} {name}: in the table, not compiled" for name in gone]
    return found


def print_worst(arch, rows, count):
    worst = sorted(rows, key=lambda row: (row["spill_stores"] + row["spill_loads"], row["registers"]), reverse=True)
    for row in worst[:count]:
        print(f"{arch:8} {row['registers']:4} registers {row['spill_stores']:5} + {row['spill_loads']:5} bytes of spills  "
              f"{row['kernel']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true")
    what.add_argument("--worst", type=int, metavar="N")
    arguments = parser.parse_args()

    version = nvcc_version()
    found = []
    for arch, kernels in sorted(read_logs(arguments.build).items()):
        rows = rows_of(kernels)
        if arguments.write:
            write_table(TABLES / f"{arch}.csv", version, rows)
        elif arguments.worst:
            print_worst(arch, rows, arguments.worst)
        else:
            found += complaints(arch, version, rows)
    for line in found:
        print(line)
    if found:
        sys.exit(f"{len(found)} differences; after a change that is meant: python3 tools/ptxas.py {arguments.build} --write")


if __name__ == "__main__":
    main()
