"""Measurements: one to vary, and any that hypothesis can think of."""

from dataclasses import replace

from hypothesis import strategies as st

from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED, Measurement

PLAIN = Measurement(
    number=0,
    phase=SEARCH,
    kind="uniform",
    digest="b797edd91918c817",
    label="- 14/20 -",
    allocation='{"kept_dtype":"float16","layers":{"conv":{"family":"kept"}}}',
    budget="0.7bpw",
    bits_per_weight=0.7,
    nominal_bits_per_weight=0.7,
    payload_bits=17136,
    file_bytes=4578,
    seed=0,
    epochs=4,
    images=1097,
    state=DONE,
    val_accuracy=0.76,
    val_loss=1.284214128766741,
    rungs="1:0.314286 2:0.500000",
    train_seconds=0.419,
    reason="",
)
QUESTION = {"budget": "0.7bpw", "trials": 6, "recipe_fields": {"halve_at": [0.5, 0.75]}}
FINGERPRINT = {"data": "a701748bcff3", "seed": "0", "code": "0.1.0"}


def measured(number, **changes):
    """One more measurement of the run: another number, and so another allocation unless told."""
    return replace(PLAIN, number=number, **({"digest": f"{number:016x}"} | changes))


@st.composite
def measurements(draw):
    text = st.text() | st.sampled_from(["", 'a "quoted", one', "two\nlines", "\r\n", "größe 🙂", ",", '"'])
    count, real = st.integers(0, 2**40), st.floats()
    rungs = draw(st.dictionaries(st.integers(1, 300), st.floats(0, 1), max_size=4))
    return Measurement(
        number=draw(st.integers(0, 10**6)),
        phase=draw(st.sampled_from([SEARCH, CONFIRM])),
        kind=draw(text),
        digest=draw(st.text("0123456789abcdef", min_size=16, max_size=16)),
        label=draw(text),
        allocation=draw(text),
        budget=draw(text),
        bits_per_weight=draw(real),
        nominal_bits_per_weight=draw(real),
        payload_bits=draw(count),
        file_bytes=draw(count),
        seed=draw(count),
        epochs=draw(count),
        images=draw(count),
        state=draw(st.sampled_from([DONE, STOPPED, FAILED])),
        val_accuracy=draw(real),
        val_loss=draw(real),
        rungs=" ".join(f"{epoch}:{accuracy:.6f}" for epoch, accuracy in rungs.items()),
        train_seconds=draw(real),
        reason=draw(text),
        worker=draw(text),
    )
