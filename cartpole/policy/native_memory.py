"""Addresses as pointers, for compiled code."""

from typing import Any

from numba import types
from numba.extending import intrinsic


def _pointer_to(number: Any) -> Any:
    """The function from an address to a pointer to numbers of this type of numba's."""

    @intrinsic  # type: ignore[untyped-decorator]
    def at(context: Any, address: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], target.get_value_type(signature.return_type))

        return types.CPointer(number)(types.intp), generate

    return at


float32_at = _pointer_to(types.float32)
float64_at = _pointer_to(types.float64)
