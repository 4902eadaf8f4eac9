"""A forest as XGBoost's model file, so that whoever has it needs nothing of ours.

The format is XGBoost's JSON (its documentation: "Introduction to Model IO"; the schema of 2.1, which later
releases read). Node numbers are breadth first, without the nodes that are not there. A split's condition is
``value < edge`` in float32; the cut behind the last edge, which sends all that are there to the left, has the
largest float32 as its condition.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from plasmid.computations.trees import Forest
    from plasmid.recipes.trees import TreesRecipe

VERSION = [2, 1, 0]
_NO_PARENT = 2**31 - 1
_LARGEST = float(np.finfo(np.float32).max)


def model_json(document: TreesRecipe, forest: Forest, *, objective: str, middle: float, half: float) -> bytes:
    """Return the model file of *forest*.

    Parameters
    ----------
    objective
        XGBoost's name of it.
    middle
        What the model says without any tree, as XGBoost's ``base_score``.
    half
        What a score of 1 is in the label's unit.
    """
    count, features = document.trees.count, len(document.cells)
    trees = [_tree(document, forest, tree, half) for tree in range(count)]
    learner = {
        "attributes": {},
        "feature_names": [cells.column for cells in document.cells],
        "feature_types": ["float"] * features,
        "gradient_booster": {
            "model": {
                "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(count)},
                "iteration_indptr": list(range(count + 1)),
                "tree_info": [0] * count,
                "trees": trees,
            },
            "name": "gbtree",
        },
        "learner_model_param": {
            "base_score": repr(middle),
            "boost_from_average": "0",
            "num_class": "0",
            "num_feature": str(features),
            "num_target": "1",
        },
        "objective": {"name": objective, "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    # Not RFC 8785, which writes 7.0 as 7: XGBoost's reader then finds an integer where it wants a number.
    whole = {"learner": learner, "version": VERSION}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _tree(document: TreesRecipe, forest: Forest, tree: int, half: float) -> dict[str, Any]:
    inner, max_rows = forest.feature.shape[1], document.data.max_rows
    order = [0]  # the nodes that are there, in XGBoost's order
    for node in order:
        if node < inner and forest.feature[tree, node]:
            order += [2 * node + 1, 2 * node + 2]
    number = {node: place for place, node in enumerate(order)}
    table: dict[str, list[Any]] = {
        name: []
        for name in (
            "base_weights", "categories", "categories_nodes", "categories_segments", "categories_sizes",
            "default_left", "left_children", "loss_changes", "parents", "right_children", "split_conditions",
            "split_indices", "split_type", "sum_hessian",
        )
    }  # fmt: skip
    for node in order:
        splits = 2 * node + 1 in number
        weight = float(forest.weight[tree, node]) * half
        edges = document.cells[int(forest.feature[tree, node]) - 1].edges if splits else ()
        cut = int(forest.cut[tree, node]) if splits else 0
        condition = weight if not splits else edges[cut] if cut < len(edges) else _LARGEST
        table["base_weights"].append(weight)
        table["default_left"].append(int(splits and forest.missing_left[tree, node] > 0))
        table["left_children"].append(number[2 * node + 1] if splits else -1)
        table["right_children"].append(number[2 * node + 2] if splits else -1)
        table["loss_changes"].append(float(forest.gain[tree, node]) * max_rows * half**2 if splits else 0.0)
        table["parents"].append(number[(node - 1) // 2] if node else _NO_PARENT)
        table["split_conditions"].append(condition)
        table["split_indices"].append(int(forest.feature[tree, node]) - 1 if splits else 0)
        table["split_type"].append(0)
        table["sum_hessian"].append(float(forest.cover[tree, node]) * max_rows)
    return {
        **table,
        "id": tree,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(len(document.cells)),
            "num_nodes": str(len(order)),
            "size_leaf_vector": "1",
        },
    }
