"""The learning curve of a run as a small picture: ``curve.png`` beside the model card."""

import json
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

# Batches differ a lot, by the length of what is said in them.
_SMOOTHING = 15
_NAMES = {"text": "text", "phone": "phones of frames", "guide": "guided attention"}


def draw(log: Path, file: Path) -> None:
    """The three losses of ``log.jsonl``, smoothed by a running median, over windows seen."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(6, 3), dpi=100)
    axes = figure.subplots()
    seen = [record["all_samples"] / 1000 for record in records]
    for key, label in _NAMES.items():
        near = (records[max(0, i - _SMOOTHING) : i + 1] for i in range(len(records)))
        axes.plot(seen, [median(record[key] for record in part) for part in near], label=label)
    axes.set(xlabel="windows seen, thousands", ylabel="loss in nats", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})
