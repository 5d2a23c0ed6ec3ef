from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from hf_frameseg.prepared.frame_columns import check_frame_format, check_num_frames, encode_frames, row_frames


@pytest.fixture
def frames():
    """Smooth pictures, one level apart from window to window and far apart from variant to variant."""
    window, variant = np.meshgrid(np.arange(4), np.arange(3), indexing="ij")
    levels = (10 + 4 * window + 80 * variant).astype(np.uint8)
    return np.broadcast_to(levels[:, :, None, None, None], (4, 3, 8, 6, 3)).copy()


def test_raw_gives_back_the_chosen_variants_exactly():
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 6, 3), dtype=np.uint8)
    row = encode_frames(frames, "raw")
    assert isinstance(row["frames"], bytes)
    assert row["frame_shape"] == [4, 3, 8, 6, 3]
    np.testing.assert_array_equal(row_frames(row, [2, 0, 1, 2]), frames[[0, 1, 2, 3], [2, 0, 1, 2]])
    np.testing.assert_array_equal(row_frames(row), frames[:, 1])


def test_jpeg_gives_back_the_chosen_variants_closely(frames):
    row = encode_frames(frames, "jpeg")
    assert len(row["frames"]) == 12
    assert row["frame_shape"] == [4, 3, 8, 6, 3]
    pictures = row_frames(row, np.array([2, 0, 1, 2]))
    assert pictures.dtype == np.uint8
    np.testing.assert_allclose(pictures.astype(int), frames[[0, 1, 2, 3], [2, 0, 1, 2]], atol=1)
    np.testing.assert_allclose(row_frames(row).astype(int), frames[:, 1], atol=1)


def test_jpegs_are_standard_files_of_quality_95(frames):
    image = Image.open(io.BytesIO(encode_frames(frames, "jpeg")["frames"][0]["bytes"]))
    assert (image.format, image.size, image.mode) == ("JPEG", (6, 8), "RGB")
    # Quality 95 keeps the lowest frequency in steps of 2 (0.1 of the standard table's 16, rounded).
    assert image.quantization[0][0] == 2
    assert JpegImagePlugin.get_sampling(image) == 2  # 4:2:0


@pytest.fixture
def noisy():
    """Pictures with detail and colour edges, of odd size, where decoders with other arithmetic differ."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 3, 9, 7, 3), dtype=np.uint8).repeat(5, axis=2).repeat(5, axis=3)
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)[:, :, :43, :33]


def test_pixels_are_those_of_pillow_to_the_bit(noisy):
    row = encode_frames(noisy, "jpeg")
    for variant in range(3):
        cells = row["frames"][variant::3]
        expected = [np.array(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in cells]
        np.testing.assert_array_equal(row_frames(row, [variant] * 2), expected)


def test_the_same_frames_give_the_same_bytes(noisy):
    assert encode_frames(noisy, "jpeg") == encode_frames(noisy.copy(order="F"), "jpeg")


def damaged(row, change):
    """Return the row with the middle picture of frame 1 changed."""
    cells = list(row["frames"])
    cells[4] = {"bytes": change(cells[4]["bytes"]), "path": None}
    return {**row, "vid": "v0", "frames": cells}


@pytest.mark.parametrize(
    "change",
    [
        lambda encoded: encoded[: len(encoded) // 2],
        lambda encoded: encoded[:-2],
        lambda encoded: b"",
        lambda encoded: None,
        lambda encoded: b"text" * 100,
        lambda encoded: encoded[:300] + bytes(100) + encoded[400:],
    ],
)
def test_a_broken_picture_is_named(noisy, change):
    row = damaged(encode_frames(noisy, "jpeg"), change)
    with pytest.raises(
        ValueError, match=r"^video v0, frame 1, variant 1: expected a JPEG of 43 x 33 .*prepare"
    ) as caught:
        row_frames(row)
    assert "\n" not in str(caught.value)
    assert row_frames(row, [0, 2]).shape == (2, 43, 33, 3)  # the others are fine


def test_pictures_of_another_size_are_refused(noisy):
    small = encode_frames(noisy[:, :, :20], "jpeg")["frames"][4]["bytes"]
    with pytest.raises(ValueError, match="frame 1, variant 1: expected a JPEG of 43 x 33 pixels: it has 20 x 33"):
        row_frames(damaged(encode_frames(noisy, "jpeg"), lambda encoded: small))


def test_missing_pictures_and_bytes_are_counted(noisy):
    row = encode_frames(noisy, "jpeg")
    with pytest.raises(ValueError, match="a row without vid: expected 6 pictures, got 5; the data is damaged"):
        row_frames({**row, "frames": row["frames"][:5]})
    row = {**encode_frames(noisy, "raw"), "vid": "v0"}
    with pytest.raises(ValueError, match="video v0: expected 25542 bytes of frames, got 25541"):
        row_frames({**row, "frames": row["frames"][:-1]})


def test_mutated_pictures_give_an_error_or_a_picture(noisy):
    row, rng = encode_frames(noisy, "jpeg"), np.random.default_rng(1)

    def mutate(encoded):
        encoded = bytearray(encoded)
        for _ in range(rng.integers(1, 5)):
            encoded[rng.integers(len(encoded))] = rng.integers(256)
        start = rng.integers(len(encoded))
        del encoded[start : start + rng.integers(0, 3)]
        return bytes(encoded)

    outcomes = set()
    for _ in range(300):
        try:
            outcomes.add(row_frames(damaged(row, mutate)).shape)
        except ValueError as error:
            outcomes.add(str(error).startswith("video v0, frame 1, variant 1"))
    assert outcomes == {True, (2, 43, 33, 3)}


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
def test_the_result_can_be_written_to_without_changing_the_row(frames, frame_format):
    row = encode_frames(frames, frame_format)
    first = row_frames(row)
    first[:] = 0
    assert row_frames(row).max() > 0


@pytest.mark.parametrize("variants", [[0, 1], [0, 1, 2, 3], [0, 0, 0, -1], [[0, 0, 0, 0]]])
def test_wrong_variants_are_refused(frames, variants):
    with pytest.raises(ValueError, match="one variant from 0 to 2 for each of the 4 frames"):
        row_frames(encode_frames(frames, "raw"), variants)


@pytest.mark.parametrize("shape", [(4, 8, 6, 3), (4, 3, 8, 6, 1)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="uint8 frames of shape"):
        encode_frames(np.zeros(shape, np.uint8), "raw")


def test_wrong_types_and_formats_are_refused(frames):
    with pytest.raises(ValueError, match="got float64"):
        encode_frames(frames.astype(float), "raw")
    with pytest.raises(ValueError, match=r"frame_format to be one of \['jpeg', 'raw'\], got 'png'"):
        encode_frames(frames, "png")
    with pytest.raises(ValueError, match="frame_format"):
        check_frame_format("RAW")


@pytest.mark.parametrize("frame_format", ["raw", "jpeg"])
@pytest.mark.parametrize(
    "shape",
    [
        [4, 3, 8, 6, 4],
        [4, 3, 8, 6, 1],
        [12, 1, 8, 6, 3],
        [0, 3, 8, 6, 3],
        [-4, 3, -8, 6, 3],
        [4, 3, 8, 6],
        [],
        None,
        "44444",
        [4, 3, 8, 6, float("nan")],
        [4, 3, 2**40, 6, 3],
        [4, 3, 8000, 8000, 3],
    ],
)
def test_a_row_that_claims_another_shape_gives_no_pictures(frames, frame_format, shape):
    row = {**encode_frames(frames, frame_format), "vid": "v\x1b0", "frame_shape": shape}
    message = r"^video v\\x1b0: expected a frame_shape \[F, 3, H, W, 3\], .*prepare it again$"
    with pytest.raises(ValueError, match=message):
        row_frames(row)
    with pytest.raises(ValueError, match="expected a frame_shape"):
        check_num_frames([row], 4)


def test_a_shape_may_come_from_a_tensor(frames):
    row = encode_frames(frames, "raw")
    shaped = {**row, "frame_shape": np.array(row["frame_shape"])}
    np.testing.assert_array_equal(row_frames(shaped), row_frames(row))


def test_another_number_of_frames_is_refused():
    rows = [{"frame_shape": [25, 3, 8, 8, 3]}, {"frame_shape": [10, 3, 8, 8, 3]}]
    check_num_frames(rows[:1], 25)
    with pytest.raises(ValueError, match=r"expected 25 frames per video, the prepared data has 10; .*num_frames=25"):
        check_num_frames(rows, 25)
