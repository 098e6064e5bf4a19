"""One run: zoo, training of every editor and reader, scores, pictures."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments import common
from experiments.common.image_data import check_images, read_images
from experiments.common.zoos import open_zoo
from experiments.metanet_editing import contenders, report
from experiments.metanet_editing.config import CONFIGS, ExperimentConfig, smoke
from experiments.metanet_editing.networks import read_networks
from experiments.metanet_editing.trainer import Trainer
from modmeta.metanet import zoo
from modmeta.metanet.learning import editing
from modmeta.metanet.zoo import image_fields
from modmeta.metanet.zoo.images import ImageError


def tone_curve(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Slope and offset that bring images `[n, Q, C]` nearest to their targets.

    The last layer of a network can do that without a look at its image: an editor has
    to do better.
    """
    return np.polyfit(images.ravel(), targets.ravel(), 1)


def edit_all(trainer: Trainer) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains every editor; scores, and rendered test images by name."""
    config, networks = trainer.config, trainer.networks
    rows = networks.splits["test"]
    objective = editing.OutputError(networks.render)
    render = jax.jit(lambda rows: editing.mean_outputs(networks.render, rows))
    truth = networks.targets[rows]
    before = np.asarray(render(networks.rows[rows][:, None]))
    known = networks.splits["train"]
    tone = tone_curve(
        np.asarray(render(networks.rows[known][:, None])), networks.targets[known]
    )
    identity = np.mean((before - truth) ** 2)
    found: dict[str, Any] = {
        "identity_mse": identity,
        "tone_mse": np.mean((np.polyval(tone, before) - truth) ** 2),
        "mean_mse": np.mean((networks.targets[known].mean(axis=0) - truth) ** 2),
    }
    pictures = {"identity": before}

    def score(name, contender, fitted, **details) -> dict[str, Any]:
        after = np.asarray(render(trainer.outputs(contender, fitted, rows)))
        errors = np.mean((after - truth) ** 2, axis=(1, 2))
        pictures[name] = after
        return {
            "mse": errors.mean(),
            "share": errors.mean() / found["identity_mse"],
            "learning_rate": fitted.learning_rate,
            "num_parameters": contender.num_parameters,
            "seconds": fitted.seconds,
            **details,
        }

    scores: dict[str, Any] = {}
    rates = {}
    first, some = config.editors[0], config.num_heads[0]
    for name in config.editors:
        contender = contenders.make_editor(config, networks, name, some)
        given = (contender, objective, networks.targets, config.training)
        rates[name] = trainer.choose_rate(f"edit_{name}", *given)
        label = f"{name}_{some}"
        fitted = trainer.fit(f"edit_{label}", *given, rates[name])
        scores[label] = score(label, contender, fitted, heads=some)
        if name == first:
            for count in config.counts:
                place = f"edit_{label}_of_{count}"
                fitted = trainer.fit(place, *given, rates[name], count)
                scores[f"{label}_of_{count}"] = score(
                    f"{label}_of_{count}", contender, fitted, heads=some, count=count
                )
    for num_heads in config.num_heads[1:]:
        contender = contenders.make_editor(config, networks, first, num_heads)
        given = (contender, objective, networks.targets, config.training)
        label = f"{first}_{num_heads}"
        fitted = trainer.fit(f"edit_{label}", *given, rates[first])
        scores[label] = score(label, contender, fitted, heads=num_heads)
    return {**found, "editors": scores}, pictures


def read_all(trainer: Trainer) -> dict[str, Any]:
    """Trains every reader with every number of networks; test accuracies."""
    config, networks = trainer.config, trainer.networks
    rows = networks.splits["test"]
    objective = optax.softmax_cross_entropy_with_integer_labels
    found = {}
    for name in config.readers:
        contender = contenders.make_reader(config, networks, name)
        given = (contender, objective, networks.labels, config.reading)
        rate = trainer.choose_rate(f"read_{name}", *given)
        accuracies = {}
        seconds = 0.0
        for count in (*config.counts, config.zoo.num_train):
            fitted = trainer.fit(f"read_{name}_{count}", *given, rate, count)
            outputs = trainer.outputs(contender, fitted, rows)
            is_right = outputs.argmax(axis=1) == networks.labels[rows]
            accuracies[count] = is_right.mean()
            seconds += fitted.seconds
        found[name] = {
            "accuracy": accuracies,
            "learning_rate": rate,
            "num_parameters": contender.num_parameters,
            "seconds": seconds,
        }
    return {"readers": found}


def compute(
    config: ExperimentConfig,
    run: common.Run,
    *,
    zoo_directory: str | Path | None = None,
) -> dict[str, Any] | None:
    """Zoo, training, scores, outputs; the summary, or None if stopped.

    Args:
      config: The configuration.
      run: The run.
      zoo_directory: Where the zoo is or shall be; `zoo` in the directory of the run by
        default.

    Raises:
      ImageError: If the images are not what they should be.
      ZooError: If the zoo is damaged or of another configuration.
    """
    image_set = read_images(config.images)
    image_fields.choose_images(config.zoo, image_set)
    directory = open_zoo(
        run,
        zoo_directory,
        image_fields.zoo_config(config.zoo, image_set),
        functools.partial(
            image_fields.generate_field_zoo, config=config.zoo, image_set=image_set
        ),
    )
    if directory is None:
        return None
    zoo_seconds = run.seconds
    networks = read_networks(directory, config, image_set)
    trainer = Trainer(config, networks, run)
    psnr = -10.0 * np.log10(np.maximum(networks.fit_mse, 1e-12))
    summary: dict[str, Any] = {
        "psnr_median": np.median(psnr),
        "psnr_lowest_tenth": np.quantile(psnr, 0.1),
        "image_shape": networks.shape,
        "num_train_images": config.zoo.num_train,
        "num_weights": networks.topology.num_parameters,
        **{f"num_{name}": len(rows) for name, rows in networks.splits.items()},
        "zoo_seconds": zoo_seconds,
    }
    pictures: dict[str, np.ndarray] = {}
    try:
        if config.editors:
            found, pictures = edit_all(trainer)
            summary |= found
        if config.readers:
            summary |= read_all(trainer)
    except common.Stopped:
        return None
    report.write_outputs(run.workdir, networks, pictures, summary)
    return summary


EXPERIMENT = common.Experiment(
    presets=CONFIGS,
    smoke=smoke,
    compute=compute,
    format_summary=report.format_summary,
    files="Edited images, figures",
    shown=("loss", "valid_loss"),
    check=check_images,
    refusals=(ImageError, zoo.ZooError),
)
