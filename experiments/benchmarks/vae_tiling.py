"""Memory and time of decoding a large image in bands, against decoding it whole.

The autoencoder of Stable Diffusion 1.x with random weights decodes a random latent; each decode is a process
of its own, whose peak of resident memory is counted from what it was before the decode. Linux, on the CPU.
Run: python experiments/benchmarks/vae_tiling.py [threads]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ldm.models.tiling import decode_tiled
from ldm.models.vae import AutoencoderKL

EDGES, ROWS = (512, 1024), (None, 64, 16)  # pixels; rows of a band, None: untiled


def resident(key: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def decode(edge: int, rows: int | None, threads: int, path: Path) -> None:
    """Decodes, writes the image to `path`, prints the MiB at the peak over the baseline and the seconds."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = AutoencoderKL(scaling_factor=0.18215).eval()
    z = torch.randn(1, 4, edge // 8, edge // 8)
    with torch.no_grad():
        net.decode(z[:, :, :4, :4])  # libraries load their kernels at the first call
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        baseline, start = resident("VmRSS"), time.perf_counter()
        image = net.decode(z) if rows is None else decode_tiled(net, z, rows)
    print(resident("VmHWM") - baseline, time.perf_counter() - start)
    torch.save(image, path)


def main(threads: int) -> None:
    print("| pixels | rows | peak MiB | ratio | seconds | ratio | largest difference / 255 |")
    print("|---|---|---|---|---|---|---|")
    for edge in EDGES:
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder, "None.pt")
            for rows in ROWS:
                path = Path(folder, f"{rows}.pt")
                command = [sys.executable, __file__, *map(str, (edge, rows or 0, threads, path))]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                mib, seconds = map(float, printed.split())
                if rows is None:
                    reference = mib, seconds
                error = float((torch.load(path) - torch.load(whole)).abs().max()) * 255 / 2  # of [-1, 1]
                ratios = mib / reference[0], seconds / reference[1]
                print(
                    f"| {edge} | {rows or 'untiled'} | {mib:.0f} | {ratios[0]:.2f} "
                    f"| {seconds:.1f} | {ratios[1]:.2f} | {error:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    numbers = [int(value) for value in sys.argv[1:4]]
    if len(sys.argv) == 5:
        decode(numbers[0], numbers[1] or None, numbers[2], Path(sys.argv[4]))
    else:
        main(numbers[0] if numbers else 2)
