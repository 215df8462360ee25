# SPDX-License-Identifier: MIT
"""Time as a clock that is set, the year 2038 and a suspended machine make it, in a guest of QEMU.

    clock.py NAME=PROGRAM...

Each PROGRAM is tests/cross/guest.cpp, linked statically for x86-64 or i686. It needs
qemu-system-x86_64 and a Linux kernel in /boot (Debian: linux-image-cloud-amd64). The last line is
"N passed, N failed".
"""
import pathlib
import re
import subprocess
import sys
import tempfile


def archive(program):
    """An initramfs with the program as /init, a console, and a folder for /sys (cpio, newc)."""
    entries = [("sys", 0o040755, b"", (0, 0)), ("dev", 0o040755, b"", (0, 0)),
               ("dev/console", 0o020600, b"", (5, 1)), ("init", 0o100755, program, (0, 0)),
               ("TRAILER!!!", 0, b"", (0, 0))]
    out = bytearray()
    for number, (name, mode, data, device) in enumerate(entries):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def run(program, kernel):
    with tempfile.NamedTemporaryFile() as initrd:
        initrd.write(archive(pathlib.Path(program).read_bytes()))
        initrd.flush()
        command = ["qemu-system-x86_64", "-kernel", str(kernel), "-initrd", initrd.name, "-m", "512",
                   "-append", "console=ttyS0 quiet panic=-1 no_console_suspend", "-nographic",
                   "-no-reboot", "-nic", "none", "-cpu", "max"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=300,
                                  stdin=subprocess.DEVNULL)
            return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            return (error.stdout or b"").decode(errors="replace") + "\nFAILED it does not end\n"


def main(programs):
    kernels = sorted(pathlib.Path("/boot").glob("vmlinuz-*"))
    passed = failed = 0
    for argument in programs:
        name, program = argument.split("=", 1)
        said = run(program, kernels[-1])
        for line in re.findall(r"^(?:ok|FAILED|log:|by the) .*$", said.replace("\r", ""), re.M):
            print(f"{name}: {line}")
        good = len(re.findall(r"^ok ", said, re.M))
        bad = len(re.findall(r"^FAILED ", said, re.M))
        if "done" not in said or good + bad == 0:
            print(f"{name}: FAILED, its last lines are:\n" + "\n".join(said.splitlines()[-5:]))
            bad += 1
        passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main(sys.argv[1:]))
