"""Pictures are checked at known pixels and for what must differ or stay the same; nobody can compare by eye
what a test run draws, and stored pictures would only say that something changed."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from core.explain import layout
from core.explain.colour import NonFiniteMap
from core.explain.explanation import Explanation, Layer, Target
from core.explain.panels import _LARGE, _LITTLE
from core.explain.rendering import heatmap, render

TARGET = Target("dog", 1, margin=4.3, probability=0.987)
ATTRIBUTING = ["grad_cam", "integrated_gradients", "occlusion"]
DARK_RED, WHITE, DARK_BLUE = (103, 0, 31), (247, 247, 247), (5, 48, 97)
SIZE = 32


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def picture(size: int = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def attribution(size: int = SIZE) -> NDArray[np.float32]:
    """Plus 3 in the upper left quarter, minus 3 in the lower right, 0 elsewhere."""
    values = np.zeros((size, size), np.float32)
    values[: size // 2, : size // 2] = 3
    values[size // 2 :, size // 2 :] = -3
    return values


def layers(method: str) -> tuple[Layer, ...]:
    random = np.random.default_rng(1)
    if method == "grad_cam":
        names = [f"layer{1 + i // 5}.{i % 5}" for i in range(20)]
        return tuple(Layer(n, random.normal(size=(4, 4)).astype(np.float32)) for n in names)
    if method == "feature_maps":
        maps = random.random((12, 5, 5)).astype(np.float32)
        maps[3] = 0
        return (Layer("stem", maps, tuple(range(20, 32)), dead=(23,)), Layer("layer4.2", 0 * maps))
    if method == "kernels":
        first = random.normal(size=(12, 3, 7, 7)).astype(np.float32)
        return (Layer("conv1", first, tuple(range(12))), Layer("layer2.0.conv2", first[:, 0]))
    return ()


def explained(method: str, values: NDArray[np.float32] | None = None, **rest: Any) -> Explanation:
    if method in ATTRIBUTING and values is None:
        values = attribution()
    return Explanation(method, TARGET, values, rest.pop("layers", layers(method)), **rest)


@pytest.mark.parametrize("method", ATTRIBUTING)
def test_methods_that_attribute_give_pictures_and_numbers(method: str) -> None:
    files = render(explained(method), picture())
    assert files.keys() - {"layers.npz"} == {"panel.png", "overlay.png", "heatmap.png", "attribution.npy"}
    assert ("layers.npz" in files) == (method == "grad_cam")
    for name, (data, media_type) in files.items():
        assert (media_type == "image/png") == name.endswith(".png")
        if name.endswith(".png"):
            assert opened(data).format == "PNG"
    assert opened(files["panel.png"][0]).size[0] == 1200
    assert opened(files["panel.png"][0]).mode == opened(files["overlay.png"][0]).mode == "RGB"
    assert opened(files["heatmap.png"][0]).mode == "RGBA"


@pytest.mark.parametrize("method", ["feature_maps", "kernels"])
def test_methods_without_a_map_give_panel_and_layers(method: str) -> None:
    assert render(explained(method), picture()).keys() == {"panel.png", "layers.npz"}


@pytest.mark.parametrize(("size", "factor"), [(32, 14), (160, 3), (224, 2), (448, 2), (512, 2), (33, 14)])
def test_plain_pictures_are_a_whole_multiple_of_the_crop(size: int, factor: int) -> None:
    files = render(explained("occlusion", attribution(size)), picture(size))
    for name in ("heatmap.png", "overlay.png"):
        assert opened(files[name][0]).size == (factor * size, factor * size)


def test_heat_map_is_red_for_and_blue_against_and_clear_where_there_is_nothing() -> None:
    heat = opened(render(explained("integrated_gradients"), picture())["heatmap.png"][0])
    side = heat.width
    near, middle, far = 3, side // 2, side - 3
    assert heat.getpixel((near, near)) == (*DARK_RED, 255)
    assert heat.getpixel((far, far)) == (*DARK_BLUE, 255)
    assert heat.getpixel((far, near)) == heat.getpixel((near, far)) == (*WHITE, 0)
    # The edge between the quarters is where it was, to the pixel.
    assert heat.getpixel((middle - 1, middle - 1)) == (*DARK_RED, 255)
    assert heat.getpixel((middle, middle)) == (*DARK_BLUE, 255)


def test_rows_stay_rows() -> None:
    values = np.zeros((SIZE, SIZE), np.float32)
    values[0, -1] = 1  # the upper right corner
    heat = opened(heatmap("occlusion", values))
    assert heat.getpixel((heat.width - 1, 0)) == (*DARK_RED, 255)
    assert heat.getpixel((0, heat.height - 1)) == (*WHITE, 0)


def test_grad_cam_is_drawn_in_magma_with_its_negative_part_cut_off() -> None:
    heat = opened(render(explained("grad_cam"), picture())["heatmap.png"][0])
    assert heat.getpixel((3, 3)) == (*colormaps["magma"](255, bytes=True)[:3], 255)
    assert heat.getpixel((heat.width - 3,) * 2) == (*colormaps["magma"](0, bytes=True)[:3], 0)


def test_overlay_is_the_grey_picture_under_45_percent_of_heat() -> None:
    red = np.zeros((SIZE, SIZE, 3), np.uint8)
    red[..., 0] = 200  # grey level 59.8
    laid = opened(render(explained("occlusion"), red)["overlay.png"][0])
    expected = tuple(round(0.55 * 0.299 * 200 + 0.45 * c) for c in DARK_RED)
    assert laid.getpixel((3, 3)) == expected


def test_panel_shows_the_picture_in_its_colours() -> None:
    plain = np.full((SIZE, SIZE, 3), (200, 120, 20), np.uint8)
    panel = np.asarray(opened(render(explained("occlusion"), plain)["panel.png"][0]))
    assert (panel == (200, 120, 20)).all(axis=-1).sum() >= (_LITTLE - 2) ** 2
    assert (panel == (20, 120, 200)).all(axis=-1).sum() == 0


def test_panel_lays_the_map_over_the_picture_in_its_orientation() -> None:
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    panel = np.asarray(opened(render(explained("occlusion"), black)["panel.png"][0]))
    for colour, first in ((DARK_RED, True), (DARK_BLUE, False)):
        rows, columns = np.nonzero((panel == [round(0.45 * c) for c in colour]).all(axis=-1))
        assert len(rows) > 0.8 * (_LARGE / 2) ** 2
        assert (rows.mean() < 48 + 120 + _LARGE / 2) is np.bool_(first)
        assert (columns.mean() < 48 + _LARGE / 2) is np.bool_(first)


@pytest.mark.parametrize("method", ATTRIBUTING)
def test_a_flat_map_is_drawn_and_said_to_be_one(method: str) -> None:
    flat = explained(method, np.zeros((SIZE, SIZE), np.float32), layers=())
    files = render(flat, picture())
    heat = np.asarray(opened(files["heatmap.png"][0]))
    assert (heat[..., 3] == 0).all()
    assert len(np.unique(heat.reshape(-1, 4), axis=0)) == 1
    # No colour bar: nothing on the panel but the photograph is coloured.
    ordinary = np.asarray(opened(render(explained(method, layers=()), picture())["panel.png"][0]))
    panel = np.asarray(opened(files["panel.png"][0]))
    lower = slice(48 + 50 + 60 + _LARGE + 40, None)
    assert saturation(ordinary[lower]).max() > 100
    assert saturation(panel[lower]).max() < 40


def saturation(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    spread: NDArray[np.int64] = np.ptp(pixels.astype(np.int64), axis=-1)
    return spread


def test_layers_that_are_all_zero_are_drawn() -> None:
    for method in ("grad_cam", "feature_maps", "kernels"):
        zero = tuple(dataclasses.replace(layer, values=0 * layer.values) for layer in layers(method))
        assert opened(render(explained(method, layers=zero), picture())["panel.png"][0]).width == 1200


@pytest.mark.parametrize("method", ATTRIBUTING)
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30])
def test_only_proportions_matter_to_the_heat_map(method: str, scale: float) -> None:
    values = attribution()
    assert heatmap(method, (values / 3 * np.float32(scale)).astype(np.float32)) == heatmap(method, values)


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("method", ATTRIBUTING)
def test_tiny_maps_are_drawn(method: str, size: int) -> None:
    files = render(explained(method, np.ones((size, size), np.float32)), picture(size))
    assert opened(files["panel.png"][0]).width == 1200
    assert opened(files["heatmap.png"][0]).width >= 448


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ATTRIBUTING)
def test_what_is_not_finite_is_refused(method: str, bad: float) -> None:
    values = attribution()
    values[5, 5] = bad
    with pytest.raises(NonFiniteMap):
        render(explained(method, values), picture())
    with pytest.raises(NonFiniteMap):
        heatmap(method, values)


@pytest.mark.parametrize("method", ["grad_cam", "feature_maps", "kernels"])
def test_layers_that_are_not_finite_are_refused(method: str) -> None:
    broken = tuple(
        dataclasses.replace(layer, values=np.full_like(layer.values, np.inf)) for layer in layers(method)
    )
    with pytest.raises(NonFiniteMap):
        render(explained(method, layers=broken), picture())


def test_a_map_of_another_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="does not belong"):
        render(explained("occlusion"), picture(SIZE + 1))


def test_arrays_come_back_as_they_were() -> None:
    values = np.random.default_rng(2).normal(size=(SIZE, SIZE)).astype(np.float32)
    explanation = explained("grad_cam", values)
    files = render(explanation, picture())
    loaded = np.load(io.BytesIO(files["attribution.npy"][0]), allow_pickle=False)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, values)
    with np.load(io.BytesIO(files["layers.npz"][0]), allow_pickle=False) as archive:
        assert archive.files == [layer.name for layer in explanation.layers]
        for layer in explanation.layers:
            np.testing.assert_array_equal(archive[layer.name], layer.values)


def test_a_partial_map_is_drawn_as_the_final_one() -> None:
    files = render(explained("occlusion"), picture())
    assert heatmap("occlusion", attribution()) == files["heatmap.png"][0]


def test_the_answer_is_told_where_it_is_another_class() -> None:
    own = {"label": "dog", "scores": {"dog": 0.987, "cat": 0.013}}
    other = {"label": "cat", "scores": {"dog": 0.2, "cat": 0.8}}
    drawn = [
        render(explained("occlusion"), picture(), prediction=p)["panel.png"][0] for p in (None, own, other)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[2] != drawn[0]


@pytest.mark.parametrize("label", ["x" * 100, "many words " * 9, "猫", "", "a\tb\nc", "\u202e\x00"])
def test_any_label_can_be_written(label: str) -> None:
    target = dataclasses.replace(TARGET, label=label)
    explanation = dataclasses.replace(explained("integrated_gradients"), target=target)
    assert opened(render(explanation, picture())["panel.png"][0]).width == 1200


def test_feature_maps_are_on_one_scale_and_dead_channels_stay_empty() -> None:
    maps = np.zeros((6, 2, 2), np.float32)
    maps[0], maps[1], maps[5] = 8.0, 4.0, 1e-6
    layer = Layer("stem", maps, (0, 1, 2, 3, 4, 5), dead=(4,))
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    panel = np.asarray(
        opened(render(explained("feature_maps", layers=(layer,)), black)["panel.png"][0]).convert("RGB")
    )
    side = 172
    area = {
        strength: (panel == colormaps["magma"](strength, bytes=True)[:3]).all(axis=-1).sum()
        for strength in (255, 128, 0)
    }
    inside = (side - 2) ** 2  # without the frame
    assert area[255] == area[128] == inside
    # Two channels silent on this picture and one of almost nothing; the dead one is no black tile.
    assert area[0] == 3 * inside


def test_each_depth_is_on_a_scale_of_its_own() -> None:
    """What the first stage would say to first order may be a hundred times the log-odds of the last block."""
    depths = {"stem": 27.0, "layer1.0": 1.5, "layer1.1": 0.3, "layer2.0": 0.02}
    uneven = tuple(Layer(name, np.full((4, 4), most, np.float32)) for name, most in depths.items())
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    flat = np.zeros((SIZE, SIZE), np.float32)
    panel = np.asarray(opened(render(explained("grad_cam", flat, layers=uneven), black)["panel.png"][0]))
    brightest = colormaps["magma"](255, bytes=True)[:3]
    laid = [round(0.45 * c) for c in brightest]
    assert (panel == laid).all(axis=-1).sum() == 3 * (
        261 - 2
    ) ** 2  # the ends of the stages, over the picture
    assert (panel == brightest).all(axis=-1).sum() == 4 * (204 - 2) ** 2  # and all depths alone


def test_the_brightest_number_of_each_depth_is_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    depths = {"stem": 27.0, "layer1.0": 1.5, "layer1.1": 0.3, "layer2.0": -0.02}
    uneven = tuple(Layer(name, np.full((4, 4), most, np.float32)) for name, most in depths.items())
    captions: list[str] = []
    captioned = layout.captioned

    def noted(image: Image.Image, caption: str, *size: int) -> Image.Image:
        captions.append(caption)
        return captioned(image, caption, *size)

    monkeypatch.setattr(layout, "captioned", noted)
    render(explained("grad_cam", layers=uneven), picture())
    ends = ["stem\nup to 27", "stage 1, block 2\nup to 0.30", "stage 2, block 1\nnowhere positive"]
    alone = ["stem\nup to 27", "block 1\nup to 1.5", "block 2\nup to 0.30"]
    assert captions[-7:] == [*ends, *alone, "block 1\nnowhere positive"]


@pytest.mark.parametrize("method", [*ATTRIBUTING, "feature_maps", "kernels"])
def test_threads_draw_the_same_bytes(method: str) -> None:
    expected = render(explained(method), picture())
    with ThreadPoolExecutor(4) as pool:
        for files in pool.map(lambda _: render(explained(method), picture()), range(8)):
            assert files == expected


@pytest.mark.parametrize("method", [*ATTRIBUTING, "feature_maps", "kernels"])
def test_what_the_stand_in_makes_up_can_be_drawn(method: str) -> None:
    """It gives every method a map and one layer of two dimensions."""
    one = (Layer("stand-in", attribution()),)
    files = render(explained(method, attribution(), layers=one), picture())
    assert opened(files["panel.png"][0]).width == 1200


def test_grad_cam_shows_the_depths_that_its_provenance_names() -> None:
    every = [layer.name for layer in layers("grad_cam")]  # four stages of five blocks
    one_each = every[::5]

    def height(grid: list[str]) -> int:
        panel = render(explained("grad_cam", provenance={"grid": grid}), picture())["panel.png"][0]
        return opened(panel).height

    line = height(one_each) - height([])
    assert line > 200, "four tiles of four stages share one line"
    assert height(every) == height([]) + 4 * line, "stages of five have a line each"


def test_inputs_are_not_written_to() -> None:
    values, pixels = attribution(), picture()
    values.flags.writeable = pixels.flags.writeable = False
    render(explained("integrated_gradients", values), pixels)
    np.testing.assert_array_equal(values, attribution())


def test_drawing_needs_neither_pyplot_nor_torch() -> None:
    """pyplot opens windows where it can and keeps its figures in a list that all threads share."""
    code = (
        "import sys, core.explain.rendering as r; print({'torch', 'matplotlib.pyplot'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
