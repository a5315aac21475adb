"""Elementary functions of float32 as plain TIR arithmetic.

``T.exp`` and its like become one scalar libm call an element. What these builders return is adds,
multiplies, shifts and selects, so a loop over it vectorizes for any instruction set. They work on
scalars and on vectors of any lanes; every shared subexpression is bound by a ``Let``, so the size
of a result does not depend on the size of its argument.

Largest errors over all of float32 (the tests check them; "fused" where the target contracts
``a * b + c``, as TVM's LLVM code does if the CPU can):

====================  ==========================================================================
``exp``               2 ulp, also where the result is subnormal; inf, 0 and nan as in C
``log``               2 ulp; -inf at 0, nan below, inf and nan as in C; subnormals count as 2**-126
``tanh``              4e-7 of the result; its magnitude never exceeds 1; nan stays nan
``erf``               4e-7 of the result fused, 5e-7 otherwise; never above 1; nan stays nan
``sigmoid``           3 ulp where the result is normal; below that it is off by less than 1.2e-38
``gelu``              4e-7 * max(abs(x), 1): below 0 it is an absolute error; nan at -inf
``gelu_tanh``         as ``gelu``
====================  ==========================================================================

Sources: S. L. Moshier, Cephes Mathematical Library, 1984-92, ``expf.c`` and ``logf.c``: range
reduction and minimax coefficients of exp and log. Eigen, ``MathFunctionsImpl.h`` and XLA,
``math.cc`` (G. S. Steiner): the rational minimax coefficients of tanh and erf. Derived here: the
two power-of-two factors that make exp right down to the subnormals, and the clamps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

_LOG2_E = 1.44269504088896341
_LN2_HIGH = 0.693359375  # 10 significant bits, so that n * _LN2_HIGH is exact for every |n| < 2**14
_LN2_LOW = -2.12194440e-4

_LEAST_NORMAL = 2.0**-126
_MOST = 3.4028234663852886e38

# Below -104 the result rounds to 0 and above 88.73 to inf; between them the exponent fits.
_EXP_LEAST, _EXP_MOST = -104.0, 88.73

_EXP_POLY = (
    5.0000001201e-1,
    1.6666665459e-1,
    4.1665795894e-2,
    8.3334519073e-3,
    1.3981999507e-3,
    1.9875691500e-4,
)
_LOG_POLY = (
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)
_TANH_TOP = (
    4.89352455891786e-03,
    6.37261928875436e-04,
    1.48572235717979e-05,
    5.12229709037114e-08,
    -8.60467152213735e-11,
    2.00018790482477e-13,
    -2.76076847742355e-16,
)
_TANH_BOTTOM = (
    4.89352518554385e-03,
    2.26843463243900e-03,
    1.18534705686654e-04,
    1.19825839466702e-06,
)
_ERF_TOP = (
    -1.60960333262415e-02,
    -2.95459980854025e-03,
    -7.34990630326855e-04,
    -5.69250639462346e-05,
    -2.10102402082508e-06,
    2.77068142495902e-08,
    -2.72614225801306e-10,
)
_ERF_BOTTOM = (
    -1.42647390514189e-02,
    -7.37332916720468e-03,
    -1.68282697438203e-03,
    -2.13374055278905e-04,
    -1.45660718464996e-05,
)


def exp(x: Expr) -> Expr:
    """Return e**x for a float32 scalar or vector."""
    return bind("x", _clamp(x, _EXP_LEAST, _EXP_MOST), _exp_in_range)


def log(x: Expr) -> Expr:
    """Return the natural logarithm of a float32 scalar or vector."""
    return bind("x", x, _log)


def tanh(x: Expr) -> Expr:
    """Return the hyperbolic tangent of a float32 scalar or vector."""
    # Beyond 7.905 tanh is 1 to the last bit.
    return _odd_rational(x, 7.90531110763549805, _TANH_TOP, _TANH_BOTTOM)


def erf(x: Expr) -> Expr:
    """Return the error function of a float32 scalar or vector."""
    # Beyond 3.92 erf is 1 to the last bit.
    return _odd_rational(x, 3.92, _ERF_TOP, _ERF_BOTTOM)


def sigmoid(x: Expr) -> Expr:
    """Return 1 / (1 + e**-x) for a float32 scalar or vector."""
    one = _like(x, 1.0)
    return one / (one + exp(_like(x, 0.0) - x))


def gelu(x: Expr) -> Expr:
    """Return x / 2 * (1 + erf(x / sqrt(2))) for a float32 scalar or vector."""
    return bind(
        "x",
        x,
        lambda v: v * _like(v, 0.5) * (_like(v, 1.0) + erf(v * _like(v, 0.70710678118654752))),
    )


def gelu_tanh(x: Expr) -> Expr:
    """Return x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), float32 scalar or vector.

    Source: D. Hendrycks and K. Gimpel, "Gaussian error linear units" (2016), section 2.
    """
    root, cubic = 0.79788456080286536, 0.79788456080286536 * 0.044715
    return bind(
        "x",
        x,
        lambda v: (
            v
            * _like(v, 0.5)
            * (_like(v, 1.0) + tanh(v * (_like(v, root) + _like(v, cubic) * v * v)))
        ),
    )


def _exp_in_range(x: Expr) -> Expr:
    # The nearest integer, up to ties. Not by adding and subtracting 1.5 * 2**23, for TVM's
    # simplifier takes (a + c) - c for a; nor by T.nearbyint, which VectorizeLoop leaves scalar.
    nearest = tirx.floor(x * _like(x, _LOG2_E) + _like(x, 0.5))
    return bind("n", nearest, lambda n: _exp_of_parts(x, n))


def _exp_of_parts(x: Expr, n: Expr) -> Expr:
    r = x - n * _like(x, _LN2_HIGH) - n * _like(x, _LN2_LOW)
    exponent = tirx.Cast(_dtype("int32", n), n)
    return bind("r", r, lambda r: bind("e", exponent, lambda e: _scale(_exp_near_0(r), e)))


def _exp_near_0(r: Expr) -> Expr:
    return _horner(r, _EXP_POLY) * (r * r) + r + _like(r, 1.0)


def _scale(value: Expr, n: Expr) -> Expr:
    """Return value * 2**n in two exact factors: one could not reach 2**128 or the subnormals."""
    half = tirx.shift_right(n, _int_like(n, 1))
    return bind("half", half, lambda h: value * _power_of_2(h) * _power_of_2(n - h))


def _power_of_2(n: Expr) -> Expr:
    biased = tirx.shift_left(n + _int_like(n, 127), _int_like(n, 23))
    return tirx.reinterpret(_dtype("float32", n), biased)


def _log(x: Expr) -> Expr:
    normal = tirx.max(_like(x, _LEAST_NORMAL), x)
    value = bind("bits", _bits(normal), _log_of_bits)
    return tirx.max(x - _like(x, _MOST), value) + _log_of_no_number(x)  # inf beats any value


def _log_of_no_number(x: Expr) -> Expr:
    """Return 0 above 0, -inf at 0, nan below and for nan, without a select (see _clamp)."""
    scaled = x * _like(x, 2.0**126) * _like(x, 2.0**24)  # at least 1 for every x above 0
    one = _like(x, 1.0)
    return bind("root", tirx.sqrt(tirx.min(one, scaled)), lambda root: one - one / (root * root))


def _log_of_bits(bits: Expr) -> Expr:
    # Subtracting the bits of sqrt(1/2) first puts the mantissa into [sqrt(1/2), sqrt(2)).
    n = tirx.shift_right(bits - _int_like(bits, 0x3F3504F3), _int_like(bits, 23))
    return bind("n", n, lambda n: _log_of_parts(bits, n))


def _log_of_parts(bits: Expr, n: Expr) -> Expr:
    mantissa = tirx.reinterpret(_dtype("float32", n), bits - tirx.shift_left(n, _int_like(n, 23)))
    exponent = tirx.Cast(_dtype("float32", n), n)
    return bind(
        "m",
        mantissa - _like(mantissa, 1.0),
        lambda m: bind("e", exponent, lambda e: _log_near_1(m, e)),
    )


def _log_near_1(m: Expr, exponent: Expr) -> Expr:
    """Return log(1 + m) + exponent * log(2), small terms first."""
    tail = _horner(m, _LOG_POLY) * m * (m * m) + exponent * _like(m, _LN2_LOW)
    return m + (tail - (m * m) * _like(m, 0.5)) + exponent * _like(m, _LN2_HIGH)


def _odd_rational(x: Expr, clamp: float, top: Sequence[float], bottom: Sequence[float]) -> Expr:
    """Return v * (top(v**2) / bottom(v**2)), within [-1, 1], for x clamped to v."""

    def ratio(v: Expr) -> Expr:
        return bind("t", v * v, lambda t: v * (_horner(t, top) / _horner(t, bottom)))

    return bind("y", bind("v", _clamp(x, -clamp, clamp), ratio), lambda y: _clamp(y, -1.0, 1.0))


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    value = _like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + _like(x, coefficient)
    return value


def _clamp(x: Expr, least: float, most: float) -> Expr:
    """Return x held to [least, most]; a nan passes.

    T.max(a, b) compiles to ``a > b ? a : b``, so a nan passes only as the second operand. A
    T.Select here would do the same, but nested ones cost TVM's simplifier exponential time.
    """
    return tirx.min(_like(x, most), tirx.max(_like(x, least), x))


def bind(name: str, value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """Return ``body`` of a variable that holds ``value``, or of ``value`` if it is a variable.

    Within a kernel generator the variable is a statement of the kernel: TVM's search for common
    subexpressions takes parts of a ``Let`` out of its scope. Elsewhere it is a ``Let``, and Lets
    go outwards, out of ``value``: TVM's simplifier doubles its time with each one that
    stands within the value of another.
    """
    if IRBuilder.is_in_scope():
        return body(T.Bind(value))
    if isinstance(value, tirx.Let):
        return tirx.Let(value.var, value.value, bind(name, value.body, body))
    if isinstance(value, tirx.Var | tirx.FloatImm | tirx.IntImm):
        return body(value)
    var = tirx.Var(name, value.ty)
    return tirx.Let(var, value, body(var))


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret(_dtype("int32", x), x)


def _dtype(scalar: str, like: Expr) -> str:
    lanes = _lanes(like)
    return scalar if lanes == 1 else f"{scalar}x{lanes}"


def _lanes(x: Expr) -> int:
    return int(x.ty.dtype.lanes)


def _like(x: Expr, value: float) -> Expr:
    """Return a float32 constant with the lanes of ``x``."""
    scalar = tirx.FloatImm("float32", value)
    return scalar if _lanes(x) == 1 else tirx.Broadcast(scalar, _lanes(x))


def _int_like(x: Expr, value: int) -> Expr:
    scalar = tirx.IntImm("int32", value)
    return scalar if _lanes(x) == 1 else tirx.Broadcast(scalar, _lanes(x))
