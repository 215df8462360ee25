# SPDX-License-Identifier: MIT
"""The main job on each machine, and that what one has written all read alike.

    machines.py BUILD...

Each BUILD is a build folder of Meson's that has tests/job. One that is called cross-NAME was made
with packaging/cross/NAME.ini, whose exe_wrapper runs what is in it. The last line is "N passed, N
failed".
"""
import ast
import configparser
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
results = {True: 0, False: 0}


def wrapper(build):
    config = configparser.ConfigParser()
    config.read(ROOT / "packaging/cross" / f"{build.name.removeprefix('cross-')}.ini")
    words = ast.literal_eval(config.get("binaries", "exe_wrapper", fallback="[]"))
    return [words] if isinstance(words, str) else words


def job(build, mode, journal):
    try:
        done = subprocess.run([*wrapper(build), str(build / "tests/job"), mode, str(journal)],
                              capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        return b"", "it does not end"
    return done.stdout if done.returncode == 0 else b"", done.stderr.decode()


def report(is_well, name, problem=""):
    results[is_well] += 1
    print("ok     " if is_well else "FAILED ", name, problem, flush=True)


def main(builds):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        written = {}
        for build in builds:
            _, problem = job(build, "run", folder / f"{build.name}-run")
            report(not problem, f"{build.name}: tasks are kept over a restart and emitted on time",
                   problem)
            written[build], problem = job(build, "write", folder / build.name)
            report(len(written[build]) > 100_000, f"{build.name}: a journal is written", problem)
        for reader in builds:
            for writer in builds:
                copy = folder / "copy"
                shutil.copy(folder / writer.name, copy)
                shown, problem = job(reader, "show", copy)
                report(shown == written[writer],
                       f"{reader.name} reads what {writer.name} has written", problem)
    print(f"{results[True]} passed, {results[False]} failed")
    return 0 if results[False] == 0 else 1


sys.exit(main([pathlib.Path(argument).resolve() for argument in sys.argv[1:]]))
