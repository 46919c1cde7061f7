"""Small arrays of fixed shape on a kernel's stack.

numba compiles ``np.empty`` anew for each shape, type and set of options, and inlines what may go
wrong with it; together that is a tenth of all compilation.
"""

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

__all__ = ["on_stack"]


def on_stack(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a function for kernels that gives an array, not initialised.

    It lives until the function that calls it returns, which must not return it, and is the same
    one at each turn of a loop. Tens of kilobytes at most: threads have small stacks.
    """
    array = types.Array(dtype, len(shape), "C")

    @intrinsic
    def scratch(_):
        def generate(context, builder, signature, arguments):
            item = context.get_data_type(dtype)
            size = context.get_abi_sizeof(item)
            data = cgutils.alloca_once(builder, ir.ArrayType(item, math.prod(shape)))
            data.align = 64
            strides = [size * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
            made = context.make_array(array)(context, builder)
            populate_array(
                made,
                data=builder.bitcast(data, item.as_pointer()),
                shape=[context.get_constant(types.intp, length) for length in shape],
                strides=[context.get_constant(types.intp, stride) for stride in strides],
                itemsize=context.get_constant(types.intp, size),
                meminfo=None,
            )
            return made._getvalue()

        return array(), generate

    return scratch
