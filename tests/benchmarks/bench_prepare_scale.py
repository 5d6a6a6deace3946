"""Rate and memory of `radrep prepare mimic` on drawn films in MIMIC-CXR-JPG's layout.

Run: python tests/benchmarks/bench_prepare_scale.py [--images 2000 20000] [--size 512]

Tables of splits, metadata and labels lie there, and the reports in one zip, as PhysioNet has them.

Every number of images is prepared by the command in a process of its own, whose memory, workers
and all, is looked at five times a second. Time and memory at MIMIC's 377,110 images are told by
straight lines: time at the rate of the last number, memory along the least squares line through
all numbers, since tables and the archive's directory grow with them.
"""

import argparse
import csv
import gzip
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from radrep.preparation.sources.mimic_cxr.files import REPORTS_ZIP
from radrep.preparation.sources.phantom.source import PhantomSource

MIMIC_IMAGES = 377_110
LABELS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum"),
    *("Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion"),
    *("Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices"),
)
NUM_DRAWN = 40  # the others are these, shifted and with other grain: as much work to prepare
REPORT = (
    "                                 FINAL REPORT\n FINDINGS: {findings}\n\n IMPRESSION: {n}.\n"
)


def draw_films(size: int) -> Iterator[tuple[np.ndarray, str]]:
    """Films and findings without end."""
    drawn = [
        (study.images[0].read(size), study.sections["findings"])
        for study in PhantomSource(NUM_DRAWN, image_size=size)
    ]
    rng = np.random.default_rng(0)
    while True:
        for film, findings in drawn:
            shifted = np.roll(film, rng.integers(-8, 9, 2), axis=(0, 1)).astype(np.int16)
            grain = rng.integers(-2, 3, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1)
            yield np.clip(shifted + grain, 0, 255).astype(np.uint8), findings


def write_mimic(root: Path, num_images: int, size: int) -> None:
    """Write studies of two views each in the layout of MIMIC-CXR-JPG with its reports."""
    films, rng = draw_films(size), np.random.default_rng(0)
    splits, metadata, labels = [], [], []
    root.mkdir(parents=True)
    reports = zipfile.ZipFile(root / REPORTS_ZIP, "w", zipfile.ZIP_DEFLATED)
    for number in range(num_images // 2):
        subject, study = 10_000_000 + number // 2, 50_000_000 + number
        place = f"files/p{str(subject)[:2]}/p{subject}/s{study}"
        folder = root / place
        folder.mkdir(parents=True)
        split = "test" if number % 50 == 0 else "validate" if number % 50 == 1 else "train"
        for view in ("PA", "LATERAL"):
            film, findings = next(films)
            dicom = f"{number:08x}-{view.lower():0<8}"
            Image.fromarray(film).save(folder / f"{dicom}.jpg", quality=90)
            splits.append((dicom, study, subject, split))
            metadata.append((dicom, subject, study, view, size, size))
        text = REPORT.format(findings=findings, n=f"Number {number}")
        reports.writestr(f"{place}.txt", text)
        labels.append((subject, study, *rng.choice(["", "1.0", "0.0", "-1.0"], len(LABELS))))
    reports.close()
    write_table(root / "mimic-cxr-2.0.0-split.csv.gz",
                ("dicom_id", "study_id", "subject_id", "split"), splits)  # fmt: skip
    write_table(root / "mimic-cxr-2.0.0-metadata.csv.gz",
                ("dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"),
                metadata)  # fmt: skip
    write_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz",
                ("subject_id", "study_id", *LABELS), labels)  # fmt: skip


def write_table(path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def own_memory(process: int) -> int:
    """Bytes that only this process has, without the pages of mapped files, which cost nothing."""
    status = Path(f"/proc/{process}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return 1024 * int(fields.get("RssAnon", "0 kB").split()[0])


def measure(raw: Path, out: Path, workers: int | None) -> tuple[float, float]:
    """Seconds and the greatest memory in MB, workers and all, of one run of the command."""
    command = [sys.executable, "-m", "radrep", "prepare", "mimic", "--raw", str(raw)]
    command += ["--out", str(out), *(["--workers", str(workers)] if workers else [])]
    start, most = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                family = [process, *process.children(recursive=True)]
                most = max(most, sum(own_memory(member.pid) for member in family))
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                pass
            time.sleep(0.2)
        told = running.stdout.read().decode() if running.stdout else ""
    if running.returncode:
        raise SystemExit(told)
    return time.perf_counter() - start, most / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    rate, most = 0.0, []
    with tempfile.TemporaryDirectory(prefix="radrep-scale-") as name:
        for number in arguments.images:
            raw, out = Path(name, "raw"), Path(name, "out")
            write_mimic(raw, number, arguments.size)
            seconds, memory = measure(raw, out, arguments.workers)
            rate = number / seconds
            most.append(memory)
            size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
            print(
                f"{number:7,} images of {arguments.size} pixels: {seconds:6.0f} s, "
                f"{rate:5.0f} images/s, at most {memory:4.0f} MB of memory, {size:6.0f} MB written",
                flush=True,
            )
            shutil.rmtree(raw)
            shutil.rmtree(out)
    hours = MIMIC_IMAGES / rate / 3600
    print(f"{MIMIC_IMAGES:,} images in a straight line from there: {hours:.1f} hours")
    if len(most) > 1:
        slope, start = np.polyfit(arguments.images, most, 1)
        print(
            f"memory in a straight line through these: {start + slope * MIMIC_IMAGES:.0f} MB, "
            f"{slope * 1e6:.0f} bytes an image"
        )


if __name__ == "__main__":
    main()
