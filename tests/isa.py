"""The tests whose result depends on training, once under each instruction set that this processor has.

    python tests/isa.py [pytest options]

Sums are rounded in another order under each, so a result that hangs on chaos fails under one of them.
"""

import os
import subprocess
import sys
from pathlib import Path

TRAINS = ["test_honesty.py", "models", "latent", "theory", "training/test_every_family.py"]
LEVELS = {  # level: flag of /proc/cpuinfo, and what holds torch, oneDNN and MKL to it
    "default": ("", "default", "SSE41", "SSE4_2"),
    "avx2": ("avx2", "avx2", "AVX2", "AVX2"),
    "avx512": ("avx512f", "avx512", "AVX512_CORE", "AVX512"),
}


def main(options):
    """The number of levels that failed."""
    here, flags, failed = Path(__file__).parent, Path("/proc/cpuinfo").read_text().split(), 0
    for level, (flag, aten, onednn, mkl) in LEVELS.items():
        if flag and flag not in flags:
            continue
        held = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, "MKL_ENABLE_INSTRUCTIONS": mkl}
        print(f"--- {level}", flush=True)
        tests = [str(here / name) for name in TRAINS]
        failed += subprocess.run([sys.executable, "-m", "pytest", *options, *tests], env=os.environ | held).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
