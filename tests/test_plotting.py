"""Plotting: figures that are the same bytes each time, pictures in their places, and what a notebook embeds."""

import io
import os
import subprocess
import sys

import IPython
import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from helpers import plotting, settings


class Noted:
    """A record, as far as a title looks at it."""

    def __init__(self, remark: str) -> None:
        self.remark = remark


@pytest.fixture
def shown(monkeypatch):
    """What a figure hands to the notebook."""
    images = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda image, metadata: images.append((image.data, metadata)))
    return images


def draw_line():
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.plot([0, 1, 4, 9])
    return figure


def draw_photograph():
    """Smooth colours with a little noise."""
    figure, axis = plt.subplots(figsize=(2, 2))
    across, down = np.meshgrid(*[np.linspace(0, 0.8, round(2 * plt.rcParams["savefig.dpi"]))] * 2)
    noise = np.random.default_rng(0).uniform(0, 0.02, (*across.shape, 3))
    plotting.show_image(axis, np.stack([across, down, (across + down) / 2], -1) + noise)
    return figure


def test_the_same_figure_gives_the_same_bytes_and_leaves_no_window(tmp_path):
    for name in ("one.png", "two.png"):
        plotting.save(draw_line(), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert plt.get_fignums() == []


def test_a_figure_is_shown_without_a_file(tmp_path, shown):
    drawn = plotting.show(draw_line())
    plotting.save(draw_line(), tmp_path / "line.png")
    assert drawn.getvalue() == (tmp_path / "line.png").read_bytes()
    assert [image for image, _ in shown] == [drawn.getvalue()] * 2
    assert plt.get_fignums() == []


def test_a_notebook_gets_a_drawing_as_it_is_and_a_photograph_small(tmp_path, shown):
    plotting.save(draw_line(), tmp_path / "line.png")
    plotting.save(draw_photograph(), tmp_path / "photograph.png")
    (line, line_metadata), (photograph, photograph_metadata) = shown
    assert line == (tmp_path / "line.png").read_bytes()
    assert line_metadata == {"image/png": {"width": 300}}
    assert photograph.startswith(b"\xff\xd8")  # JPEG, while the file is PNG
    assert (tmp_path / "photograph.png").read_bytes().startswith(b"\x89PNG")
    assert photograph_metadata == {"image/jpeg": {"width": 200}}
    assert PIL.Image.open(io.BytesIO(photograph)).width == 200  # pixels, as many as are shown
    assert 2 * len(photograph) < (tmp_path / "photograph.png").stat().st_size


@pytest.mark.parametrize(("spread", "mode"), [(0.02, "P"), (1.0, "RGB")])
def test_a_photograph_gets_a_palette_only_where_it_looks_the_same(spread, mode):
    generator = np.random.default_rng(0)
    colours = np.linspace(0, 1 - spread, 40)[:, None, None] + generator.uniform(0, spread, (40, 40, 3))
    before = PIL.Image.fromarray((255 * colours).astype(np.uint8)).resize((160, 160), PIL.Image.Resampling.BICUBIC)
    after, looked_at_once = (PIL.Image.open(plotting._packed(before, spare=spare)) for spare in (True, False))
    assert (after.mode, looked_at_once.mode) == (mode, "RGB")
    difference = np.subtract(before, after.convert("RGB"), dtype=np.float64)
    assert (difference == 0).all() == (mode == "RGB")
    assert np.sqrt((difference**2).mean()) < plotting.MOST_ERROR
    assert np.array_equal(np.asarray(before), np.asarray(looked_at_once))


@pytest.mark.parametrize("layout", ["constrained", "none"])
def test_a_figure_is_drawn_once_and_as_savefig_draws_it(layout):
    def make():
        figure, axes = plt.subplots(1, 3, figsize=(5, 2), layout=layout)
        axes[0].plot([0, 1, 40000], label="a long name in a legend")
        axes[0].legend()
        axes[1].scatter([0, 1], [1, 0])
        axes[1].set(xlabel="an axis with a name", ylabel="ordinate", title="a title")
        figure.colorbar(axes[2].imshow(np.eye(3)), ax=axes[2])
        plotting.title(figure, "of all three", Noted("stand-in for svhn"))
        return figure

    saved, figure, draws = io.BytesIO(), make(), []
    make().savefig(saved, format="png")
    figure.axes[0].add_artist(plotting.matplotlib.text.Text()).draw = lambda renderer: draws.append(renderer)
    assert np.array_equal(np.asarray(plotting._drawn(figure)), np.asarray(PIL.Image.open(saved).convert("RGB")))
    assert len(draws) == 1
    plt.close("all")


def test_the_paper_of_a_photograph_stays_white():
    generator = np.random.default_rng(1)
    pixels = np.full((400, 300, 3), 255, np.uint8)
    pixels[40:, 40:] = generator.integers(0, 12, (360, 260, 3)) + np.arange(240, dtype=np.uint8).repeat(2)[:360, None, None]
    after = PIL.Image.open(plotting._packed(PIL.Image.fromarray(pixels)))
    assert after.mode == "P" and (np.asarray(after.convert("RGB"))[(pixels == 255).all(-1)] == 255).all()


@pytest.mark.parametrize("with_curve", [True, False])
def test_beside_a_curve_every_pixel_counts_for_the_palette(monkeypatch, with_curve):
    figure, (left, right) = plotting.plt.subplots(1, 2, figsize=(6, 3))
    noise = np.random.default_rng(2).integers(0, 40, (90, 90, 3))
    plotting.show_image(left, (np.linspace(0, 200, 90)[:, None, None] + noise).astype(np.uint8))
    if with_curve:
        right.plot([0, 1], [0, 1], color=plotting.GREEN, alpha=0.35)
    monkeypatch.setenv("SUITE_PROFILE", "full")
    drawn, pack = [], plotting._packed
    monkeypatch.setattr(plotting, "_packed", lambda picture, **options: drawn.append(picture) or pack(picture, **options))
    saved = PIL.Image.open(plotting.show(figure))
    whole = drawn[0].quantize(256, method=PIL.Image.Quantize.MEDIANCUT, kmeans=4, dither=PIL.Image.Dither.NONE)
    assert saved.mode == "P"
    assert np.array_equal(np.asarray(saved.convert("RGB")), np.asarray(whole.convert("RGB"))) == with_curve


def test_tiles_stand_row_by_row_with_a_gap():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(4, 2).repeat(3, 3) * 51  # (3, 2, 4, 3)
    picture = plotting.tile(images, 2, gap=1)
    assert picture.shape == (2 * 2 + 1, 2 * 4 + 1, 3)
    assert (picture[:2, :4] == 0.0).all()
    assert np.allclose(picture[:2, 5:], 0.2)
    assert np.allclose(picture[3:, :4], 0.4)
    assert (picture[2] == 1.0).all()  # the gap
    assert (picture[3:, 5:] == 1.0).all()  # no fourth image


def test_a_home_that_cannot_be_written_to_says_nothing(tmp_path):
    (tmp_path / "home").touch()  # a file where a folder should be
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")}
    said = subprocess.run([sys.executable, "-c", "import helpers.plotting"], cwd=settings.PROJECT_ROOT, capture_output=True,
                          env=environment | {"HOME": str(tmp_path / "home")}, encoding="utf-8", check=True)
    assert (said.stdout, said.stderr) == ("", "")


def test_a_title_says_each_remark_once():
    figure = plt.figure()
    plotting.title(figure, "samples", Noted("stand-in for svhn"), Noted(""), Noted("stand-in for svhn"), Noted("8 epochs"))
    assert figure.get_suptitle() == "samples\nstand-in for svhn\n8 epochs"
    plt.close(figure)


def test_a_path_in_space_has_a_key_and_no_colour_too_pale_to_see():
    figure = plotting.plt.figure()
    axis = figure.add_subplot(projection="3d")
    path = np.stack([np.cos(np.arange(9)), np.sin(np.arange(9)), np.arange(9)], 1)
    plotting.path_3d(axis, path, names=("a", "b", "c"), target={name: [0.0, 1.0] for name in "abc"})
    assert axis.get_legend_handles_labels()[1] == ["first steps", "last steps", "start", "target"]
    luminance = np.array(plotting.TIME_MAP(np.linspace(0, 1, 50)))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert luminance.max() < 0.7
    assert (np.diff(luminance) <= 1e-6).all()
    plotting.plt.close(figure)


def test_a_title_is_broken_where_the_figure_is_narrower():
    remark = Noted("on photo_patches, a stand-in for cifar10; smoke profile")
    for inches, lines in ((6.0, 2), (3.0, 3), (1.5, 4)):
        figure, _ = plt.subplots(figsize=(inches, 2))
        plotting.title(figure, "JSD alone", remark)
        said = figure.get_suptitle()
        assert said.replace("\n", " ") == f"JSD alone {remark.remark}"
        assert said.count("\n") + 1 == lines
        figure.canvas.draw()
        assert plotting.cut_off(figure) == []
        plt.close(figure)
    figure = plt.figure(figsize=(2, 2))
    plotting.title(figure.subfigures(1, 2)[0], "half of it is mine")  # an inch wide
    plotting.title(figure, "$a + b$ is a formula and is left as it is")
    assert figure.get_suptitle().count("\n") == 0 and figure.subfigs[0].get_suptitle() == "half of it is\nmine"
    plt.close(figure)


def test_a_text_over_the_edge_is_found_and_said_where_notebooks_are_tested(shown, monkeypatch, capsys):
    figure = draw_line()
    figure.suptitle("a title much longer than this figure of three inches is wide")
    figure.axes[0].set_title("short")
    plotting.show(figure)
    said = "cut off at the edge of its figure: 'a title much longer than this figure of three inches is wide'\n"
    assert capsys.readouterr().out == said
    monkeypatch.setenv("SUITE_PROFILE", "quick")
    figure = draw_line()
    figure.suptitle("a title much longer than this figure of three inches is wide")
    plotting.show(figure)
    assert capsys.readouterr().out == ""
