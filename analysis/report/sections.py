"""The sections of a report: each a function from runs to a `Section`, or None where they hold nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.figures import curves
from analysis.figures.gaps import gaps
from analysis.figures.heatmaps import heatmap
from analysis.figures.measures import LM_LOSS, TEST_ACCURACY, TEST_LOSS, TRAIN_LOSS
from analysis.methods.scores import VERSION as SCORES
from analysis.methods.scores import with_scores
from analysis.read.runs import LEARNED_ABOVE, LM_LOSS_STEPS, Run, task_names
from analysis.read.samples import samples
from analysis.read.store import kept_results
from analysis.report import stored
from analysis.report.behaviour import behaviour_section
from analysis.report.findings import sentences
from analysis.report.page import Drawing, Section, Table


def findings(runs: Sequence[Run]) -> Section:
    """What was seen, in sentences computed from the runs."""
    return Section("What was seen", findings=sentences(runs))


_UNMIRRORED = "unmirrored test pairs (neither the pair nor its mirror, TOK2 TOK1, is injected)"


def results(runs: Sequence[Run]) -> Section | None:
    """The heatmaps."""
    drawings = []
    for task in task_names(runs):
        if (figure := heatmap(runs, task)) is not None:
            caption = (
                f"{task}: accuracy on {_UNMIRRORED} at the last evaluation, over model size and frequency, with "
                "95% intervals. Framed: learned, the lower end of the interval is above the criterion. Bursts are "
                "not in this figure."
            )
            drawings.append(Drawing(f"heatmap-{task}", figure, caption))
    return Section("Accuracy over size and frequency", drawings=drawings) if drawings else None


_CURVES = (
    ("accuracy", TEST_ACCURACY, f"accuracy on {_UNMIRRORED}, with 95% intervals"),
    ("test-loss", TEST_LOSS, "loss of LABEL on the test half, over the whole vocabulary"),
    (
        "train-loss",
        TRAIN_LOSS,
        "loss of LABEL on injected instances, in the step that trains on them",
    ),
)


def learning(runs: Sequence[Run]) -> Section | None:
    """The curves of every task."""
    drawings = []
    for task in task_names(runs):
        for name, measure, what in _CURVES:
            if (figure := curves.curves(runs, task, measure)) is not None:
                mean = f" Mean of {curves.SMOOTHED_STEPS} batches." if measure.smoothed else ""
                caption = f"{task}: {what}.{mean} Dashed: what can be had without learning the task."
                drawings.append(Drawing(f"{name}-{task}", figure, caption))
    return Section("Learning curves", drawings=drawings) if drawings else None


def bursts(runs: Sequence[Run]) -> Section | None:
    """Equal long-run frequency, different gaps."""
    drawings = []
    for task in task_names(runs):
        if (figure := gaps(runs, task)) is not None:
            caption = f"{task}: runs of one size and one long-run frequency, injected at different intervals."
            drawings.append(Drawing(f"gaps-{task}", figure, caption))
    return Section("Bursts at matched frequency", drawings=drawings) if drawings else None


def language_model(runs: Sequence[Run]) -> Section | None:
    """The loss on the text the instances are injected into."""
    names = task_names(runs)
    figure = curves.curves(runs, names[0], LM_LOSS) if names else None
    if figure is None:
        return None
    caption = f"Loss on all tokens that were not injected, mean of {curves.SMOOTHED_STEPS} batches."
    return Section("Language modelling", drawings=[Drawing("lm-loss", figure, caption)])


def table(runs: Sequence[Run]) -> Section:
    """Every run and task in numbers."""
    rows = [_numbers(run, task) for run in runs for task in [task.name for task in run.tasks] or [None]]
    criteria = " and ".join(f"{above} for {kind.replace('_', ' ')}" for kind, above in LEARNED_ABOVE.items())
    notes = [
        "Parameters are counted without the input embedding, as ai2-olmo counts. The LM loss is on all tokens that "
        f"were not injected, in nats, mean of the last {LM_LOSS_STEPS} steps. Learned means that the lower end of "
        f"the 95% Wilson interval of accuracy on unmirrored test pairs lies above {criteria}; one operand of a "
        "comparison alone gives 0.75. The audit recomputes every row from corpus, order and plan, and compares it with "
        "what the model was given.",
    ]
    words = ("run", "model", "task", "schedule", "learned", "audit")
    return Section("Runs", tables=[Table(rows, words)], notes=notes)


def plan(runs: Sequence[Run]) -> Section | None:
    """What was injected when."""
    rows = [_planned(run, task) for run in runs for task in run.plan["injections"]]
    if not rows:
        return None
    text = [
        "Where an instance goes is a function of the plan's seed, the step and the row. At one seed, the rows of a "
        "frequency are among the rows of its whole multiples."
    ]
    figure = curves.plan_raster(runs)
    caption = f"Which rows of the first {curves.PLAN_STEPS} batches are injected, for each different plan."
    tables = [Table(rows, ("run", "task", "schedule", "draw"))]
    return Section(
        "The plan", text, tables=tables, drawings=[] if figure is None else [Drawing("plan", figure, caption)]
    )


def decoded(runs: Sequence[Run]) -> Section | None:
    """Rows as the model was given them."""
    found = list(samples(runs))
    text = [
        "Rows as the model was given them. Marked: the instance (TOK1, TOK2, LABEL) and the end-of-document token "
        "that replace the first four tokens. A task's tokens are drawn at random from the vocabulary, so they look "
        "like any others; ␣ is a space."
    ]
    return Section("What the model reads", text, samples=found) if found else None


def behaviour(runs: Sequence[Run]) -> Section | None:
    """Loss over size and frequency, order of learning, retention; also of checkpoints scored afterwards."""
    return behaviour_section([with_scores(run, kept_results([run], "scores", SCORES).tables) for run in runs])


SECTIONS: tuple[Callable[[Sequence[Run]], Section | None], ...] = (
    findings,
    results,
    learning,
    bursts,
    behaviour,
    stored.features,
    language_model,
    stored.interference,
    stored.patched,
    stored.aligned,
    table,
    plan,
    decoded,
)


def _numbers(run: Run, task: str | None) -> dict[str, str]:
    frequency = None if task is None else run.frequency(task)
    accuracy, of_all, learned = None, None, None
    if task is not None:
        accuracy, of_all, learned = run.accuracy(task), run.accuracy(task, "accuracy"), run.learned(task)
    return {
        "run": run.name,
        "model": run.size,
        "parameters": f"{run.parameters:,}",
        "task": task or "none",
        "schedule": "" if task is None else run.schedule_label(task),
        "per batch": "" if frequency is None else str(frequency.per_batch),
        "per sequence": "" if frequency is None else f"{float(frequency.per_sequence):.3g}",
        "per token": "" if frequency is None else f"{float(frequency.per_token):.3g}",
        "steps": f"{run.steps_done:,}" + ("" if run.finished else f" of {run.experiment.steps:,}"),
        "LM loss": "" if run.lm_loss is None else f"{run.lm_loss:.3f}",
        "accuracy on unmirrored test pairs (95% interval)": "" if accuracy is None else str(accuracy),
        "on all test pairs": "" if of_all is None else str(of_all),
        "learned": "" if learned is None else "yes" if learned else "no",
        "audit": _verdict(run),
    }


def _verdict(run: Run) -> str:
    if run.audit is None:
        return "not audited"
    verdict, begun = run.audit["verdict"], run.plan.get("first_step", 0)  # a branch's is not 0
    since = begun + run.audit["steps"] < run.steps_done
    return f"{verdict}, before it was trained further" if since else verdict


def _planned(run: Run, task: str) -> dict[str, str]:
    described, gap = run.plan["injections"][task], run.gap(task)
    about = "" if described["instances_are"] == "exact" else "about "
    sighting = described["mean_steps_between_sightings_of_one_instance"]
    return {
        "run": run.name,
        "task": task,
        "schedule": run.schedule_label(task),
        "draw": described["draw"],
        "instances in the run": f"{about}{described['instances']:,.0f}",
        "steps between observations": "" if gap is None else f"{gap:.4g}",
        "steps between sightings of one instance": "" if sighting is None else f"{sighting:,.4g}",
        "train / test instances": f"{described['train_instances']:,} / {described['test_instances']:,}",
        "injected share of tokens": f"{run.plan['injected_share_of_tokens']:.3%}",
    }
