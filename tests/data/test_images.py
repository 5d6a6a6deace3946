import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

from radrep.data.images import fit_short_side, read_image
from radrep.errors import DataError


def draw(height: int = 48, width: int = 40) -> np.ndarray:
    """Grey from 0 to 255 that differs by row, column and corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    image = rows * 160.0 / (height - 1) + columns * 95.0 / (width - 1)
    return np.rint(image).astype(np.uint8)


GREY = draw()


def save(picture: Image.Image | np.ndarray, path: Path, **options) -> Path:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(path, **options)
    return path


def write_dicom(path: Path, pixels: np.ndarray, **elements) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CR"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
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


def test_cmyk_and_one_bit_pictures_are_read(tmp_path):
    cmyk = Image.fromarray(np.dstack([GREY] * 3)).convert("CMYK")
    path = save(cmyk, tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 6
    bits = Image.fromarray(GREY > 100)
    assert bits.mode == "1"
    assert np.array_equal(read_image(save(bits, tmp_path / "b.png")), (GREY > 100) * 255)


@pytest.mark.parametrize(
    ("factor", "greatest"), [(257, 65535), (64.25, 16383), (16.06, 4095), (1, 255)]
)
def test_16_bit_grey_is_scaled_from_the_bits_it_uses(tmp_path, factor, greatest):
    deep = np.minimum(np.rint(GREY.astype(float) * factor), greatest).astype(np.uint16)
    path = save(deep, tmp_path / "a.png")
    with Image.open(path) as picture:
        assert picture.mode in ("I;16", "I")
    assert np.array_equal(read_image(path), GREY)


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: b"", r"empty file \(0 bytes\)"),
        (lambda path: b"no picture", r"not a PNG, JPEG or DICOM file \(it begins with b'no pic"),
        (lambda path: encode(GREY, path, "GIF"), "not a PNG, JPEG or DICOM"),
        (lambda path: encode(draw(400, 400), path, "JPEG")[:-999], "broken .*truncated"),
        (lambda path: encode(GREY, path, "PNG")[:-60], "broken image file"),
        (lambda path: encode(GREY, path, "PNG")[:30], "broken image file"),
        (lambda path: b"\xff\xd8\xff" + bytes(200), "broken image file"),
        (lambda path: bytes(128) + b"DICM" + b"1" * 50, "DICOM file without a picture"),
        (lambda path: encode(np.full((64, 64), 77, np.uint8), path, "PNG"), "blank"),
        (lambda path: encode(np.full((64, 64), 77, np.uint8), path, "JPEG"), "blank"),
        (lambda path: encode(draw(31, 400), path, "PNG"), "400 x 31 pixels, smaller than 32"),
        (lambda path: png_header(60_000, 60_000), "3600000000 pixels"),
        (lambda path: png_header(14_000, 13_000), "14000 x 13000 pixels by its header"),
    ],
    ids=[
        "empty",
        "text",
        "gif",
        "truncated jpeg",
        "truncated png",
        "png without pixels",
        "jpeg of zeros",
        "dicom of ones",
        "blank png",
        "blank jpeg",
        "tiny",
        "bomb",
        "half a bomb",
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
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


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


def test_monochrome1_is_the_exact_inverse_of_monochrome2_on_real_films(data_dir):
    first, second = (
        read_image(data_dir / "dicom" / f"chest_pa_monochrome{kind}_jpeg.dcm") for kind in (1, 2)
    )
    assert first.shape == (1024, 1024)
    assert np.array_equal(first, 255 - second)
    # The corner beside the patient is dark in the file that says how it is meant to be shown.
    assert second[:20, :20].mean() < 20


def test_8_bit_dicom_is_read_as_it_is(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY, RescaleSlope=1, RescaleIntercept=0)
    assert np.array_equal(read_image(path), GREY)


def test_deep_dicom_without_a_window_runs_from_least_to_greatest(tmp_path):
    stored = (GREY.astype(np.uint16) * 8 + 300).astype(np.uint16)
    for number, photometric in ((2, "MONOCHROME2"), (1, "MONOCHROME1")):
        path = write_dicom(
            tmp_path / f"{number}.dcm", stored, BitsStored=12, PhotometricInterpretation=photometric
        )
        expected = GREY if number == 2 else 255 - GREY
        assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize(("slope", "intercept"), [(2, -1000), (-2, 1500)])
def test_dicom_window_applies_to_rescaled_values(tmp_path, slope, intercept):
    stored = (GREY.astype(np.int16) * 4).astype(np.int16)
    path = write_dicom(
        tmp_path / "a.dcm",
        stored,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=[500, 0],
        WindowWidth=[800, 1],
    )
    values = stored.astype(float) * slope + intercept
    shown = np.clip(((values - 499.5) / 799 + 0.5) * 255, 0, 255)  # PS3.3 C.11.2.1.2.1
    assert np.abs(read_image(path) - shown).max() <= 0.5 + 1e-9
    assert 0.2 < ((shown > 0) & (shown < 255)).mean() < 0.9  # the window does cut on both sides


@pytest.mark.parametrize(
    ("function", "show"),
    [
        ("LINEAR_EXACT", lambda values: (values - 500) / 800 + 0.5),
        ("SIGMOID", lambda values: 1 / (1 + np.exp(-4 * (values - 500) / 800))),
    ],
)
def test_dicom_window_functions(tmp_path, function, show):
    stored = GREY.astype(np.uint16) * 4
    path = write_dicom(
        tmp_path / "a.dcm", stored, WindowCenter=500, WindowWidth=800, VOILUTFunction=function
    )
    shown = np.clip(show(stored.astype(float)), 0, 1) * 255
    assert np.abs(read_image(path) - shown).max() <= 0.5 + 1e-9


def test_dicom_voi_table_goes_before_the_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 12]
    curve = np.minimum(4095, np.arange(256) ** 2 // 15).astype(np.uint16)
    table.LUTData = curve.tobytes()
    path = write_dicom(
        tmp_path / "a.dcm", GREY, VOILUTSequence=[table], WindowCenter=10, WindowWidth=2
    )
    expected = np.rint(curve[GREY] / 4095 * 255)
    assert np.array_equal(read_image(path), expected)


def test_dicom_padding_is_black_and_not_counted_in_the_range(tmp_path):
    stored = GREY.astype(np.int16) * 8
    stored[:5] = -2000
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        path = write_dicom(
            tmp_path / f"{photometric}.dcm",
            stored,
            PixelPaddingValue=-2000,
            PhotometricInterpretation=photometric,
        )
        pixels = read_image(path)
        assert (pixels[:5] == 0).all()
        assert (pixels[5:].min(), pixels[5:].max()) == (0, 255)


def test_colour_dicom_becomes_luminance(tmp_path):
    colour = np.dstack([GREY] * 3)
    path = write_dicom(
        tmp_path / "a.dcm", colour, PhotometricInterpretation="RGB", PlanarConfiguration=0
    )
    assert np.array_equal(read_image(path), GREY)


def test_run_length_dicom_needs_no_plugin(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    assert np.array_equal(read_image(path), GREY)


def test_a_dicom_compression_without_its_plugin_names_what_to_install(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xf7" + bytes(8)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    decoder = pydicom.pixels.get_decoder(JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})  # as where no plug-in is installed
    with pytest.raises(DataError, match="JPEG-LS .*pip install pylibjpeg pylibjpeg-libjpeg"):
        read_image(path)


@pytest.mark.parametrize(
    ("pixels", "elements", "message"),
    [
        (np.stack([GREY, GREY]), {"NumberOfFrames": 2, "Rows": 48, "Columns": 40}, "2 frames"),
        (GREY, {"PhotometricInterpretation": "PALETTE COLOR"}, "pixels are PALETTE COLOR"),
        (GREY, {"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels by its header"),
        (GREY, {"Rows": 480}, "broken image file"),
        (GREY, {"WindowCenter": 1000, "WindowWidth": 2}, "blank, every pixel is 0 to 0"),
    ],
    ids=["frames", "palette", "bomb", "too few pixels", "window beyond the values"],
)
def test_dicom_that_is_no_single_grey_picture_is_refused(tmp_path, pixels, elements, message):
    path = tmp_path / "a.dcm"
    shape = {"SamplesPerPixel": 1} if pixels.ndim == 3 else {}
    write_dicom(path, pixels, **shape, **elements)
    with pytest.raises(DataError, match=message):
        read_image(path)


def test_dicom_without_a_picture_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.Modality = "SR"
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"without a picture \(modality SR\)"):
        read_image(path)


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
