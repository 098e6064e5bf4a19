import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from modmeta.runtime.metrics import MetricWriter, as_json_scalar, read_metrics


def write_steps(path, steps, **settings):
    with MetricWriter(path, **settings) as writer:
        for step in steps:
            writer.write(step, {"loss": jnp.float32(1.0) / (step + 1)})
            writer.write(step, {"evaluation": step})


def test_round_trip(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(path) as writer:
        writer.write(
            np.int64(3),
            {
                "python": 1.5,
                "numpy": np.float32(0.25),
                "jax": jnp.asarray(2, jnp.int32),
                "half": jnp.asarray(0.5, jnp.bfloat16),
                "flag": np.True_,
                "inf": -math.inf,
                "nan": jnp.nan,
            },
        )
    (record,) = read_metrics(path)
    assert math.isnan(record.pop("nan"))
    assert record == {
        "step": 3,
        "python": 1.5,
        "numpy": 0.25,
        "jax": 2,
        "half": 0.5,
        "flag": True,
        "inf": -math.inf,
    }
    assert isinstance(record["jax"], int)


def test_lines_are_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(path) as writer:
        writer.write(0, {"loss": math.nan})

    def reject(constant):
        raise AssertionError(constant)

    json.loads(path.read_text(), parse_constant=reject)


def test_records_are_readable_before_close(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path)
    writer.write(1, {"loss": 2.0})
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    writer.close()
    writer.close()
    writer.flush()
    with pytest.raises(ValueError, match="closed"):
        writer.write(2, {"loss": 1.0})


@pytest.mark.parametrize("cut", [0, 1, 9])
def test_resumed_log_equals_uninterrupted_log(tmp_path, cut):
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    write_steps(whole, range(10))
    write_steps(resumed, range(7))
    if cut:
        resumed.write_bytes(resumed.read_bytes()[:-cut])
    write_steps(resumed, range(5, 10), resume_step=4)
    assert resumed.read_bytes() == whole.read_bytes()


def test_resume_drops_a_cut_short_line_of_a_kept_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(3))
    path.write_bytes(path.read_bytes()[:-4])
    write_steps(path, [], resume_step=2)
    assert read_metrics(path)[-1] == {"step": 2, "loss": pytest.approx(1 / 3)}
    assert path.read_bytes().endswith(b"}\n")


def test_resume_without_a_step_or_a_file_starts_an_empty_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(2), resume_step=5)
    assert len(read_metrics(path)) == 4
    write_steps(path, [0], resume_step=None)
    assert len(read_metrics(path)) == 2


def test_steps_must_not_decrease(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(3))
    with MetricWriter(path, resume_step=1) as writer:
        with pytest.raises(ValueError, match="step: found 0 after 1"):
            writer.write(0, {})


def test_read_tolerates_only_a_cut_short_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    for damaged in ('{"step": 1, "lo\n', "[1]\n", '{"loss": 1.0}\n'):
        path.write_text(damaged + '{"step": 2}\n')
        with pytest.raises(
            ValueError, match="jsonl:1: found another line, expected a metric"
        ):
            read_metrics(path)
        with pytest.raises(ValueError, match="metrics.jsonl:1"):
            MetricWriter(path, resume_step=3)
        assert path.read_text().endswith('{"step": 2}\n')


@pytest.mark.parametrize(
    "metrics, error, message",
    [
        ({"loss": jnp.ones(2)}, ValueError, r"'loss'.*shape \(2,\)"),
        ({"loss": "low"}, TypeError, "'loss'.*real number"),
        ({"loss": None}, TypeError, "'loss'.*real number"),
        ({"loss": 1j}, TypeError, "'loss'.*real number"),
        ({"step": 1}, ValueError, "'step'"),
    ],
)
def test_only_scalars_are_taken(tmp_path, metrics, error, message):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(path) as writer:
        with pytest.raises(error, match=message):
            writer.write(0, metrics)
    assert path.read_bytes() == b""


def test_as_json_scalar_spells_out_what_json_lacks():
    assert [as_json_scalar(x) for x in (math.inf, -math.inf, math.nan)] == [
        "inf",
        "-inf",
        "nan",
    ]


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    directory = tmp_path / "events"
    write_steps(tmp_path / "a.jsonl", range(3), tensorboard_dir=directory)
    (events,) = directory.iterdir()
    assert b"loss" in events.read_bytes()
    write_steps(tmp_path / "a.jsonl", [2], tensorboard_dir=directory, resume_step=1)
    assert len(list(directory.iterdir())) == 2


def test_missing_tensorboard_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"modmeta\[tensorboard\]"):
        MetricWriter(tmp_path / "a.jsonl", tensorboard_dir=tmp_path)
    assert not (tmp_path / "a.jsonl").exists()
