"""The command line: ``python cli.py COMMAND``, or ``keypointnet COMMAND`` once installed.

Every command is a few lines: it collects its options and calls the package that does the work. That code is imported
when the command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

NO_PACKAGE = f"{sys.executable}: has no package {{!r}}: `. .venv/bin/activate` after `make setup`, or `pip install .`"
try:
    import click
    from click.shell_completion import CompletionItem
except ModuleNotFoundError as error:
    sys.exit("error: " + NO_PACKAGE.format(error.name))

from data.errors import UserError
from data.interchange import FORMATS

DEBUG_VARIABLE = "KEYPOINTNET_DEBUG"
NO_MEMORY = "more memory is needed than there is: ask for fewer or smaller images at once (train: --batch-size)"


class GivenPath(click.Path):
    """A path; not the empty one, which would be the current folder, and is what an unset variable of a shell gives."""

    def convert(self, value, param, ctx):
        if not str(value):
            self.fail("is empty: give a path.", param, ctx)
        return super().convert(value, param, ctx)


PATH = GivenPath(path_type=Path)


class Text(click.ParamType):
    """Any text but the empty one, which is what an unset variable of a shell gives."""

    name = "text"
    wanted = "a value, or leave the option out"

    def convert(self, value, param, ctx):
        if not value:
            self.fail(f"is empty: give {self.wanted}.", param, ctx)
        return value


class Run(Text):
    """A run folder or the name of shipped weights; completed by a shell as either."""

    name = "run"
    wanted = "a run folder or the name of shipped weights"

    def shell_complete(self, ctx, param, incomplete):
        shipped = (Path(__file__).parent / "train/pretrained").glob("*/config.json")
        names = [
            CompletionItem(path.parent.name) for path in sorted(shipped) if path.parent.name.startswith(incomplete)
        ]
        return [*names, CompletionItem(incomplete, type="dir")]


class Joined(click.ParamType):
    """Values of one type, joined by commas: a setting that is a tuple."""

    def __init__(self, item: type, length: int | None):
        self.item = click.types.convert_type(item)
        self.length = length
        self.name = ",".join([self.item.name] * (length or 1)) + ("" if length else ",...")

    def convert(self, value, param, ctx):
        parts = value.split(",")
        if self.length and len(parts) != self.length:
            self.fail(f"{value!r} is not {self.length} values joined by commas.", param, ctx)
        return tuple(self.item.convert(part.strip(), param, ctx) for part in parts)


class Setting(click.Option):
    """An option that is listed under a heading of its own."""

    def __init__(self, *args, heading: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.heading = heading


class SettingsCommand(click.Command):
    """Lists options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list] = {}
        for param in self.get_params(ctx):
            if row := param.get_help_record(ctx):
                sections.setdefault(getattr(param, "heading", "Options"), []).append(row)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


def options_of(
    settings: str, prefix: str = "", part: str = "", leave_out: tuple[str, ...] = (), heading: str = "Options"
) -> Callable:
    """Decorator: an option for every field of a settings dataclass, its comment as the help text.

    Names, types, defaults and texts stand in the dataclass alone. They are read from its source text, where the
    comments are, so that `--help` imports neither the renderer nor torch. Options that are not given stay out of the
    command's arguments (see :func:`given`), so a default is applied in one place too.

    Args:
        settings: ``FILE:CLASS``.
        prefix: begins the options' names.
        part: name of this dataclass as a field of another one; empty for the command's own settings.
        heading: what the options are listed under, by a :class:`SettingsCommand`.
    """
    file, name = settings.split(":")
    source = (Path(__file__).parent / file).read_bytes()
    lines = source.splitlines()
    definition = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = [
        node for node in definition.body if isinstance(node, ast.AnnAssign) and not isinstance(node.value, ast.Call)
    ]

    def decorate(command: Callable) -> Callable:
        for node in reversed(fields):
            field, annotation = node.target.id, ast.unparse(node.annotation)
            if field not in leave_out:
                value = ast.literal_eval(node.value) if node.value else None
                comment = lines[node.end_lineno - 1][node.end_col_offset :].decode().strip(" #")
                argument = f"{part}__{field}" if part else field
                command = _option(f"{prefix}{field}", argument, annotation, value, comment, heading)(command)
        return command

    return decorate


def _option(name: str, argument: str, annotation: str, default: object, comment: str, heading: str) -> Callable:
    flag = "--" + name.replace("_", "-")
    kind = annotation.removesuffix(" | None")
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    text = comment if default is None or default is False else f"{comment} [default: {shown}]".lstrip()
    if kind == "bool":
        flags = f"{flag}/--no-{flag[2:]}"
        return click.option(flags, argument, default=None, help=text, cls=Setting, heading=heading)
    types = {"int": int, "float": float, "str": Text(), "Path": PATH}
    if items := re.fullmatch(r"tuple\[(.+)\]", kind):
        parts = items[1].split(", ")
        types[kind] = Joined(types[parts[0]], None if parts[-1] == "..." else len(parts))
    return click.option(flag, argument, type=types[kind], help=text, cls=Setting, heading=heading)


def given(options: dict) -> dict:
    """The options that were given; those of a part ``p`` as a dictionary of their own, under ``p``."""
    result: dict = {}
    for argument, value in options.items():
        if value is not None:
            *part, field = argument.split("__")
            (result.setdefault(part[0], {}) if part else result)[field] = value
    return result


class Commands(click.Group):
    """Lists commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def commands() -> None:
    """Learn 3D keypoints of a category of objects from pairs of rendered views, with no keypoint ever annotated.

    \b
    Example, from nothing to results:
      keypointnet render planes --category airplane
      keypointnet train planes run --preset cpu
      keypointnet eval run planes
    """


@commands.command(cls=SettingsCommand)
@click.argument("out", type=PATH)
@options_of("render/config.py:RenderConfig", leave_out=("out", "task", "progress"))
@click.option("--task", metavar="I/N", help="do the I-th of N equal parts of the work; `merge` joins them")
@options_of("render/views.py:ViewSettings", part="views", heading="Cameras")
@options_of("render/shading.py:Light", part="light", heading="Light")
@options_of("render/variety.py:Variety", part="variety", heading="Domain randomisation, off by default")
def render(out: Path, task: str | None, **options) -> None:
    """Render pairs of views into a dataset.

    OUT is the dataset's folder. What is drawn are built-in shapes (--category) or meshes of your own (--meshes). Run
    again on the same OUT, it finishes what is missing; with --grow, it adds models or pairs.

    \b
    Examples:
      keypointnet render planes --category airplane --models 1000
      keypointnet render planes --category airplane --models 2000 --grow
      keypointnet render chairs --meshes ShapeNetCore.v2/03001627 --workers 8
    """
    from render.config import RenderConfig, parse_task
    from render.pipeline import render_dataset
    from render.shading import Light
    from render.variety import Variety
    from render.views import ViewSettings

    settings = given(options)
    settings["views"] = ViewSettings(**settings.get("views", {}))
    settings["light"] = Light(**settings.get("light", {}))
    settings["variety"] = Variety(**settings.get("variety", {}))
    summary = render_dataset(RenderConfig(out=out, task=None if task is None else parse_task(task), **settings))
    click.echo(f"{out}: {summary.models} models, {summary.pairs} pairs, {len(summary.failures)} left out")
    for failure in summary.failures:
        click.echo(f"  {failure.source}: {failure.reason}")


@commands.command(cls=SettingsCommand)
@click.argument("datasets", metavar="DATASET...", type=PATH, nargs=-1, required=True)
@click.argument("run", type=PATH)
@click.option("--preset", type=click.Choice(["paper", "cpu", "gpu"]), help="settings [default: cpu]")
@options_of("train/config.py:TrainConfig", leave_out=("preset", "camera_distance", "focal_length", "source_size"))
@options_of("train/config.py:LossWeights", prefix="weight-", part="weights", heading="Weights of the objective's terms")
@click.option("--resume", is_flag=True, help="go on with the run in RUN, from its last checkpoint, with its settings")
def train(datasets: tuple[Path, ...], run: Path, preset: str | None, resume: bool, **options) -> None:
    """Train a detector on datasets.

    RUN is the folder for settings, weights, checkpoint, logs and the names of the models learned from. The other
    defaults shown are the paper's; --preset cpu and gpu replace them by their own, and options replace those.

    \b
    Examples:
      keypointnet train planes run --preset cpu
      keypointnet train shapes real run --preset gpu --keypoints 12
      keypointnet train planes run --resume
    """
    from train.config import make_config, replace_settings
    from train.detector import CONFIG_NAME, load_config
    from train.trainer import train

    if resume and not preset and (run / CONFIG_NAME).exists():
        config = replace_settings(load_config(run), **given(options))
    else:
        config = make_config(preset or "cpu", **given(options))
    train(config, list(datasets), run, resume)


@commands.command("eval")
@click.argument("run", type=Run())
@click.argument("others", metavar="[RUN...] DATASET...", type=Run(), nargs=-1, required=True)
@click.option(
    "--out",
    type=PATH,
    help="folder for the figures, overlays and the report, of several runs also the comparison [default: "
    "RUN/eval-SPLIT; of shipped weights NAME-eval-SPLIT, of several comparison.html, both in the working folder]",
)
@options_of("train/eval/evaluate.py:EvalOptions")
def evaluate(run: str, others: tuple[str, ...], out: Path | None, **options) -> None:
    """Measure a detector on a dataset, or several to compare them.

    RUN is a run folder or the name of shipped weights. Several give one table, and a page with their error curves over
    each other, comparison.html.

    \b
    Examples:
      keypointnet eval run planes
      keypointnet eval airplane planes --split val --out results
      keypointnet eval run tables --symmetry y:2
      keypointnet eval run-a run-b airplane planes
    """
    from train.eval.evaluate import EvalOptions, evaluate, evaluate_all, headline_table

    chosen = EvalOptions(**given(options))
    more, datasets = runs_and_datasets(others)
    if more:
        table, paths = evaluate_all([run, *more], datasets, out, chosen)
        click.echo("\n".join([table, *map(str, paths)]))
        return
    evaluation, folder = evaluate(run, datasets, out, chosen)
    click.echo(headline_table(evaluation.metrics))
    click.echo(f"{folder}: metrics.json, report.html, overlays/")


def runs_and_datasets(arguments: Sequence[str]) -> tuple[list[str], list[Path]]:
    """What follows the first run of `eval`: more runs, then datasets, which are recognised by their manifest."""
    from data.manifest import MANIFEST_NAME
    from train.detector import find_run

    at = next((i for i, name in enumerate(arguments) if (Path(name) / MANIFEST_NAME).exists()), len(arguments) - 1)
    for name in arguments[:at]:
        try:
            find_run(name)
        except UserError as error:
            raise UserError(f"{error}; nor is it a dataset (no {MANIFEST_NAME})") from None
    return list(arguments[:at]), [Path(name) for name in arguments[at:]]


@commands.command()
@click.argument("evaluations", metavar="EVALUATION...", type=PATH, nargs=-1, required=True)
@click.option(
    "--out", type=PATH, default="comparison.html", show_default=True, help="page with the table and the curves"
)
def compare(evaluations: tuple[Path, ...], out: Path) -> None:
    """Set several evaluations side by side.

    EVALUATION is a folder that `eval` wrote. Prints one table; the page shows the error curves over each other too.
    Nothing is measured again; `eval` of several runs does both.

    \b
    Example:
      keypointnet compare run-a/eval-test run-b/eval-test --out comparison.html
    """
    from train.eval.compare import compare

    click.echo(compare(evaluations, out))
    click.echo(f"{out}: the table and the curves")


@commands.command()
@click.argument("run", type=Run())
@click.argument("images", metavar="IMAGE...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="folder for predictions.json, .csv, .npz and the overlays")
@options_of("train/eval/predict.py:PredictOptions")
def predict(run: str, images: tuple[Path, ...], out: Path, **options) -> None:
    """Detect keypoints in images of your own.

    RUN is a run folder or the name of shipped weights. IMAGE is an image, an animation, a video, a folder, a quoted
    pattern, or - for a list on standard input. The object is cut out by --mask, by the image's alpha, or from a
    background of one colour.

    \b
    Examples:
      keypointnet predict airplane photo.png drawing.jpg --out found
      keypointnet predict airplane clip.mp4 --background "#00ff00" --out found
      keypointnet predict airplane shots --intrinsics 1400,1400,960,540 --object-length 37.6 --out found
    """
    from train.eval.predict import PredictOptions, predict

    found = predict(run, list(images), out, PredictOptions(**given(options)))
    click.echo(f"{out}: predictions.json, predictions.csv, predictions.npz and overlays of {len(found)} images")


@commands.command()
@click.argument("run", type=Run())
@click.argument("first", type=PATH, metavar="A")
@click.argument("second", type=PATH, metavar="B")
@options_of("train/eval/predict.py:PredictOptions")
def pose(run: str, first: Path, second: Path, **options) -> None:
    """Print how an object moved between two images, as JSON.

    RUN is a run folder or the name of shipped weights. X_B = rotation @ X_A + translation, in camera frames with +x
    right, +y down, +z forward. The translation needs --intrinsics, and --object-length for its unit; without them the
    rotation is about the line of sight to the object.

    \b
    Example:
      keypointnet pose airplane before.png after.png
    """
    from train.eval.predict import PredictOptions, pose

    click.echo(pose(run, first, second, PredictOptions(**given(options))))


@commands.command()
@click.argument("run", type=Run())
@click.argument("mesh", type=PATH)
@click.argument("out", type=PATH, metavar="OUT")
@click.option("--frames", type=click.IntRange(2, 1000), default=48, show_default=True, help="views around the object")
@click.option("--elevation", type=float, default=25.0, show_default=True, help="of the camera, degrees")
def spin(run: str, mesh: Path, out: Path, frames: int, elevation: float) -> None:
    """Write an animated turntable of a mesh with its keypoints.

    RUN is a run folder or the name of shipped weights. OUT is a .gif or .mp4 file. Every frame is detected by itself,
    as an image.

    \b
    Examples:
      keypointnet spin airplane plane.obj plane.gif
      keypointnet spin airplane plane.obj plane.mp4 --frames 120 --elevation 40
    """
    from render.turntable import turntable
    from train.detector import Detector
    from train.eval.turntable import check_animation, frame_size, write_animation

    check_animation(out)
    detector = Detector.load(run)
    config = detector.config
    size = frame_size(detector.image_size)
    views = turntable(read_mesh(mesh), frames, config.camera_distance, config.focal_length, size, elevation)
    write_animation(detector, views[0], out)
    click.echo(f"{out}: {frames} frames")


@commands.command()
@click.argument("run", type=Run())
@click.argument("mesh", type=PATH)
def view(run: str, mesh: Path) -> None:
    """Open a window on a mesh with its keypoints.

    RUN is a run folder or the name of shipped weights. The keypoints are medians over views from all sides. Drag to
    turn, q closes the window. Needs a screen; `spin` does without.

    \b
    Example:
      keypointnet view airplane plane.obj
    """
    from render.turntable import turntable
    from render.viewer import check_screen, view
    from train.detector import Detector
    from train.eval.overlays import keypoint_color
    from train.eval.turntable import frame_size, locate

    check_screen()
    detector = Detector.load(run)
    config, loaded = detector.config, read_mesh(mesh)
    views = turntable(loaded, 16, config.camera_distance, config.focal_length, frame_size(detector.image_size))
    points = locate(detector, *views)
    view(loaded, points, [keypoint_color(k) for k in range(len(points))], str(mesh))


def read_mesh(path: Path):
    """A mesh file as a ``render.mesh.Mesh``; UserError if it cannot be used."""
    from render.loading import load_mesh
    from render.sources import MeshError

    try:
        return load_mesh(path)
    except MeshError as error:
        raise UserError(f"{path}: {error}") from None


@commands.command()
@click.argument("dataset", type=PATH)
@click.option("--verify", "check", is_flag=True, help="check every byte first; name the files that are damaged")
@click.option("--preview", type=PATH, metavar="FILE.png", help="draw a contact sheet of pairs with matching points")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def inspect(dataset: Path, check: bool, preview: Path | None, as_json: bool) -> None:
    """Describe a dataset.

    \b
    Examples:
      keypointnet inspect planes --preview planes.png
      keypointnet inspect planes --verify
    """
    import json

    from data.inspect import contact_sheet, describe, format_description
    from data.verify import verify

    if check and (problems := verify(dataset)):
        for problem in problems[:-1]:
            click.echo(f"error: {problem}", err=True)
        raise UserError(problems[-1])
    description = describe(dataset)
    click.echo(json.dumps(description, indent=1) if as_json else format_description(description))
    if preview:
        contact_sheet(dataset, preview)


@commands.command()
@click.argument("run", type=Run())
@click.argument("file", type=PATH, metavar="FILE.onnx")
def export(run: str, file: Path) -> None:
    """Write a detector as an ONNX file.

    RUN is a run folder or the name of shipped weights. The file is checked against PyTorch where onnxruntime is
    installed.

    \b
    Example:
      keypointnet export run planes.onnx
    """
    from train.eval.onnx_export import export_onnx

    difference = export_onnx(run, file)
    checked = (
        "not checked: onnxruntime is not installed" if difference is None else f"within {difference:.1g} of PyTorch"
    )
    click.echo(f"{file}: {checked}")


@commands.command()
@click.argument("out", type=PATH)
@click.argument("datasets", metavar="DATASET...", type=PATH, nargs=-1, required=True)
@click.option(
    "--codec", help='of the images: "gzip", or "zstd", which is smaller but needs hdf5plugin to be read [default: gzip]'
)
def merge(out: Path, datasets: tuple[Path, ...], **options) -> None:
    """Join datasets of one category.

    OUT is the folder of the new dataset. The parts of `render --task I/N` become what one rendering had given.

    \b
    Example:
      keypointnet merge planes part-1 part-2
    """
    from tqdm import tqdm

    from data.assemble import absent_tasks, merge
    from data.manifest import load_manifest

    with tqdm(desc="merge", unit="pair", disable=None) as bar:
        manifest = merge(out, list(datasets), bar.update, **given(options))
    pairs = sum(shard.pairs for shard in manifest.shards)
    parts = [load_manifest(dataset) for dataset in datasets]
    repeated = sum(shard.pairs for part in parts for shard in part.shards) - pairs
    note = f"; left out {repeated} that occur twice (same model, cameras, light and variety)" if repeated else ""
    if absent := absent_tasks(parts):
        names = ", ".join(f"{number}/{of}" for number, of in absent[:8])
        note += f"; tasks of the rendering in none of the parts: {names}{', ...' * (len(absent) > 8)}"
    click.echo(f"{out}: {len(manifest.models)} models, {pairs} pairs{note}")


@commands.command()
@click.argument("dataset", type=PATH)
@click.argument("out", type=PATH)
@click.option("--to", type=click.Choice(FORMATS), required=True, help="the format to write")
def export_data(dataset: Path, out: Path, to: str) -> None:
    """Write a dataset in a format that others read.

    \b
    Example:
      keypointnet export-data planes planes-tfrecord --to tfrecord
    """
    from data.interchange import export

    export(dataset, out, to)
    click.echo(f"{out}: {dataset} as {to}")


@commands.command()
def doctor() -> None:
    """Say which rendering backends work here.

    For each that does not: why, and what to install.

    \b
    Example:
      keypointnet doctor
    """
    from render.doctor import diagnose, resolve

    reports = diagnose()
    for report in reports:
        click.echo(str(report))
    if not any(report.works for report in reports):
        raise UserError("no rendering backend works here: install what is named above for one of them")
    taken = resolve("auto")
    broken = any(report.name == taken and not report.works for report in reports)
    advice = ", which does not work: mend it as said above, or name another" * broken
    click.echo(f"--backend auto takes {taken}{advice}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Failures end in one line on standard error and a non-zero exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # else closed, or somebody's own
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text in the terminal's encoding
    try:
        sys.exit(commands.main(arguments, prog_name="keypointnet", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "keypointnet"
        message = " ".join(error.format_message().split())  # click sets choices out on lines of their own
        _fail(f"{message.rstrip('.')}. See: {command} --help", error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except click.Abort as interruption:
        click.echo(str(interruption.__cause__ or "") or "interrupted", err=True)
        sys.exit(130)
    except UserError as error:
        _fail(str(error))
    except MemoryError:
        _fail(NO_MEMORY)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # PyTorch's
            _fail(NO_MEMORY)
        if isinstance(error, ModuleNotFoundError):
            _fail(NO_PACKAGE.format(error.name))
        if isinstance(error, OSError) and error.strerror:
            advice = _ADVICE.get(error.errno, "mend that and run the same command again")
            _fail(f"{error.filename or 'file system'}: {error.strerror}: {advice}")
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _fail(f"unexpected {reason} (a bug; with {DEBUG_VARIABLE}=1 set, the same command shows where)")


_ADVICE = {
    errno.ENOSPC: "make room and run the same command again",
    errno.EACCES: "make it accessible, or choose another place",
    errno.EROFS: "choose another place",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name a folder",
    errno.ENOTDIR: "name a folder",
}


def _fail(message: str, code: int = 1) -> None:
    click.echo(f"error: {' '.join(message.splitlines())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
