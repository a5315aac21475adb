"""The forms that compression leaves in a graph: each with its builder and its matcher.

A pass writes a form, or a model arrives with it; lowering recognises it. Nothing is annotated.

* ``affine``: integers behind ``quantize`` / ``dequantize`` with constant parameters;
* ``product``: an operator whose two operands stand so, which integer kernels compute;
* ``stored``: a constant in fewer bits: by channel, by group, as halves, by a codebook;
* ``rows``: activations quantized at run time, row by row;
* ``tensors``: the same by one scale for a tensor, and products of bare integers.
"""

from tvmopt.forms.affine import (
    Affine,
    dequantize,
    match_dequantize,
    match_quantize,
    quantize,
    quantized,
)
from tvmopt.forms.graph import Define, Emit, constant_of
from tvmopt.forms.grouped import Grouped
from tvmopt.forms.product import Product, bias_how, match_bias, match_product
from tvmopt.forms.rows import Rows, match_rows, quantize_rows
from tvmopt.forms.stored import Cast, Codebook, Dequantized, Stored, match_stored
from tvmopt.forms.tensors import (
    Centred,
    IntegerProduct,
    center,
    match_centred,
    match_integer_product,
    quantize_tensor,
)

__all__ = [
    "Affine",
    "Cast",
    "Centred",
    "Codebook",
    "Define",
    "Dequantized",
    "Emit",
    "Grouped",
    "IntegerProduct",
    "Product",
    "Rows",
    "Stored",
    "bias_how",
    "center",
    "constant_of",
    "dequantize",
    "match_bias",
    "match_centred",
    "match_dequantize",
    "match_integer_product",
    "match_product",
    "match_quantize",
    "match_rows",
    "match_stored",
    "quantize",
    "quantize_rows",
    "quantize_tensor",
    "quantized",
]
