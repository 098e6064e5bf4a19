import csv
import sys

import numpy as np
import pytest

from modmeta.relational.evaluation import export


@pytest.fixture(name="arrays")
def two_systems():
    """A system of three nodes, and one of two nodes and a padded one."""
    edges = np.full((2, 3, 3), -1)
    edges[0] = [[-1, 1, 0], [2, -1, 0], [1, 1, -1]]
    edges[1, :2, :2] = [[-1, 2], [0, -1]]
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), size=edges.shape).astype(np.float32)
    probabilities[edges < 0] = np.nan
    return edges, probabilities


def edges_of(graph):
    return {(s, r): data["relation"] for s, r, data in graph.edges(data=True)}


def test_networkx_edges_point_from_sender_to_receiver():
    edges = np.full((1, 3, 3), -1)
    receiver, sender = 0, 2
    edges[0, receiver, sender] = 1
    (graph,) = export.edges_to_networkx(edges)
    assert graph.is_directed()
    assert list(graph.edges(data=True)) == [(sender, receiver, {"relation": 1})]
    assert list(graph.predecessors(receiver)) == [sender]


def test_networkx_round_trip(arrays):
    edges, probabilities = arrays
    graphs = export.edges_to_networkx(edges, probabilities)
    assert [list(graph) for graph in graphs] == [[0, 1, 2], [0, 1]]
    back = np.full_like(edges, -1)
    for system, graph in enumerate(graphs):
        for sender, receiver, data in graph.edges(data=True):
            relation = data["relation"]
            back[system, receiver, sender] = relation
            assert (
                data["probability"] == probabilities[system, receiver, sender, relation]
            )
    np.testing.assert_array_equal(back, edges)


def test_networkx_single_system(arrays):
    edges, probabilities = arrays
    mask = np.array([True, True, False])
    graph = export.edges_to_networkx(edges[1], probabilities[1], node_mask=mask)
    assert list(graph) == [0, 1]
    assert edges_of(graph) == {(1, 0): 2, (0, 1): 0}


def test_networkx_names_and_skipped_relation(arrays):
    edges, _ = arrays
    first, second = export.edges_to_networkx(
        edges,
        node_names=["sun", "earth", "moon"],
        relation_names=["none", "weak", "strong"],
        skip_relation=0,
    )
    assert edges_of(first) == {
        ("earth", "sun"): "weak",
        ("sun", "earth"): "strong",
        ("sun", "moon"): "weak",
        ("earth", "moon"): "weak",
    }
    # Nodes stay when all their edges are skipped.
    assert list(second) == ["sun", "earth"]
    assert edges_of(second) == {("earth", "sun"): "strong"}


def test_networkx_graphs_fit_graph_file_formats(arrays, tmp_path):
    networkx = pytest.importorskip("networkx")
    graph = export.edges_to_networkx(*arrays, relation_names=["a", "b", "c"])[0]
    networkx.write_gml(graph, tmp_path / "graph.gml", stringizer=str)
    back = networkx.read_gml(tmp_path / "graph.gml", destringizer=int)
    assert edges_of(back) == edges_of(graph)


def test_missing_networkx_says_what_to_install(arrays, monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match=r"pip install 'modmeta\[export\]'"):
        export.edges_to_networkx(arrays[0])


def test_csv_round_trip(arrays, tmp_path):
    edges, probabilities = arrays
    path = tmp_path / "edges.csv"
    export.write_edges_csv(path, edges, probabilities)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("system", "sender", "receiver", "relation"),
        *("probability_0", "probability_1", "probability_2"),
    ]
    places = [
        tuple(int(row[key]) for key in ("system", "sender", "receiver")) for row in rows
    ]
    assert places == sorted(places)
    back, back_probabilities = (
        np.full_like(edges, -1),
        np.full_like(probabilities, np.nan),
    )
    for (system, sender, receiver), row in zip(places, rows, strict=True):
        back[system, receiver, sender] = int(row["relation"])
        back_probabilities[system, receiver, sender] = [
            np.float32(row[f"probability_{k}"]) for k in range(3)
        ]
    np.testing.assert_array_equal(back, edges)
    np.testing.assert_array_equal(back_probabilities, probabilities)


def test_csv_text(tmp_path):
    edges = np.array([[[-1, 1], [0, -1]]])
    path = tmp_path / "edges.csv"
    export.write_edges_csv(
        path, edges, node_names=["a,b", "Δ"], relation_names=["none", "spring"]
    )
    assert path.read_bytes().decode() == (
        'system,sender,receiver,relation\n0,"a,b",Δ,none\n0,Δ,"a,b",spring\n'
    )


def test_csv_keeps_the_old_file_when_writing_fails(tmp_path):
    class Unprintable:
        def __str__(self):
            raise RuntimeError("no text")

    path = tmp_path / "edges.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="no text"):
        export.write_edges_csv(
            path, [[[-1, 0], [0, -1]]], node_names=["a", Unprintable()]
        )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_npz_round_trip(arrays, tmp_path):
    edges, probabilities = arrays
    path = tmp_path / "edges.without_suffix"
    export.save_edges_npz(path, edges, probabilities, labels=edges[:, ::-1, ::-1])
    with np.load(path, allow_pickle=False) as file:
        loaded = dict(file)
    assert loaded.keys() == {"edges", "probabilities", "node_mask", "labels"}
    np.testing.assert_array_equal(loaded["edges"], edges)
    np.testing.assert_array_equal(loaded["probabilities"], probabilities)
    np.testing.assert_array_equal(loaded["labels"], edges[:, ::-1, ::-1])
    assert loaded["node_mask"].tolist() == [[True] * 3, [True, True, False]]
    assert loaded["edges"].dtype == loaded["labels"].dtype == np.int32
    assert loaded["probabilities"].dtype == np.float32


def test_npz_without_labels_and_probabilities(arrays, tmp_path):
    mask = np.array([[True, True, True], [True, True, True]])
    export.save_edges_npz(tmp_path / "e.npz", arrays[0], node_mask=mask)
    with np.load(tmp_path / "e.npz") as file:
        assert set(file) == {"edges", "node_mask"}
        np.testing.assert_array_equal(file["node_mask"], mask)


def test_real_nodes():
    edges = np.full((4, 4, 4), -1)
    edges[1, 0, 1] = 0
    edges[2, 3, 2] = 1
    edges[3, 0, 3] = 0
    assert export.real_nodes(edges).sum(axis=1).tolist() == [1, 2, 4, 4]
    assert export.real_nodes(edges)[1].tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": np.ones((2, 3, 3, 2), np.float32)}, "from 0 to 1"),
        ({"probabilities": np.ones((1, 3, 3, 3), np.float32)}, "probabilities"),
        ({"probabilities": np.full((2, 3, 3, 3), np.nan)}, r"NaN at \[0, 0, 1\]"),
        ({"node_names": ["a", "b"]}, "node_names: found 2, expected 3"),
        ({"node_names": ["a", "b", "a"]}, "node_names: found .*expected distinct"),
        ({"relation_names": ["a", "b"]}, "relation_names: found 2, expected 3"),
        (
            {"relation_names": ["a", "b", "a"]},
            "relation_names: found .*expected distinct",
        ),
        ({"node_mask": np.ones((2, 2), bool)}, r"node_mask: found shape \[2, 2\]"),
        (
            {"node_mask": np.array([[True, True, False]] * 2)},
            r"found a relation at index \[0, 0, 2\], expected -1 at padded",
        ),
    ],
)
def test_errors_say_what_is_wrong(arrays, change, message):
    with pytest.raises(ValueError, match=message):
        export.edges_to_networkx(arrays[0], **change)


def test_labels_of_another_shape_are_refused(arrays, tmp_path):
    with pytest.raises(ValueError, match="labels: found shape"):
        export.save_edges_npz(tmp_path / "e.npz", arrays[0], labels=arrays[0][:1])
    assert not list(tmp_path.iterdir())
