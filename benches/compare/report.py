"""Write the tables and the picture of a record that compare.py wrote.

    python report.py record/NAME.json

writes record/NAME.md, record/NAME-light.svg and record/NAME-dark.svg. A document may show a
part of NAME.md, between `<!-- record: benches/compare/record/NAME.json PART -->` and `<!-- record end -->`.
"""

import hashlib
import json
import sys
from pathlib import Path

DATA = {
    "flowers102": "Flowers102, pixels",
    "softmax-fast": "Flowers102, 250 epochs of SGD",
    "arcene": "arcene, mass spectra",
    "lymphoma": "lymphoma, gene expression",
    "isolet": "Isolet, speech",
    "coil20": "COIL20, objects",
    "digits": "digits, pixels",
    "tall": "synthetic embeddings",
}
WORKLOADS = ["flowers102", "softmax-fast", "arcene", "lymphoma", "isolet", "coil20"]
RIVALS = ["scikit-learn", "Cyanure", "torch LBFGS"]


def rounded(value, figures):
    """`value` with so many significant figures, with an exponent below 1e-3."""
    mantissa, exponent = f"{value:.{figures - 1}e}".split("e")
    if int(exponent) < -3:
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.{max(0, figures - 1 - int(exponent))}f}"


def gap_of(value):
    """One figure. Below 1e-12 is the rounding of float64."""
    return "< 1e-12" if value < 1e-12 else rounded(value, 1)


def thousands(value):
    return f"{value:,}" if value >= 10_000 else str(value)


def name_of(problem):
    size = f"{thousands(problem['rows'])} x {thousands(problem['features'])}"
    return f"{DATA[problem['name']]}: {size}, {problem['classes']} classes"


def of(problem, library, label=None):
    """The fits of a library that ended."""
    fits = [fit for fit in problem["fits"] if fit["library"] == library and "failed" not in fit]
    return [fit for fit in fits if label is None or fit["label"] == label]


def default(problem, library):
    """The fit of flowreg or scikit-learn with its defaults, or None."""
    label = {"flowreg": "tol 1e-5", "scikit-learn": "lbfgs, float32"}[library]
    return next(iter(of(problem, library, label)), None)


def best(problem, library):
    """The quickest fit with a gap of at most 1e-6, or flowreg's if that is larger; else the one with the smallest gap."""
    fits = of(problem, library)
    enough = max(1e-6, default(problem, "flowreg")["gap"])
    close = [fit for fit in fits if fit["gap"] <= enough]
    if close:
        return min(close, key=lambda fit: fit["seconds"])
    return min(fits, key=lambda fit: fit["gap"]) if fits else None


def to_reach(problem, objective):
    """The quickest fit of flowreg with an objective at most as high, or None."""
    reached = [fit for fit in of(problem, "flowreg") if fit["objective"] <= objective]
    return min(reached, key=lambda fit: fit["seconds"], default=None)


def cell(fit):
    return f"{rounded(fit['seconds'], 3)} s, {gap_of(fit['gap'])}"


def best_cell(problem, library):
    """The best fit, or why the library's first fit failed."""
    fit = best(problem, library)
    return cell(fit) if fit else failure(problem, library)


def failure(problem, library, label=None):
    """Why a fit failed: the first of a library, or the one with this label."""
    fits = [fit for fit in problem["fits"] if fit["library"] == library and "failed" in fit]
    return next(fit["failed"] for fit in fits if label in (None, fit["label"]))


def workloads(record, problems):
    yield "| data | flowreg's objective | flowreg, default | scikit-learn, default | scikit-learn, best | Cyanure, best | torch, best |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for problem in [problems[name] for name in WORKLOADS if name in problems]:
        if problem["name"] == "softmax-fast":
            ours = of(problem, "flowreg SGD")[0]
            cells = [trajectory(problem, "flowreg SGD"), "", "", "", trajectory(problem, "torch SGD")]
        else:
            ours, theirs = default(problem, "flowreg"), default(problem, "scikit-learn")
            stopped = cell(theirs) if theirs else failure(problem, "scikit-learn", "lbfgs, float32")
            cells = [cell(ours), stopped, *[best_cell(problem, library) for library in RIVALS]]
        yield f"| {name_of(problem)} | {rounded(ours['objective'], 6)} | {' | '.join(cells)} |"


def trajectory(problem, library):
    """Seconds and last loss of SGD, or why it failed."""
    fits = of(problem, library)
    if not fits:
        return failure(problem, library)
    return f"{rounded(fits[0]['seconds'], 3)} s, loss {rounded(fits[0]['objective'], 4)}"


def commands(record, problems):
    yield "<!-- not run: needs the data that benches/compare/README.md names -->\n"
    yield "```sh"
    for ran in [record["commands"][name] for name in WORKLOADS if name in record["commands"]]:
        yield f"{ran['command']}  # objective {rounded(ran['objective'], 6)}"
    yield "```"


def sooner(record, problems):
    yield "| data | scikit-learn's default, s | flowreg to the same objective, s | flowreg's default, s |"
    yield "| --- | --- | --- | --- |"
    for problem in [problem for problem in problems.values() if problem["name"] != "softmax-fast"]:
        ours, theirs = default(problem, "flowreg"), default(problem, "scikit-learn")
        if theirs is None:
            cells = [failure(problem, "scikit-learn", "lbfgs, float32"), "", rounded(ours["seconds"], 3)]
        else:
            fits = [theirs, to_reach(problem, theirs["objective"]), ours]
            cells = [rounded(fit["seconds"], 3) if fit else "not reached" for fit in fits]
        yield f"| {name_of(problem)} | {' | '.join(cells)} |"


def fits(record, problems):
    yield "| data | library | fit | seconds | objective | gap |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for problem in problems.values():
        for fit in problem["fits"]:
            cells = [name_of(problem), fit["library"], fit["label"]]
            if "failed" in fit:
                cells += [fit["failed"], "", ""]
            else:
                cells += [rounded(fit["seconds"], 3), rounded(fit["objective"], 6)]
                cells += [gap_of(fit["gap"]) if "gap" in fit else ""]
            yield f"| {' | '.join(cells)} |"


def machine(record, problems):
    facts, versions = record["machine"], record["versions"]
    libraries = [f"{name} {versions[key]}" for key, name in LIBRARIES.items()]
    yield f"{facts['processor']} ({facts['kind']}), {facts['cores']} cores, {rounded(facts['memory_gib'], 3)} GiB;"
    yield f"{', '.join(libraries)}; {record['date']}"


LIBRARIES = {
    "flowreg": "flowreg",
    "scikit-learn": "scikit-learn",
    "cyanure": "Cyanure",
    "torch": "torch",
    "numpy": "NumPy",
    "Python": "Python",
}
PARTS = {"machine": machine, "workloads": workloads, "commands": commands, "sooner": sooner, "fits": fits}
TITLES = {
    "machine": "",
    "workloads": "## Six workloads: seconds and relative gap",
    "commands": "## The commands that repeat flowreg's column",
    "sooner": "## Seconds to the objective at which scikit-learn's default stops",
    "fits": "## Every fit",
}


def tables(path, record, problems):
    yield f"# {path.stem}\n"
    yield "Written by `benches/compare/report.py`; [README](../README.md) says what is measured and how.\n"
    for part, lines in PARTS.items():
        if TITLES[part]:
            yield TITLES[part] + "\n"
        yield f"<!-- record: benches/compare/record/{path.name} {part} -->\n"
        yield from lines(record, problems)
        yield "\n<!-- record end -->\n"


# The picture.

# Okabe and Ito's colours, which the colour-blind can tell apart, and lighter ones of them for dark pages.
INK = {"light": "#24292f", "dark": "#e6edf3"}
GRID = {"light": "#d0d7de", "dark": "#3d444d"}
COLOURS = {
    "flowreg": {"light": "#0072B2", "dark": "#56B4E9"},
    "scikit-learn": {"light": "#C04A00", "dark": "#E69F00"},
    "Cyanure": {"light": "#007D5A", "dark": "#2FC79A"},
    "torch LBFGS": {"light": "#A3518A", "dark": "#DE9BC6"},
}
# Height of a step between labels in points, and the factor by which the x axis is extended to make room for them.
LINE, ROOM = 20, 12
MARKERS = {"flowreg": "o", "scikit-learn": "s", "Cyanure": "^", "torch LBFGS": "D"}
PANELS = {"flowers102": "wide: Flowers102", "tall": "tall: synthetic embeddings"}


def line_of(problem, library):
    """Seconds and gap of a library's fits, of all its solvers, without those that a quicker fit beats."""
    line = []
    for point in sorted((fit["seconds"], max(fit["gap"], 1e-12)) for fit in of(problem, library)):
        if not line or point[1] < line[-1][1]:
            line.append(point)
    return line


def picture(problems, theme, path, source):
    """Write the picture; `source` is the SHA-256 of the record, which the SVG names as its description."""
    import matplotlib

    matplotlib.use("Agg")
    ink = INK[theme]
    matplotlib.rcParams.update(
        {
            # Text stays text, in the font of the page.
            "svg.fonttype": "none",
            "svg.hashsalt": "flowreg",
            "font.family": "sans-serif",
            "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
            "font.size": 15,
            "text.color": ink,
            "axes.labelcolor": ink,
            "axes.edgecolor": ink,
            "xtick.color": ink,
            "ytick.color": ink,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    import matplotlib.pyplot as plt

    labels, placed = {}, []
    panels = {name: title for name, title in PANELS.items() if name in problems}
    figure, axes = plt.subplots(1, len(panels), figsize=(8.6, 4.6), sharey=True, layout="constrained", squeeze=False)
    axes = axes[0]
    for ax, (name, title) in zip(axes, panels.items()):
        problem = problems[name]
        missing, labels[name] = [], []
        for library, colour in COLOURS.items():
            points = line_of(problem, library)
            shown = library.removesuffix(" LBFGS")
            if not points:
                missing.append(f"{shown}: {failure(problem, library)}")
                continue
            ax.loglog(*zip(*points), MARKERS[library] + "-", color=colour[theme], linewidth=2.5, markersize=7)
            labels[name].append((points[-1], shown, colour[theme]))
        if missing:
            ax.text(0.98, 0.5, "\n".join(missing), transform=ax.transAxes, ha="right", va="center", fontsize=13)
        size = f"{thousands(problem['rows'])} x {thousands(problem['features'])}, {problem['classes']} classes"
        ax.set_title(f"{title}\n{size}", fontsize=15)
        ax.set_xlabel("seconds")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.minorticks_off()
        ax.grid(color=GRID[theme], linewidth=0.8)
        low, high = ax.get_xlim()
        ax.set_xlim(low, high * ROOM)
    axes[0].set_ylabel("relative gap to the best lower bound")
    figure.draw_without_rendering()
    for ax, name in zip(axes, panels):
        marks = [tuple(at) for line in ax.lines for at in ax.transData.transform(line.get_xydata())]
        for point, shown, colour in labels[name]:
            label = ax.annotate(shown, point, (10, 0), textcoords="offset points", ha="left", va="center",
                                color=colour, fontsize=17, fontweight="bold")
            # Beside the last point of its line, or the nearest step above or below where it covers nothing.
            for shift in [0, 1, -1, 2, -2, 3, -3]:
                label.set_position((10, shift * LINE))
                box = label.get_window_extent()
                if not (box.count_contains(marks) or box.count_overlaps(placed)):
                    break
            placed.append(box)
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None, "Description": source})
    plt.close(figure)


def main():
    path = Path(sys.argv[1])
    text = path.read_bytes()
    record = json.loads(text)
    problems = {problem["name"]: problem for problem in record["problems"]}
    path.with_suffix(".md").write_text("\n".join(tables(path, record, problems)))
    for theme in INK:
        source = f"SHA-256 of {path.name}: {hashlib.sha256(text).hexdigest()}"
        picture(problems, theme, path.with_name(f"{path.stem}-{theme}.svg"), source)


if __name__ == "__main__":
    main()
