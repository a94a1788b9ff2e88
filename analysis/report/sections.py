"""The sections of a report. Each function takes runs and returns a `Section`, or None if they hold nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.figures import curves
from analysis.figures.gaps import gaps
from analysis.figures.heatmaps import heatmap
from analysis.figures.measures import (
    AUC,
    LABEL_MASS,
    LM_LOSS,
    LOSS_AMONG_LABELS,
    TEST_ACCURACY,
    TEST_LOSS,
    TRAIN_LOSS,
)
from analysis.methods.scores import VERSION as SCORES
from analysis.methods.scores import with_scores
from analysis.read.conditions import entry_labels
from analysis.read.in_run_gradients import in_run_cosines
from analysis.read.runs import LEARNED_ABOVE, LM_LOSS_STEPS, Run, label_tasks, measurements, task_names
from analysis.read.samples import samples
from analysis.read.store import kept_results, rows
from analysis.report import stored
from analysis.report.accumulation import accumulation_section
from analysis.report.behaviour import behaviour_section, score_table
from analysis.report.findings import comparison_table, sentences, steps_label, verdicts
from analysis.report.gradients import in_run_section
from analysis.report.memory import contamination_section
from analysis.report.page import Drawing, Section, Table, tables


def findings(runs: Sequence[Run]) -> Section:
    """The first section: at most five findings, and the verdict on each run and task."""
    shown = tables(verdicts(runs), comparison_table(runs))
    criteria = " and ".join(f"{above} for {kind.replace('_', ' ')}" for kind, above in LEARNED_ABOVE.items())
    notes = [
        "Learned: the lower end of the 95% Wilson interval of accuracy on test pairs whose mirror (TOK2, TOK1) was not "
        f"trained on is above {criteria}. Not above majority: no better than always answering the most frequent label. "
        "Mirrors only: the mirror of every test pair was trained on, so there is no verdict. Accuracy asks that the "
        "label is likelier than every other token; AUC compares the labels alone, so it can be high where accuracy is "
        "low. Not learned holds for this number of steps at this learning rate. Identical (audit): every row is what "
        "corpus, order and plan give.",
    ]
    return Section("Findings", findings=sentences(runs), tables=shown, notes=notes)


_UNMIRRORED = "unmirrored test pairs (neither the pair nor its mirror, TOK2 TOK1, is injected)"


def results(runs: Sequence[Run]) -> Section | None:
    """The heatmaps."""
    drawings = []
    for task in label_tasks(runs):
        if (figure := heatmap(runs, task)) is not None:
            caption = (
                f"{task}: accuracy on {_UNMIRRORED} at the last evaluation, over model size and frequency, with "
                "95% intervals. Framed: learned, the lower end of the interval is above the criterion. Bursts, "
                "phases and injections in a part of the run are not in this figure."
            )
            drawings.append(Drawing(f"heatmap-{task}", figure, caption, rows(score_table(runs), task=task)))
    return Section("Accuracy over size and frequency", drawings=drawings) if drawings else None


_CURVES = (
    ("accuracy", TEST_ACCURACY, f"accuracy on {_UNMIRRORED}, with 95% intervals"),
    ("auc", AUC, "AUC of the difference of the two labels' logits on unmirrored test pairs: 0.5 is chance"),
    ("loss-among-labels", LOSS_AMONG_LABELS, "loss of LABEL on the test half, among the task's labels alone"),
    ("label-mass", LABEL_MASS, "probability of the task's labels together on the test half"),
    ("test-loss", TEST_LOSS, "loss of LABEL on the test half, over the whole vocabulary"),
    ("injected-loss", TRAIN_LOSS, "loss of LABEL on injected instances, in the step that trains on them"),
)


def learning(runs: Sequence[Run]) -> Section | None:
    """Curves of every task over steps."""
    drawings = []
    for task in label_tasks(runs):
        for name, measure, what in _CURVES:
            if (figure := curves.curves(runs, task, measure)) is not None:
                mean = f" Mean of {curves.SMOOTHED_STEPS} batches." if measure.smoothed else ""
                dashed = " Dashed: what is possible without learning the task." if measure.baseline else ""
                data = measurements(runs, *measure.metrics(task))
                drawings.append(Drawing(f"{name}-{task}", figure, f"{task}: {what}.{mean}{dashed}", data))
    return Section("Learning curves", drawings=drawings) if drawings else None


def bursts(runs: Sequence[Run]) -> Section | None:
    """Accuracy and loss at equal long-run frequency and different gaps."""
    drawings = []
    for task in label_tasks(runs):
        if (figure := gaps(runs, task)) is not None:
            caption = f"{task}: runs of equal size, long-run frequency and text, injected at different intervals."
            drawings.append(Drawing(f"gaps-{task}", figure, caption, rows(score_table(runs), task=task)))
    return Section("Bursts at matched frequency", drawings=drawings) if drawings else None


def language_model(runs: Sequence[Run]) -> Section | None:
    """The loss on the host text."""
    names = task_names(runs)
    figure = curves.curves(runs, names[0], LM_LOSS) if names else None
    if figure is None:
        return None
    caption = f"Loss on all tokens that were not injected, mean of {curves.SMOOTHED_STEPS} batches."
    drawing = Drawing("lm-loss", figure, caption, measurements(runs, LM_LOSS.metric))
    return Section("Language modelling", drawings=[drawing])


def table(runs: Sequence[Run]) -> Section:
    """A table of every run and task."""
    cells = [_numbers(run, task) for run in runs for task in [task.name for task in run.tasks] or [None]]
    notes = [
        "Parameters are counted without the input embedding, as ai2-olmo counts. LM loss: on all tokens that were not "
        f"injected, in nats, mean of the last {LM_LOSS_STEPS} steps.",
    ]
    return Section("Runs", tables=[Table("Frequencies and losses", cells, ("run", "model", "task"))], notes=notes)


def plan(runs: Sequence[Run]) -> Section | None:
    """Which rows the plans inject."""
    cells = [_planned(run, entry, label) for run in runs for entry, label in entry_labels(run).items()]
    if not cells:
        return None
    text = [
        "The place of an instance is a function of the plan's seed, the step and the row. With one seed, the rows of a "
        "frequency are also rows of its whole multiples."
    ]
    plans = curves.different_plans(runs)
    figure = curves.plan_raster(plans)
    caption = f"Which rows of the first {curves.PLAN_STEPS} batches are injected, for each different plan."
    drawings = [] if figure is None else [Drawing("plan", figure, caption, curves.plan_rows(plans))]
    shown = [Table("Planned injections", cells, ("run", "task", "schedule", "draw"))]
    return Section("The plan", text, tables=shown, drawings=drawings)


def decoded(runs: Sequence[Run]) -> Section | None:
    """Rows of a batch as text."""
    shown = list(samples(runs))
    pairs = any(task.is_triples for run in runs for task in run.tasks)
    about = " (TOK1, TOK2, LABEL: drawn at random from the vocabulary, so they look like any others)" if pairs else ""
    text = [f"Rows that the model was given. Marked: the injected tokens{about}; ␣ is a space."]
    return Section("What the model reads", text, samples=shown) if shown else None


def behaviour(runs: Sequence[Run]) -> Section | None:
    """Loss over size and frequency, order of learning, and retention, including checkpoints that were scored later."""
    return behaviour_section([with_scores(run, kept_results([run], "scores", SCORES).tables) for run in runs])


def in_run_interference(runs: Sequence[Run]) -> Section | None:
    """Gradient cosines that runs measured while training."""
    return in_run_section(in_run_cosines(runs))


SECTIONS: tuple[Callable[[Sequence[Run]], Section | None], ...] = (
    findings,
    accumulation_section,
    results,
    learning,
    bursts,
    behaviour,
    stored.memorized,
    contamination_section,
    stored.features,
    language_model,
    in_run_interference,
    stored.interference,
    stored.patched,
    stored.aligned,
    table,
    plan,
    decoded,
)


def _numbers(run: Run, task: str | None) -> dict[str, str]:
    frequency = None if task is None else run.frequency(task)
    of_all = None if task is None else run.accuracy(task, "accuracy")
    return {
        "run": run.name,
        "model": run.size,
        "parameters": f"{run.parameters:,}",
        "steps": steps_label(run),
        "LM loss": "" if run.lm_loss is None else f"{run.lm_loss:.3f}",
        "task": task or "none",
        "per batch": "" if frequency is None else str(frequency.per_batch),
        "per sequence": "" if frequency is None else f"{float(frequency.per_sequence):.3g}",
        "per token": "" if frequency is None else f"{float(frequency.per_token):.3g}",
        "accuracy on all test pairs (95% CI)": "" if of_all is None else str(of_all),
    }


def _planned(run: Run, entry: str, label: str) -> dict[str, str]:
    described = run.plan["injections"][entry]
    between = described["steps_between_observations"]
    about = "" if described["instances_are"] == "exact" else "about "
    sighting = described["mean_steps_between_sightings_of_one_instance"]
    return {
        "run": run.name,
        "task": entry,
        "schedule": label,
        "draw": described["draw"],
        "instances in the run": f"{about}{described['instances']:,.0f}",
        "steps between observations": "" if between is None else f"{between['mean']:.4g}",
        "steps between sightings of one instance": "" if sighting is None else f"{sighting:,.4g}",
        "train / test instances": f"{described['train_instances']:,} / {described['test_instances']:,}",
        "injected share of tokens": f"{run.plan['injected_share_of_tokens']:.3%}",
    }
