import io
import signal
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from radrep.data.image_io import decode_image, difference_hash, fit_short_side, read_image, resize
from radrep.errors import DataError
from tests.data.dicom.drawing import compress, write_dicom
from tests.runaway import no_runaway


def draw(height: int = 48, width: int = 40) -> np.ndarray:
    """Grey from 0 to 255 that differs by row, column and corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = rows * 160.0 / (height - 1) + columns * 95.0 / (width - 1)
    return np.rint(image).astype(np.uint8)


GREY = draw()


def radiograph(height: int, width: int) -> np.ndarray:
    """Smooth shapes, about sixteen to a side."""
    shapes = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC))


def save(picture: Image.Image | np.ndarray, path: Path, **options) -> Path:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["chest.png", "chest.jpg", "chest"])
def test_a_grey_png_is_read_as_it_is_whatever_it_is_called(tmp_path, name):
    path = save(GREY, tmp_path / name, format="PNG")
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, GREY)
    assert np.array_equal(read_image(str(path)), GREY)
    assert pixels.flags.writeable


def test_a_jpeg_named_png_is_read_as_a_jpeg(tmp_path):
    path = save(GREY, tmp_path / "chest.png", format="JPEG", quality=95)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 4


def test_colour_becomes_luminance(tmp_path):
    colour = np.stack([GREY, GREY.T.repeat(2, axis=0)[:48, :40], 255 - GREY], axis=-1)
    luminance = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(save(colour, tmp_path / "a.png")) - luminance).max() <= 1


def test_transparent_parts_become_black(tmp_path):
    alpha = np.full_like(GREY, 255)
    alpha[:, 20:] = 0
    rgba = np.dstack([GREY, GREY, GREY, alpha])
    expected = np.where(alpha, GREY, 0)
    assert np.array_equal(read_image(save(rgba, tmp_path / "rgba.png")), expected)
    grey_alpha = Image.fromarray(rgba).convert("LA")
    assert np.array_equal(read_image(save(grey_alpha, tmp_path / "la.png")), expected)


def test_a_palette_is_looked_up(tmp_path):
    picture = Image.fromarray(255 - GREY)  # stored indices run against the grey they stand for
    picture.putpalette([value for grey in range(255, -1, -1) for value in (grey,) * 3])
    assert np.array_equal(read_image(save(picture, tmp_path / "a.png")), GREY)
    transparent = save(picture, tmp_path / "b.png", transparency=bytes([255] * 200 + [0] * 56))
    assert np.array_equal(read_image(transparent), np.where(255 - GREY < 200, GREY, 0))


def test_colour_jpegs_are_read_whatever_their_colours_are(tmp_path):
    for mode, options in (("RGB", {}), ("RGB", {"progressive": True}), ("CMYK", {})):
        picture = Image.fromarray(np.dstack([GREY] * 3)).convert(mode)
        path = save(picture, tmp_path / "a.jpg", quality=95, **options)
        # As Photoshop does: a CMYK file holds the complement of its inks, and says so.
        assert (b"Adobe" in path.read_bytes()) == (mode == "CMYK")
        assert np.abs(read_image(path).astype(int) - GREY).max() <= 6


def test_bitmaps_and_one_bit_pictures_are_read(tmp_path):
    assert np.array_equal(read_image(save(GREY, tmp_path / "a.bmp")), GREY)
    bits = Image.fromarray(GREY > 100)
    assert bits.mode == "1"
    assert np.array_equal(read_image(save(bits, tmp_path / "b.png")), (GREY > 100) * 255)


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
        ("JPEG2000", {"irreversible": False}),
        ("JPEG2000", {"no_jp2": True}),
        ("GIF", {}),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a"])
def test_webp_jpeg_2000_and_gif_are_read_under_any_name(tmp_path, format_, options, name):
    path = save(GREY, tmp_path / name, format=format_, **options)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= (6 if "quality" in options else 1)
    assert read_image(path, 36).shape == (43, 36)


def test_deep_jpeg_2000_is_scaled_like_deep_png(tmp_path):
    path = save(GREY.astype(np.uint16) * 257, tmp_path / "a.jp2")
    assert np.array_equal(read_image(path), GREY)


@pytest.mark.parametrize(("mark", "said"), [(65535, "of 255 grey levels"), (0, "")])
def test_a_picture_that_one_bright_mark_leaves_black_is_noted(tmp_path, mark, said):
    deep = GREY.astype(np.uint16) * 16
    deep[:2, :2] = mark
    path = save(deep, tmp_path / "deep.png")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        read_image(path)
    assert [said in str(note.message) for note in notes] == [True] * bool(said)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_file_of_several_pictures_is_refused(tmp_path, format_):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    path = save(first, tmp_path / "a", format=format_, save_all=True, append_images=[second])
    with pytest.raises(DataError, match=f"a {format_} file of 2 pictures"):
        read_image(path)


@pytest.mark.parametrize("alpha", [0, 3, 128, 255])
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_an_alpha_channel_that_is_the_same_all_over_is_ignored(tmp_path, format_, alpha):
    rgba = np.dstack([GREY, GREY, GREY, np.full_like(GREY, alpha)])
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    path = save(rgba, tmp_path / "a", format=format_, **options)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 1
    if format_ == "PNG":
        grey = Image.fromarray(rgba).convert("LA")
        assert np.array_equal(read_image(save(grey, tmp_path / "b.png")), GREY)


def test_a_palette_that_is_transparent_all_over_is_looked_up(tmp_path):
    picture = Image.fromarray(GREY)
    picture.putpalette([value for grey in range(256) for value in (grey,) * 3])
    path = save(picture, tmp_path / "a.png", transparency=bytes(256))
    assert np.array_equal(read_image(path), GREY)


def png16(channels: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, (h, w, c), which Pillow reads but does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    height, width = channels.shape[:2]
    lines = channels.astype(">u2").reshape(height, -1).view(np.uint8)
    data = zlib.compress(np.insert(lines, 0, 0, axis=1).tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("alpha", [0, 65535])
def test_png_of_16_bits_with_alpha_or_colour_is_read(alpha):
    deep = GREY.astype(np.uint16) * 257
    layer = np.full_like(deep, alpha)
    for channels, colour_type in (
        ([deep, layer], 4),
        ([deep, deep, deep, layer], 6),
        ([deep, deep, deep], 2),
    ):
        pixels = decode_image(png16(np.dstack(channels), colour_type), "a.png")
        assert np.abs(pixels.astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_tiff_of_8_and_16_bits_is_read(tmp_path, compression):
    path = save(GREY, tmp_path / "a.tif", compression=compression)
    assert np.array_equal(read_image(path), GREY)
    deep = save(GREY.astype(np.uint16) * 257, tmp_path / "b.tif", compression=compression)
    assert np.array_equal(read_image(deep), GREY)


def test_tiff_in_the_other_order_of_bytes_is_read(tmp_path):
    deep = (GREY.astype(">u2") * 257).tobytes()
    path = save(Image.frombytes("I;16B", GREY.shape[::-1], deep), tmp_path / "a.tif")
    assert path.read_bytes().startswith(b"MM")
    assert np.array_equal(read_image(path), GREY)


@pytest.mark.parametrize("factor", [1, 257])
def test_tiff_that_runs_from_white_to_black_is_inverted(tmp_path, factor):
    path = save(GREY.astype(np.uint16 if factor > 1 else np.uint8) * factor, tmp_path / "a.tif")
    entry = struct.pack("<HHIH", 262, 3, 1, 1)  # photometric interpretation: black is zero
    content = path.read_bytes()
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, entry[:-2] + b"\0\0"))
    assert np.array_equal(read_image(path), 255 - GREY)


@pytest.mark.parametrize(
    ("factor", "greatest"), [(257, 65535), (64.25, 16383), (16.06, 4095), (1, 255)]
)
def test_16_bit_grey_is_scaled_from_the_bits_it_uses(tmp_path, factor, greatest):
    deep = np.minimum(np.rint(GREY.astype(float) * factor), greatest).astype(np.uint16)
    path = save(deep, tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.mode in ("I;16", "I")
    assert np.array_equal(read_image(path), GREY)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF"])
def test_exif_rotation_is_undone(tmp_path, format_):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    turned = Image.fromarray(GREY).rotate(90, expand=True)
    path = save(turned, tmp_path / "a", format=format_, exif=exif, quality=95)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 4


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and has no pixels."""

    def chunk(content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
        )

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT")


def encode(image: np.ndarray, path: Path, format_: str) -> bytes:
    return save(image, path, format=format_).read_bytes()


def two_pages(path: Path) -> bytes:
    pages = [Image.fromarray(GREY)] * 2
    return save(pages[0], path, format="TIFF", save_all=True, append_images=pages[1:]).read_bytes()


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG file that claims a size and has no pixels."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\x00\x02"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: b"", r"empty file \(0 bytes\)"),
        (lambda path: b"no picture", "not a PNG, JPEG or DICOM file, .* but a text file"),
        (lambda path: b"\n<!DOCTYPE html>\n<html>", r"a web page \(HTML\).* download it again"),
        (lambda path: b"<HTML><body>", r"a web page \(HTML\)"),
        (lambda path: encode(GREY, path, "GIF")[:-60], "broken image file"),
        (lambda path: b"BM, not a bitmap", "broken image file"),
        (lambda path: encode(draw(400, 400), path, "JPEG")[:-999], "broken .*truncated"),
        (lambda path: encode(GREY, path, "PNG")[:-60], "broken image file"),
        (lambda path: encode(GREY, path, "PNG")[:30], "broken image file"),
        (lambda path: encode(GREY, path, "BMP")[:-60], "broken image file"),
        (lambda path: encode(GREY, path, "TIFF")[:-60], "broken image file"),
        (lambda path: b"\xff\xd8\xff" + bytes(200), "broken image file"),
        (lambda path: encode(np.full((64, 64), 77, np.uint8), path, "PNG"), "blank"),
        (lambda path: encode(np.full((64, 64), 77, np.uint8), path, "JPEG"), "blank"),
        (lambda path: encode(draw(31, 400), path, "PNG"), "400 x 31 pixels, smaller than 32"),
        (lambda path: encode(GREY / np.float32(255), path, "TIFF"), "floating point pixels"),
        (lambda path: encode(GREY * np.int32(999), path, "TIFF"), "pixels from 0 to 254745"),
        (lambda path: encode(GREY - np.int32(9), path, "TIFF"), "pixels from -9 to 246"),
        (two_pages, "a TIFF file of 2 pictures"),
        (lambda path: png_header(30_000, 30_000), "900000000 pixels"),
        (lambda path: png_header(14_000, 13_000), "14000 x 13000 pixels by its header"),
        (lambda path: jpeg_header(30_000, 30_000), "30000 x 30000 pixels by its header"),
    ],
    ids=[
        "empty",
        "text",
        "html",
        "html without doctype",
        "truncated gif",
        "text like a bitmap",
        "truncated jpeg",
        "truncated png",
        "png without pixels",
        "truncated bmp",
        "truncated tiff",
        "jpeg of zeros",
        "blank png",
        "blank jpeg",
        "tiny",
        "floating point",
        "too deep",
        "negative",
        "pages",
        "bomb",
        "half a bomb",
        "jpeg bomb",
    ],
)
def test_what_is_no_usable_image_is_refused_with_path_and_reason(
    tmp_path, monkeypatch, make, message
):
    path = tmp_path / "chest.png"
    path.write_bytes(make(path))
    # Pillow refuses by itself at its own bound, which another library may have lifted.
    if "header" in message:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for short_side in (None, 40):
        with pytest.raises(DataError, match=message) as caught:
            read_image(path, short_side)
        assert str(path) in str(caught.value)


def test_bytes_are_read_like_the_file_that_holds_them(tmp_path):
    path = save(radiograph(300, 400), tmp_path / "a.jpg")
    assert np.array_equal(decode_image(path.read_bytes(), "a.jpg"), read_image(path))
    assert np.array_equal(decode_image(path.read_bytes(), "a.jpg", 64), read_image(path, 64))
    with pytest.raises(DataError, match=r"^tar/a\.jpg: broken"):
        decode_image(path.read_bytes()[:-500], "tar/a.jpg")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match=r"absent\.png not found"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="is a folder; give an image file"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_image("null\0byte.png")


def test_a_large_image_is_read_without_a_warning(tmp_path, monkeypatch):
    path = save(GREY, tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREY.size - 1)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path):
        pass  # this is what read_image keeps to itself; a warning would fail the next line
    assert np.array_equal(read_image(path), GREY)


def test_the_smallest_side_that_is_accepted_is_32(tmp_path):
    assert read_image(save(draw(32, 40), tmp_path / "a.png")).shape == (32, 40)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((600, 800), (256, 341)),
        ((1024, 512), (512, 256)),
        ((256, 300), (256, 300)),
        ((200, 900), (200, 900)),
        ((257, 257), (256, 256)),
    ],
)
def test_the_short_side_is_fitted_and_never_enlarged(shape, expected):
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    fitted = fit_short_side(image, 256)
    assert fitted.shape == expected
    if min(shape) <= 256:
        assert np.array_equal(fitted, image)


def test_shrinking_is_antialiased():
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:, ::2] = 255
    fitted = fit_short_side(stripes, 256)
    assert np.abs(fitted[:, 2:-2].astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (512, 512, 64),
        (640, 512, 64),
        (511, 649, 63),  # the eighth of it has a column that is mostly beyond the picture
        (649, 515, 125),
        (600, 400, 300),
        (300, 400, 300),
        (300, 400, 500),
    ],
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_decoded_at_a_smaller_scale_is_the_full_one_resized(
    tmp_path, height, width, size, options
):
    path = save(radiograph(height, width), tmp_path / "a.jpg", quality=95, **options)
    expected = fit_short_side(read_image(path), size)
    pixels = read_image(path, size)
    assert pixels.shape == expected.shape
    difference = np.abs(pixels.astype(int) - expected)
    assert difference.max() <= 8
    assert difference.mean() < 1
    # Or else it was not decoded at a smaller scale.
    assert np.array_equal(pixels, expected) == (min(height, width) < 2 * size)


def test_a_turned_jpeg_is_shrunk_and_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    image = radiograph(643, 481)
    turned = Image.fromarray(image).rotate(90, expand=True)
    pixels = read_image(save(turned, tmp_path / "a.jpg", exif=exif, quality=95), 60)
    expected = fit_short_side(image, 60)
    assert pixels.shape == expected.shape == (80, 60)
    assert np.abs(pixels.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_colour_jpeg_is_shrunk_to_its_luminance(tmp_path, mode):
    image = radiograph(512, 512)
    colour = Image.fromarray(np.dstack([image, image // 2, image // 4])).convert(mode)
    path = save(colour, tmp_path / "a.jpg", quality=95)
    expected = fit_short_side(read_image(path), 64)
    assert np.abs(read_image(path, 64).astype(int) - expected).mean() < 1


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "BMP"])
def test_other_files_are_shrunk_as_fit_short_side_does(tmp_path, format_):
    image = radiograph(600, 400)
    path = save(image, tmp_path / "a", format=format_)
    assert np.array_equal(read_image(path, 90), fit_short_side(image, 90))
    assert np.array_equal(read_image(path, 401), image)


def test_a_jpeg_that_is_cut_off_is_refused_at_every_scale(tmp_path):
    path = save(radiograph(512, 512), tmp_path / "a.jpg", quality=95)
    path.write_bytes(path.read_bytes()[:-2000])
    for short_side in (None, 256, 64):
        with pytest.raises(DataError, match="broken image file .*truncated"):
            read_image(path, short_side)


def test_real_films_at_2048_pixels_lose_next_to_nothing_at_a_smaller_scale(data_dir):
    films = sorted((data_dir / "iu_xray" / "images").glob("*/*.jpg"))[::2000]
    assert len(films) == 3
    for film in films:
        large = io.BytesIO()
        with Image.open(film) as picture:
            enlarged = picture.convert("L").resize((2048, 2500), Image.Resampling.BICUBIC)
        enlarged.save(large, "JPEG", quality=92)
        expected = fit_short_side(decode_image(large.getvalue(), film.name), 256)
        pixels = decode_image(large.getvalue(), film.name, 256)
        assert pixels.shape == expected.shape == (312, 256)
        error = np.mean((pixels.astype(float) - expected) ** 2)
        assert 10 * np.log10(255**2 / error) > 46


def test_the_difference_hash_is_one_bit_for_each_pair_of_neighbours():
    ramp = np.tile(np.arange(0, 180, dtype=np.uint8), (160, 1))
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(255 - ramp) == 0
    assert difference_hash(ramp, side=16) == 2**256 - 1
    ramp[:40] = 7  # the first of eight rows sees nothing but this
    assert difference_hash(ramp) == 2**56 - 1


def test_the_difference_hash_holds_when_a_film_is_resized_recompressed_or_brightened(data_dir):
    films = sorted((data_dir / "iu_xray" / "images").glob("*/*.jpg"))[::240]
    hashes = []
    for film in films:
        pixels = read_image(film)
        again = io.BytesIO()
        Image.fromarray(pixels).save(again, "JPEG", quality=30)
        copies = {
            "resized": (resize(pixels, 180, 200), 2, 8),
            "recompressed": (decode_image(again.getvalue(), film.name), 4, 20),
            "brightened": ((pixels * 0.8 + 40).astype(np.uint8), 3, 12),
        }
        for what, (copy, bits, fine_bits) in copies.items():
            assert distance(pixels, copy, 8) <= bits, (film, what)
            assert distance(pixels, copy, 16) <= fine_bits, (film, what)
        hashes.append(difference_hash(pixels, side=16))
    pairs = [(a ^ b).bit_count() for k, a in enumerate(hashes) for b in hashes[:k]]
    assert len(pairs) == 20 * 19 // 2
    assert min(pairs) > 20
    assert np.median(pairs) > 60


def distance(first: np.ndarray, second: np.ndarray, side: int) -> int:
    return (difference_hash(first, side) ^ difference_hash(second, side)).bit_count()


def repeat_last_scan(jpeg: bytes, times: int) -> bytes:
    start, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[start:end] * times + jpeg[end:]


def test_a_jpeg_that_describes_its_picture_again_and_again_is_refused(tmp_path):
    jpeg = save(GREY, tmp_path / "a.jpg", progressive=True).read_bytes()
    assert decode_image(repeat_last_scan(jpeg, 20), "a").shape == GREY.shape
    bomb = repeat_last_scan(jpeg, 300)
    num_scans = bomb.count(b"\xff\xda")
    for file in (bomb, bomb[:2] + b"\xff" + bomb[2:]):  # their marks lie at all places
        with pytest.raises(DataError, match=f"a JPEG of {num_scans} scans, more than 200"):
            decode_image(file, "a")
    frame = write_dicom(tmp_path / "a.dcm", GREY)
    compress(frame, JPEGBaseline8Bit, bomb)
    with pytest.raises(DataError, match="a JPEG of 30. scans, more than 200; not opened"):
        read_image(frame)


def test_a_tiff_of_many_strips_of_jpeg_is_no_bomb(tmp_path):
    film = radiograph(2048, 64)
    path = save(film, tmp_path / "a.tif", compression="jpeg", tiffinfo={278: 8})
    assert path.read_bytes().count(b"\xff\xda") > 200
    assert read_image(path).shape == film.shape


def test_reading_ends_after_so_much_time_and_leaves_signals_as_they_were(tmp_path, monkeypatch):
    path = save(GREY, tmp_path / "a.gif")
    content = path.read_bytes()
    picture = content[content.index(b",") : -1]
    path.write_bytes(content[:-1] + picture[:10] + b"\2\0" + (picture[:10] + b"\2\0") * 500_000)
    monkeypatch.setattr("radrep.data.image_io._MAX_SECONDS", 0.3)
    before = signal.getsignal(signal.SIGVTALRM)
    refused = pytest.raises(DataError, match=r"a.gif: reading it takes more than 0.3 s")
    with no_runaway(3), refused:
        read_image(path)
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
