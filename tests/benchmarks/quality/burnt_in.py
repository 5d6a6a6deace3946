"""How many films with burnt-in text are found, and how many without it are.

Run: python -m tests.benchmarks.quality.burnt_in FILMS [--every 20] [--enlarge 4] [--fonts FOLDER]

FILMS is a folder of films without names, such as IU X-Ray's; each N-th of their files is used. They
are searched as they are, and with a name, a date or a number in a corner: of one grey, bright on
dark ground and dark on bright, in one of the fonts (TrueType; Pillow's own without a folder), whose
size is that of a line in pixels. The films can be enlarged first. The false alarms are listed.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from radrep.preparation.burnt_in import has_text

SIZES = (10, 12, 14, 18, 24)
TEXTS = (
    *("SMITH, JOHN A", "Mueller Anna", "DOE^JANE", "O'BRIEN MARY 54Y F", "Nguyen, Thi"),
    *("12/03/1958", "2019-07-21 14:32", "DOB 04 JUL 1961", "MRN 00482913", "ID: A1234567"),
)


def read(path: Path, enlarge: int) -> np.ndarray:
    film = Image.open(path).convert("L")
    return np.asarray(film.resize((film.width * enlarge, film.height * enlarge)))


def write_text(film: np.ndarray, size: int, fonts: list[Path], draws: random.Random) -> np.ndarray:
    """The film with a text in one of its corners."""
    text, place = draws.choice(TEXTS), Image.fromarray(film)
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default(size)
    if fonts:
        font = ImageFont.truetype(str(draws.choice(fonts)), size)
    canvas = ImageDraw.Draw(place)
    left, top, right, bottom = map(round, canvas.textbbox((0, 0), text, font=font))
    width, height, margin = right - left, bottom - top, max(2, place.width // 64)
    x = draws.choice([margin, max(margin, place.width - width - margin)])
    y = draws.choice([margin, place.height - height - margin])
    is_bright = np.median(film[y : y + height, x : x + width]) >= 128
    grey = draws.choice([0, 25, 50] if is_bright else [200, 230, 255])
    canvas.text((x - left, y - top), text, font=font, fill=grey)
    return np.asarray(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("films", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--enlarge", type=int, default=1)
    parser.add_argument("--fonts", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    endings = (".png", ".jpg", ".jpeg")
    paths = sorted(p for p in options.films.rglob("*") if p.suffix.lower() in endings)
    paths = paths[:: options.every]
    fonts = [] if options.fonts is None else sorted(options.fonts.rglob("*.ttf"))
    start, flagged = time.process_time(), 0
    for path in paths:
        if has_text(read(path, options.enlarge)):
            flagged += 1
            print(f"without text: {path.relative_to(options.films)}")
    seconds = (time.process_time() - start) / len(paths)
    print(f"without text {flagged} of {len(paths)} ({flagged / len(paths):.2%}), {seconds:.3f} s")
    for size in options.sizes:
        draws = random.Random(size)
        found = sum(
            has_text(write_text(read(path, options.enlarge), size, fonts, draws)) for path in paths
        )
        print(f"size {size}: {found} of {len(paths)} ({found / len(paths):.1%})", flush=True)


if __name__ == "__main__":
    main()
