"""What each of the packed file's economies saves, known before training: the file as it is, against it without one.

Each is counted alone, against the file with all the others in place, so the numbers need not add up to anything; they
say what one would pay for giving one up.
"""

from dataclasses import dataclass, replace

from flexor_search.codes import plane_bytes
from flexor_search.planning.allocation import Allocation
from flexor_search.planning.file_layout import FileLayout, code_bytes, container_bytes, file_layout, listed_bytes
from flexor_search.planning.model_shape import TensorShape

RECODING, CODE_TABLE, CONTAINER, FOLDING, ROUNDING = "recoding", "code table", "container", "folding", "rounding"


@dataclass(frozen=True)
class Saving:
    """One economy of the file.

    Attributes:
        name: one of the five above.
        what: the same in a sentence.
        saved_bytes: by how much the file would be larger without it.
        rounds: whether it rounds values. The others leave every weight, so every logit, as it is.
    """

    name: str
    what: str
    saved_bytes: int
    rounds: bool


def savings(allocation: Allocation, model_name: str = "") -> tuple[Saving, ...]:
    """Every economy of an allocation's packed file.

    Args:
        allocation: what is stored.
        model_name: as in `file_layout`.
    """
    layout = file_layout(allocation, model_name)

    def against(other_bytes: int) -> int:
        return other_bytes - layout.file_bytes

    return (
        Saving(
            RECODING,
            "codes stored at their rank over GF(2)",
            against(file_layout(allocation, model_name, recoded=False).file_bytes),
            rounds=False,
        ),
        Saving(
            CODE_TABLE,
            "taps as bits or lists, equal codes once",
            against(layout.file_bytes - layout.code_table_bytes + _listed_code_bytes(layout)),
            rounds=False,
        ),
        Saving(
            CONTAINER,
            "few concatenated tensors, one short table",
            against(layout.file_bytes - layout.container_bytes + _separate_container_bytes(allocation, layout)),
            rounds=False,
        ),
        Saving(
            FOLDING,
            "batch norms in scales and biases",
            against(file_layout(_unfolded(allocation), model_name).file_bytes),
            rounds=any(layer.folded_norm for layer in allocation.model.layers),
        ),
        Saving(
            ROUNDING,
            f"scales and kept tensors in {allocation.kept_dtype}",
            against(file_layout(replace(allocation, kept_dtype="float32"), model_name).file_bytes),
            rounds=allocation.kept_dtype != "float32",
        ),
    )


def _unfolded(allocation: Allocation) -> Allocation:
    """The same with every batch norm stored as it is."""
    model = allocation.model
    layers = tuple(replace(layer, folded_norm="") for layer in model.layers)
    return replace(allocation, model=replace(model, layers=layers, others=model.others + model.folded, folded=()))


def _listed_code_bytes(layout: FileLayout) -> int:
    """The codes if every plane listed its own taps."""
    return sum(listed_bytes(layout.codes[index]) for planes in layout.plane_codes.values() for index in planes)


def _separate_container_bytes(allocation: Allocation, layout: FileLayout) -> int:
    """The container if every plane, scale, code and kept tensor were a tensor of its own, named as in the model."""
    tensors = [replace(tensor, dtype=allocation.kept_dtype) for tensor in layout.kept] + list(layout.exact)
    for index, code in enumerate(layout.codes):
        tensors.append(TensorShape(f"codes.{index}", (code_bytes(code),), "uint8"))
    for layer in allocation.model.layers:
        codes = [layout.codes[index] for index in layout.plane_codes.get(layer.name, ())]
        for plane, code in enumerate(codes):
            stored = (code.n_in, plane_bytes(-(-layer.n_weights // code.n_out)))
            tensors.append(TensorShape(layer.tensor_name(f"payload.{plane}"), stored, "uint8"))
        if codes:
            scales = (len(codes), layer.out_channels)
            tensors.append(TensorShape(layer.tensor_name("scale"), scales, allocation.kept_dtype))
    return container_bytes(tensors, layout.metadata | {"kept": [], "exact": []})
