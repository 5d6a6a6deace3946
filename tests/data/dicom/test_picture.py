import struct
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from radrep.data.image_io import decode_image, fit_short_side, read_image
from radrep.errors import DataError, ImageWarning
from tests.data.dicom.drawing import (
    DEEP,
    GREY,
    compress,
    encode,
    encode_lossless_jpeg,
    table,
    write_dicom,
)


def test_monochrome1_is_the_exact_inverse_of_monochrome2_on_real_films(data_dir):
    first, second = (
        read_image(data_dir / "dicom" / f"chest_pa_monochrome{kind}_jpeg.dcm") for kind in (1, 2)
    )
    assert first.shape == (1024, 1024)
    assert np.array_equal(first, 255 - second)
    # The corner beside the patient is dark in the file that says how it is meant to be shown.
    assert second[:20, :20].mean() < 20
    for size in (64, 100, 256, 333):
        shrunk = [
            read_image(data_dir / "dicom" / f"chest_pa_monochrome{kind}_jpeg.dcm", size)
            for kind in (1, 2)
        ]
        assert np.array_equal(shrunk[0], 255 - shrunk[1])


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
    curve = np.minimum(4095, np.arange(256) ** 2 // 15).astype(np.uint16)
    voi = [table(curve, 0, 12)]
    path = write_dicom(tmp_path / "a.dcm", GREY, VOILUTSequence=voi, WindowCenter=10, WindowWidth=2)
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


def test_dicom_table_of_8_bits_takes_deep_pixels_and_holds_its_ends(tmp_path):
    curve = np.arange(255, -1, -1).astype(np.uint8)  # for 1000 to 1255
    path = write_dicom(tmp_path / "a.dcm", DEEP, VOILUTSequence=[table(curve, 1000, 8)])
    expected = curve[np.clip(DEEP.astype(int) - 1000, 0, 255)]
    with pytest.warns(ImageWarning, match=r"few grey levels \(8 of 86 values\)"):
        assert np.array_equal(read_image(path), expected)
    assert set(np.unique(expected)) > {0, 255}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_dicom_modality_table_goes_before_the_window(tmp_path, syntax):
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    curve = np.arange(4095, -1, -1).astype(order)
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        path = write_dicom(
            tmp_path / f"{photometric}.dcm",
            DEEP,
            syntax,
            BitsStored=12,
            PhotometricInterpretation=photometric,
            ModalityLUTSequence=[table(curve, 0, 12)],
            WindowCenter=1500,
            WindowWidth=3000,
        )
        shown = np.rint(np.clip((4095.0 - DEEP - 1499.5) / 2999 + 0.5, 0, 1) * 255)
        expected = shown if photometric == "MONOCHROME2" else 255 - shown
        assert np.array_equal(read_image(path), expected)


def test_dicom_table_of_65536_entries_is_told_from_an_empty_one(tmp_path):
    curve = np.arange(2**16).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", DEEP * 16, VOILUTSequence=[table(curve, 0, 16)])
    assert np.array_equal(read_image(path), np.rint(DEEP * 16.0 / 65535 * 255))


def test_dicom_window_without_width_counts_as_none(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", DEEP, WindowCenter=0, WindowWidth=0)
    with pytest.warns(ImageWarning, match="its window is not used"):
        assert np.array_equal(read_image(path), GREY)


def test_dicom_padding_may_be_a_range_and_spoils_no_window(tmp_path):
    stored = DEEP.copy()
    stored[:5] = 65000
    stored[5:8] = 65535
    padding = {"PixelPaddingValue": 65000, "PixelPaddingRangeLimit": 65535}
    pixels = read_image(write_dicom(tmp_path / "a.dcm", stored, **padding))
    assert (pixels[:8] == 0).all()
    assert np.array_equal(pixels[8:], np.rint((DEEP[8:] - DEEP[8:].min()) / np.ptp(DEEP[8:]) * 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.keyword,
)
def test_every_encoding_of_plain_pixels_is_read(tmp_path, syntax, dtype):
    stored = (GREY.astype(int) + np.iinfo(dtype).min).astype(dtype)
    path = write_dicom(tmp_path / "a.dcm", stored, syntax)
    assert np.array_equal(read_image(path), GREY)
    assert np.array_equal(decode_image(path.read_bytes(), "a.dcm"), GREY)


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_lossless_compression_keeps_every_value(tmp_path, syntax, depth):
    stored = GREY if depth == 8 else GREY.astype(np.uint16) * (16 if depth == 12 else 257)
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=depth)
    assert np.array_equal(read_image(compress(path, syntax)), GREY)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_lossless_compression_keeps_negative_values(tmp_path, syntax):
    window = {"WindowCenter": 0, "WindowWidth": 3000}
    path = write_dicom(tmp_path / "a.dcm", DEEP.astype(np.int16) - 2000, **window)
    expected = read_image(path)
    assert expected[0, -1] == 0
    assert len(np.unique(expected)) > 60
    assert np.array_equal(read_image(compress(path, syntax)), expected)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
@pytest.mark.parametrize("depth", [8, 12, 16])
def test_lossless_jpeg_is_read(tmp_path, syntax, depth):
    stored = GREY if depth == 8 else GREY.astype(np.uint16) * (16 if depth == 12 else 257)
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=depth)
    frame = encode_lossless_jpeg(stored.astype(int), depth)
    assert np.array_equal(read_image(compress(path, syntax, frame)), GREY)


def test_lossy_compression_is_read(tmp_path):
    path = tmp_path / "a.dcm"
    jpeg = encode(GREY, "JPEG", quality=95)
    jpeg_2000 = encode(GREY, "JPEG2000", no_jp2=True, irreversible=True, quality_layers=[8])
    for syntax, frame, options in (
        (JPEGBaseline8Bit, jpeg, {}),
        (JPEGExtended12Bit, jpeg, {}),
        (JPEG2000, jpeg_2000, {}),
        (JPEGLSNearLossless, None, {"jls_error": 3}),
    ):
        pixels = read_image(compress(write_dicom(path, GREY), syntax, frame, **options))
        assert 0 < np.abs(pixels.astype(int) - GREY).max() <= 6
    # Pixels do not depend on which plug-ins are there besides Pillow.
    compress(write_dicom(path, GREY), JPEGBaseline8Bit, jpeg)
    assert np.array_equal(read_image(path), decode_image(jpeg, "a.jpg"))


@pytest.mark.parametrize("length", [None, 0, 1, 7, 10**6])
def test_boxes_of_jpeg_2000_that_lead_to_no_picture_are_refused(tmp_path, length):
    """pydicom follows a box of length 0 for ever."""
    whole = encode(GREY, "JPEG2000")
    assert whole[12:20] == (20).to_bytes(4, "big") + b"ftyp"
    boxes = whole if length is None else whole[:12] + length.to_bytes(4, "big") + whole[16:]
    path = compress(write_dicom(tmp_path / "a.dcm", GREY), JPEG2000Lossless, boxes)
    if length is None:
        assert np.array_equal(read_image(path), GREY)
        return
    with pytest.raises(DataError, match=f"at byte 12 of its JPEG 2000 is a box of {length} bytes"):
        read_image(path)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEGBaseline8Bit, encode(GREY, "JPEG", quality=95)),
        (JPEGLosslessSV1, encode_lossless_jpeg(GREY.astype(int), 8)),
        (JPEG2000Lossless, encode(GREY, "JPEG2000", no_jp2=True)),
        (JPEGLSLossless, None),
        (RLELossless, None),
    ],
    ids=["jpeg", "lossless jpeg", "jpeg 2000", "jpeg-ls", "run lengths"],
)
def test_compressed_pixels_that_are_cut_off_are_refused(tmp_path, syntax, frame):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    compress(path, syntax, frame)
    (whole,) = pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 6
    for share in (0.5, 0.95):
        compress(path, syntax, whole.rstrip(b"\0")[: int(len(whole) * share)])
        with pytest.raises(DataError, match="broken image file"):
            read_image(path)


def test_plugins_that_are_not_installed_are_named_and_the_others_do_without(tmp_path):
    frames = {
        JPEGBaseline8Bit: encode(GREY, "JPEG", quality=95),
        JPEGExtended12Bit: encode(GREY, "JPEG", quality=95),
        JPEG2000Lossless: encode(GREY, "JPEG2000", no_jp2=True),
        RLELossless: None,
        JPEGLosslessSV1: encode_lossless_jpeg(GREY.astype(int), 8),
        JPEGLSLossless: None,
    }
    for syntax, frame in frames.items():
        compress(write_dicom(tmp_path / f"{syntax.keyword}.dcm", GREY), syntax, frame)
    # Of 12 bits by its header; it is to be refused before its pixels are looked at.
    deep = write_dicom(tmp_path / "Deep.dcm", DEEP, BitsStored=12)
    compress(deep, JPEGExtended12Bit, frames[JPEGExtended12Bit])
    script = """if True:
        import pathlib, sys
        for name in ("pylibjpeg", "libjpeg", "openjpeg", "jpeg_ls", "gdcm"):
            sys.modules[name] = None  # as where it is not installed
        from radrep.data.image_io import read_image
        from radrep.errors import DataError
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*.dcm")):
            try:
                print(path.stem, read_image(path).shape)
            except DataError as error:
                print(path.stem, error)
    """
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    said = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    readable = {"JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEG2000Lossless", "RLELossless"}
    assert {name for name, text in said.items() if text == "(48, 39)"} == readable
    for name in ("JPEGLosslessSV1", "JPEGLSLossless", "Deep"):
        assert said[name].startswith(f"{tmp_path / name}.dcm: DICOM compressed as JPEG")
        assert said[name].endswith("Install it with: pip install 'radrep[dicom]'")


@pytest.mark.parametrize(
    ("pixels", "elements", "message"),
    [
        (np.stack([GREY] * 2), {"NumberOfFrames": 2, "Rows": 48, "Columns": 39}, "2 frames"),
        (GREY, {"PhotometricInterpretation": "PALETTE COLOR"}, "pixels are PALETTE COLOR"),
        (GREY, {"PhotometricInterpretation": "GREY"}, "pixels are GREY, 1 x 8 bits"),
        (GREY, {"PhotometricInterpretation": "RGB"}, "pixels are RGB, 1 x 8 bits"),
        (GREY, {"PhotometricInterpretation": None}, "without PhotometricInterpretation"),
        (np.dstack([GREY] * 3), {"PlanarConfiguration": 0}, "are MONOCHROME2, 3 x 8 bits"),
        (GREY, {"Columns": None}, "without Columns"),
        (GREY, {"Rows": None}, "without Rows"),
        (GREY, {"Rows": 30000, "Columns": 30000}, "30000 x 30000 pixels by its header"),
        (GREY, {"Rows": 31}, "39 x 31 pixels, smaller than 32"),
        (GREY, {"Rows": 480}, "broken image file"),
        (GREY, {"PixelData": GREY.tobytes()[:-100]}, "broken image file"),
        (GREY * 0 + 9, {"PixelPaddingValue": 9}, "blank, every pixel is padding"),
        (GREY, {"RescaleSlope": 1e308, "WindowCenter": 1, "WindowWidth": 1e-9}, "is not a number"),
        (np.dstack([DEEP] * 3), {"PhotometricInterpretation": "RGB"}, "are RGB, 3 x 16 bits"),
        (DEEP.astype(np.uint32) * 99, {}, "pixels from 0 to 403920; radrep reads up to 16 bits"),
        (GREY, {"PixelData": None, "Modality": "SR"}, r"without a picture \(modality SR\)"),
    ],
)
def test_dicom_that_is_no_single_picture_is_refused(tmp_path, pixels, elements, message):
    path = tmp_path / "a.dcm"
    shape = {"SamplesPerPixel": 1} if pixels.shape[0] == 2 else {}
    write_dicom(path, pixels, **shape, **elements)
    for short_side in (None, 40):
        with pytest.raises(DataError, match=message) as caught:
            read_image(path, short_side)
        assert str(path) in str(caught.value)


def test_dicom_files_that_are_broken_or_of_another_kind_are_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    whole = path.read_bytes()
    mpeg = whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.100")
    unnamed = whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.4.5.6.7.8.9.1\0")
    for content, message in (
        (bytes(128) + b"DICM" + b"1" * 50, "a.dcm: "),
        (bytes(128) + b"DICM", "without a picture"),
        (whole[:400], "a.dcm: "),
        (whole[:-1], "broken image file"),
        (unnamed, "cannot be read"),
        (mpeg, "a.dcm: "),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_image(path)


def test_a_huge_picture_is_refused_before_its_pixels_are_read(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY, Rows=30000, Columns=30000)
    content = path.read_bytes()
    # With the pixels gone there is nothing but the header to refuse it by.
    path.write_bytes(content[: content.index(struct.pack("<HH", 0x7FE0, 0x0010))])
    with pytest.raises(DataError, match="30000 x 30000 pixels by its header"):
        read_image(path)


def test_a_deflated_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("radrep.data.dicom.file._MAX_INFLATED", 2**20)
    path = tmp_path / "a.dcm"
    write_dicom(path, np.zeros((1100, 1000), np.uint8), DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 2**14
    with pytest.raises(DataError, match="a deflated DICOM file of more than 1 MB"):
        read_image(path)
    write_dicom(path, np.tile(GREY, (20, 20)), DeflatedExplicitVRLittleEndian)
    assert read_image(path).shape == (960, 780)


def test_dicom_is_shrunk_as_fit_short_side_does(tmp_path, data_dir):
    path = data_dir / "dicom" / "chest_pa_monochrome2_jpeg.dcm"
    assert np.array_equal(read_image(path, 256), fit_short_side(read_image(path), 256))


@pytest.mark.parametrize("depth", [20, 20_000])
def test_sequences_may_be_nested_as_in_any_header_and_no_deeper(tmp_path, depth):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    content = path.read_bytes()
    place = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    begin = struct.pack(
        "<HH2sHL HHL", 0x0040, 0x0275, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1
    )
    end = struct.pack("<HHL HHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    path.write_bytes(content[:place] + begin * depth + end * depth + content[place:])
    if depth == 20:
        assert np.array_equal(read_image(path), GREY)
        return
    with pytest.raises(DataError, match="sequences within sequences, deeper than in any header"):
        read_image(path)
