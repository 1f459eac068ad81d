"""The parts of a shipped file as the report tells them: they add up to the file, and nothing is told twice."""

from flexor_search.reporting import economies, file_parts, layer_sizes
from flexor_search.reporting.shipped import ALL_ELSE, WEIGHTS

from .made_run import PACKING, entry, step, summary


def test_parts_add_up_to_the_file():
    told = entry()
    parts = file_parts(summary(told)).set_index("part")["file_bytes"]
    layers = told["file"]["layers"]
    assert parts.sum() == told["file_bytes"]
    assert parts["encrypted weights"] == sum(layer["payload_bytes"] for layer in layers)
    assert parts["scales"] == sum(layer["scale_bytes"] for layer in layers)
    assert parts["header"] == told["file"]["container_bytes"] + sum(layer["header_bytes"] for layer in layers)
    assert parts["other tensors"] == 8


def test_a_part_that_is_empty_is_left_out():
    told = entry()
    told["file"] |= {"exact_bytes": 0, "container_bytes": told["file"]["container_bytes"] + 8}
    assert "other tensors" not in set(file_parts(summary(told))["part"])


def test_layer_sizes_are_the_accounts():
    told = entry()
    sizes = layer_sizes(summary(told)).set_index("layer")
    for layer in told["file"]["layers"]:
        assert sizes.loc[layer["name"], "weights"] == layer["n_weights"]
        assert sizes.loc[layer["name"], "layer_bytes"] == layer["total_bytes"]


def test_every_budget_has_its_own_rows():
    both = summary(entry(), entry("0.3bpw"))
    for table in (file_parts(both), layer_sizes(both), economies(both)):
        assert list(dict.fromkeys(table["budget"])) == ["0.7bpw", "0.3bpw"]
        assert len(table) == 2 * (table["budget"] == "0.7bpw").sum()


def test_economies_are_those_that_were_measured():
    off = step("rounding", "scales and kept tensors in float16", 567, 0.2, 1e-2)
    table = economies(summary(entry(), entry("0.3bpw", packing=PACKING | {"steps": [off]})))
    assert table["within"].tolist() == [True, True, False]
    assert table["saved_bytes"].tolist() == [1234, 567, 567]


def test_what_is_not_known_gives_no_rows():
    for body in (None, summary(entry(file=None, packing=None))):
        assert layer_sizes(body).empty
        assert economies(body).empty
    assert file_parts(None).empty


def test_of_a_run_without_an_account_two_parts_are_told():
    told = entry(file=None)
    parts = file_parts(summary(told)).set_index("part")["file_bytes"]
    assert parts.to_dict() == {
        WEIGHTS: told["payload_bits"] // 8,
        ALL_ELSE: told["file_bytes"] - told["payload_bits"] // 8,
    }
