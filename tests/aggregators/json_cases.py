"""Random JSON schemas with values that satisfy them, for the laws of the answer's contract."""

from __future__ import annotations

from hypothesis import strategies as st

LEAVES = (
    ({"type": "integer", "minimum": 0}, st.integers(0, 9)),
    ({"type": "string", "maxLength": 5}, st.text(max_size=5)),
    ({"type": "string", "pattern": "^[a-c]+$"}, st.text("abc", min_size=1, max_size=4)),
    ({"type": "boolean"}, st.booleans()),
    ({"enum": ["red", 3, None]}, st.sampled_from(["red", 3, None])),
    ({"type": ["number", "null"]}, st.floats(-5, 5) | st.none()),
)


@st.composite
def fitting_pairs(draw, *, depth=3, as_object=False):
    """A schema and a value that satisfies it; with `as_object` an object's."""
    shape = (
        "object" if as_object else draw(st.sampled_from(["leaf", "object", "list", "either"] if depth else ["leaf"]))
    )
    if shape == "leaf":
        schema, values = draw(st.sampled_from(LEAVES))
        return schema, draw(values)
    if shape == "object":
        fields = {
            name: draw(fitting_pairs(depth=depth - 1)) for name in draw(st.sets(st.sampled_from("abc"), min_size=1))
        }
        schema = {
            "type": "object",
            "properties": {name: field for name, (field, _) in fields.items()},
            "required": sorted(fields),
            "additionalProperties": draw(st.booleans()),
        }
        return schema, {name: value for name, (_, value) in fields.items()}
    schema, value = draw(fitting_pairs(depth=depth - 1))
    if shape == "list":
        return {"type": "array", "items": schema, "maxItems": 3}, [value] * draw(st.integers(0, 3))
    other, _ = draw(fitting_pairs(depth=depth - 1))
    return {"anyOf": [other, schema]}, value
