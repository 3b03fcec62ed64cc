# SPDX-License-Identifier: BSD-3-Clause
# cython: freethreading_compatible=True, auto_pickle=False
"""The C core on NumPy arrays: pointers, iterators, the release of the GIL, and the plain call, which never leaves C.

There is no policy here and no message: what is not plain goes to Python, whose checks stand in one place.
:mod:`fastdrop._core_in_python` has the same names without a compiler, and :mod:`fastdrop._kernels` says what the
methods of ``Kernels`` mean.
"""

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cimport cython
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New

import functools

import numpy as np

cnp.import_array()


cdef extern from "math.h" nogil:
    double rint(double)


# Not from NumPy's own declarations, which would import numpy.random, and that takes longer than all of this package.
cdef extern from "numpy/random/bitgen.h":
    ctypedef struct bitgen_t:
        void *state
        uint64_t (*next_uint64)(void *) noexcept nogil


cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        object (*tp_new)(type, tuple, void *)


cdef extern from "fastdrop.h" nogil:
    ctypedef struct fd_draw:
        uint64_t key
        uint64_t call
        uint64_t threshold

    ctypedef enum fd_dtype:
        FD_F16
        FD_BF16
        FD_F32
        FD_F64

    int FD_NUM_DTYPES

    ctypedef enum fd_op:
        FD_DROPOUT

    ctypedef struct fd_operands:
        const void *x
        const void *other
        const void *bias
        void *y
        size_t bias_at
        size_t period
        double scale
        double shift
        double fill
        int nontemporal

    ctypedef struct fd_kernels:
        const char *name
        void (*philox)(const uint32_t *counter, const uint32_t *key, int rounds, uint32_t *result) noexcept nogil
        void (*keep_bits)(const fd_draw *, uint64_t, size_t, uint8_t *) noexcept nogil

    ctypedef struct fd_index_map:
        int64_t offset
        int ndim
        int64_t shape[64]
        int64_t stride[64]
        const uint8_t *bits
        size_t bytes

    ctypedef struct fd_job:
        const fd_kernels *kernels
        fd_draw draw
        fd_index_map map
        fd_op op
        fd_dtype dtype

    int FD_NUM_OPS
    int FD_MAX_DIMS
    void fd_walk(const fd_job *, int64_t, size_t, const fd_operands *) noexcept
    void fd_walk_keep(const fd_job *, int64_t, size_t, uint8_t *) noexcept
    int FD_BITS_SLACK
    void fd_order_bits(const fd_index_map *, size_t, uint8_t *) noexcept
    const fd_kernels *fd_built(size_t i)
    int fd_supported(size_t i)


cdef extern from "operands.h" nogil:
    int reads_other(fd_op op) noexcept
    int reads_bias(fd_op op) noexcept
    int reads_normals(fd_op op) noexcept
    fd_operands operands_at(const fd_operands *operands, size_t done, size_t size) noexcept


cdef extern from "shared_state.h" nogil:
    int FD_CALL_BITS
    ctypedef struct fd_stream:
        pass

    void fd_set_stream(fd_stream *, uint64_t key, uint64_t call) noexcept
    void fd_get_stream(const fd_stream *, uint64_t *key, uint64_t *call) noexcept
    int fd_next_draw(fd_stream *, uint64_t *key, uint64_t *call) noexcept
    void fd_undo_draw(fd_stream *, uint64_t key, uint64_t call) noexcept


cdef extern from "pool.h" nogil:
    ctypedef void fd_part(void *context, int worker, int64_t first, int64_t n) noexcept
    int fd_prepare_pool() noexcept
    void fd_share(fd_part *, void *context, int64_t size, int64_t chunk, int threads) noexcept
    int fd_has_just_shared() noexcept
    int fd_usable_cpus() noexcept


cdef extern from "client.h" nogil:
    const char *FD_CLIENT_NAME
    int FD_CLIENT_VERSION

    ctypedef struct fd_client:
        size_t size
        int version
        const fd_kernels *(*running)() noexcept nogil
        void (*walk)(const fd_job *, int64_t, size_t, const fd_operands *) noexcept nogil
        void (*share)(fd_part *, void *context, int64_t n, int asked, int cpus) noexcept nogil


# Not as NumPy declares them. The first may fail without an exception where there is no memory, and so does the second
# where there is an errmsg; that one then needs no GIL.
cdef extern from "numpy/arrayobject.h":
    cnp.NpyIter *new_iterator "NpyIter_MultiNew" (
        int n, cnp.PyArrayObject **, cnp.npy_uint32 flags, cnp.NPY_ORDER, cnp.NPY_CASTING, cnp.npy_uint32 *each_flags,
        cnp.PyArray_Descr **) except? NULL
    int reset_without_gil "NpyIter_ResetToIterIndexRange" (
        cnp.NpyIter *, cnp.npy_intp start, cnp.npy_intp stop, char **errmsg) noexcept nogil


# Casts of dtypes from outside NumPy can fail.
ctypedef int (*NextRunOrError)(cnp.NpyIter *) except? 0

# Fewer elements are done before another thread could take the GIL and give it back.
cdef enum:
    FEW = 4096

# Elements of a tile. Chunks are multiples of it where nobody says otherwise: what is cut elsewhere takes longer.
cdef enum:
    TILE = 2048

# Elements of the shortest bias that kernels take.
cdef enum:
    MIN_PERIOD = 32

# How many decisions of a noise_shape a plain call draws at once, and how many bytes of its stack that takes.
cdef enum:
    MAX_SHARED = 8192
    MAX_SHARED_BYTES = 1024


# What callers may share, and what a plain call works with


cdef cnp.ndarray bare(cnp.ndarray x):
    """An array without its subclass, which may say of itself what it likes."""
    return x if type(x) is cnp.ndarray else np.ndarray.view(x, np.ndarray)


cdef int check_call(uint64_t call) except -1:
    if call >> FD_CALL_BITS != 0:
        raise ValueError(call)
    return 0


@cython.final
cdef class Operands:
    """See :class:`fastdrop._kernels.Operands`."""

    cdef readonly cnp.ndarray x
    cdef readonly cnp.ndarray y
    cdef readonly cnp.ndarray other
    cdef readonly cnp.ndarray bias
    cdef readonly double scale
    cdef readonly double shift
    cdef readonly double fill

    def __init__(self, cnp.ndarray x not None, cnp.ndarray y not None, double scale=1.0, cnp.ndarray other=None,
                 cnp.ndarray bias=None, double shift=0.0, double fill=0.0):
        self.x = bare(x)
        self.y = self.x if y is x else bare(y)
        self.scale = scale
        self.other = None if other is None else self.y if other is y else bare(other)
        self.bias = bias
        self.shift = shift
        self.fill = fill


@cython.final
cdef class Draw:
    """See :class:`fastdrop._kernels.Draw`."""

    cdef fd_draw draw

    def __init__(self, uint64_t key=0, uint64_t call=0, uint64_t threshold=0):
        check_call(call)
        if threshold > <uint64_t>1 << 32:
            raise ValueError(threshold)
        self.draw.key = key
        self.draw.call = call
        self.draw.threshold = threshold

    @property
    def key(self):
        return self.draw.key

    @property
    def call(self):
        return self.draw.call

    @property
    def threshold(self):
        return self.draw.threshold


@cython.final
cdef class IndexMap:
    """See :class:`fastdrop._kernels.IndexMap`."""

    cdef readonly int64_t offset
    cdef readonly tuple dims
    cdef readonly object bits

    def __init__(self, int64_t offset=0, tuple dims=None, bits=None):
        self.offset = offset
        self.dims = dims
        self.bits = bits


cdef class StreamState:
    """A key, and a counter of calls that threads share without a lock."""

    cdef fd_stream state
    cdef object __weakref__

    @property
    def key(self):
        return self._get()[0]

    @property
    def call(self):
        return self._get()[1]

    def _get(self):
        """Key and call number, of one moment."""
        cdef uint64_t key, call
        fd_get_stream(&self.state, &key, &call)
        return key, call

    def _set(self, uint64_t key, uint64_t call):
        """Set both. Only one thread may do so at a time."""
        fd_set_stream(&self.state, key, call)

    def _take(self):
        """Use up a call number: (key, call), or None where none is left."""
        cdef uint64_t key, call
        return (key, call) if fd_next_draw(&self.state, &key, &call) else None

    def _untake(self, uint64_t key, uint64_t call):
        """Take back the last call number, unless another was used up since. Nobody may set the stream meanwhile."""
        fd_undo_draw(&self.state, key, call)


cdef class MaskState:
    """The fields of a mask that no change can reach: what it was drawn by, and where its elements lie in the stream."""

    cdef readonly tuple shape
    cdef readonly int64_t _offset
    cdef tuple strides
    cdef uint64_t draw_key
    cdef uint64_t draw_call
    cdef bint is_drawn

    @property
    def key(self):
        return self.draw_key if self.is_drawn else None

    @property
    def call(self):
        return self.draw_call if self.is_drawn else None

    @property
    def _strides(self):
        """Steps in the stream along each dimension, in elements; 0 along one that shares its decisions."""
        return own_strides(self.shape) if self.strides is None else self.strides

    @property
    def _is_in_order(self):
        """Whether the elements follow each other in the stream, from the offset on."""
        return self.strides is None

    cdef Draw draw(self, uint64_t threshold):
        cdef Draw draw = Draw.__new__(Draw)
        draw.draw.key = self.draw_key
        draw.draw.call = self.draw_call
        draw.draw.threshold = threshold
        return draw

    def _draw(self):
        """What the mask was drawn by, as kernels take it."""
        return self.draw(0)

    cpdef _place(self, tuple shape, strides, int64_t offset, key, call):
        """Set these fields, of a mask that nobody else has yet. Without a key it is not drawn."""
        self.shape = shape
        self.strides = None if strides is None or are_own(strides, shape) else strides
        self._offset = offset
        self.is_drawn = key is not None
        if self.is_drawn:
            check_call(call)
            self.draw_key = key
            self.draw_call = call


cdef class DropoutState(MaskState):
    """The fields of a mask of dropout."""

    cdef readonly double rate
    cdef readonly double keep_prob
    cdef readonly double scale
    cdef readonly bytes _bits
    cdef uint64_t draw_threshold

    @property
    def threshold(self):
        """An element is dropped iff its 32 random bits are below this: rate * 2**32, rounded, ties to even."""
        return self.draw_threshold

    def _draw(self):
        return self.draw(self.draw_threshold)

    @classmethod
    def _made(cls, tuple shape, strides, int64_t offset, key, call, double rate, double keep_prob, double scale,
              bytes bits=None):
        """A mask of values that need no check."""
        cdef DropoutState mask = (<PyTypeObject *>cls).tp_new(cls, (), NULL)
        mask._place(shape, strides, offset, key, call)
        mask._decide(rate, keep_prob, scale, bits)
        return mask

    cpdef _decide(self, double rate, double keep_prob, double scale, bytes bits):
        """Set these fields, of a mask that nobody else has yet."""
        if not 0.0 <= rate <= 1.0:
            raise ValueError(rate)
        self.rate = rate
        self.keep_prob = keep_prob
        self.scale = scale
        self._bits = bits
        self.draw_threshold = threshold_of(rate)

    cdef bint only_draws(self) noexcept:
        """Whether to apply it is to draw for elements, and to change them."""
        return self._bits is None and (self.rate != 0.0 or self.scale != 1.0)


cdef bint are_own(tuple strides, tuple shape):
    """Whether these are the same as own_strides(), but for axes along which there is nowhere to go."""
    cdef object length, given, own
    for length, given, own in zip(shape, strides, own_strides(shape)):
        if given != own and length != 1:
            return False
    return len(strides) == len(shape)


cdef tuple own_strides(tuple shape):
    """Those of a mask that is not a part of another and shares no decisions."""
    cdef list strides = [1] * len(shape)
    cdef Py_ssize_t d
    cdef object step = 1
    for d in range(len(shape) - 1, -1, -1):
        strides[d] = step
        step = step * max(shape[d], 1)
    return tuple(strides)


cdef inline uint64_t threshold_of(double rate) noexcept nogil:
    """D: the product is exact, and rint takes ties to even."""
    return <uint64_t>rint(rate * 4294967296.0)


# The plain call


cdef const fd_kernels *running = NULL
cdef int64_t most_elements = 0
cdef int64_t least_shared = INT64_MAX
cdef int64_t least_chunk = 1
cdef object number_of_threads = None

if not fd_prepare_pool():
    raise MemoryError


def use(Kernels kernels, int64_t elements, int64_t shared, int64_t chunk):
    """Run plain calls of fewer elements than these on these kernels; with None they are calls like any other.

    From ``shared`` elements on they may be shared by threads, in chunks of at least ``chunk``.

    For the start of the process, and for tests and measurements: not while other threads are in a call.
    """
    global running, most_elements, least_shared, least_chunk
    if shared < 0 or chunk < 1:
        raise ValueError((shared, chunk))
    if kernels is None:
        running = NULL
    else:
        running = kernels.kernels
    most_elements = elements
    least_shared = max(shared, FEW)
    least_chunk = chunk


def ask_for_threads(number):
    """Let plain calls learn by ``number()`` how many threads may work on an array."""
    global number_of_threads
    number_of_threads = number


def has_just_shared():
    """Whether helpers of the last call that could have had some would still be awake."""
    return fd_has_just_shared() != 0


def usable_cpus():
    """How many CPUs the calling thread may use, by its affinity; 0 where that is not known."""
    return fd_usable_cpus()


cdef int threads_for(x) except -1:
    """How many threads shall work on what may be an array, in a plain call. This may run a signal's handler."""
    cdef object number, most
    # Of fewer than most_elements: sleepers are not woken for these.
    if (type(x) is not cnp.ndarray or cnp.PyArray_SIZE(<cnp.ndarray>x) < least_shared or number_of_threads is None
            or not fd_has_just_shared()):
        return 1
    most = max(1, cnp.PyArray_SIZE(<cnp.ndarray>x) // least_chunk)
    number = number_of_threads()
    return number if number < most else most


cdef bint is_plain(x, int *dtype) noexcept:
    """Whether x is an array that kernels take as it is: of no subclass, native, aligned, in C order."""
    cdef int num
    if type(x) is not cnp.ndarray:
        return False
    num = cnp.PyArray_TYPE(<cnp.ndarray>x)
    if num == cnp.NPY_FLOAT:
        dtype[0] = FD_F32
    elif num == cnp.NPY_DOUBLE:
        dtype[0] = FD_F64
    elif num == cnp.NPY_FLOAT16:
        dtype[0] = FD_F16
    else:
        return False
    return cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x)


cdef bint same_shape(cnp.ndarray x, cnp.ndarray y) noexcept:
    return (cnp.PyArray_NDIM(x) == cnp.PyArray_NDIM(y)
            and cnp.PyArray_CompareLists(cnp.PyArray_DIMS(x), cnp.PyArray_DIMS(y), cnp.PyArray_NDIM(x)))


cdef bint is_apart(const char *x, const char *y, size_t n) noexcept:
    """Whether n bytes at x are those at y, or have none in common with them."""
    return x == y or x + n <= y or y + n <= x


cdef bint is_plain_out(out, cnp.ndarray x) noexcept:
    """Whether kernels can write the result for a plain x to out as it is."""
    cdef cnp.ndarray y
    if type(out) is not cnp.ndarray:
        return False
    y = out
    return (cnp.PyArray_TYPE(y) == cnp.PyArray_TYPE(x) and cnp.PyArray_ISCARRAY(y)
            and same_shape(x, y)
            and is_apart(cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(y), <size_t>cnp.PyArray_NBYTES(x)))


cdef bint is_plain_beside(other, cnp.ndarray x, out) noexcept:
    """Whether kernels can read other as it is, beside a plain x and while they write to out."""
    cdef int dtype
    cdef size_t n = <size_t>cnp.PyArray_NBYTES(x)
    return (is_plain(other, &dtype) and cnp.PyArray_TYPE(<cnp.ndarray>other) == cnp.PyArray_TYPE(x)
            and same_shape(<cnp.ndarray>other, x)
            and (out is None
                 or is_apart(cnp.PyArray_BYTES(<cnp.ndarray>other), cnp.PyArray_BYTES(<cnp.ndarray>out), n)))


def are_plain(x, out):
    """Whether x, and out unless it is None, are arrays that kernels take as they are, and of one shape and dtype."""
    cdef int dtype
    return is_plain(x, &dtype) and (out is None or is_plain_out(out, x))


cdef struct Whole:
    const fd_job *job
    const fd_operands *operands
    size_t item


cdef void apply_part(void *context, int worker, int64_t first, int64_t n) noexcept nogil:
    cdef const Whole *whole = <const Whole *>context
    cdef fd_operands part = operands_at(whole.operands, <size_t>first, whole.item)
    fd_walk(whole.job, first, <size_t>n, &part)


cdef void apply_whole(const fd_job *job, const fd_operands *operands, int64_t n, int threads) noexcept nogil:
    """An operation on all elements of arrays that kernels take as they are."""
    cdef Whole whole
    if n < least_shared:
        fd_walk(job, 0, <size_t>n, operands)
        return
    whole.job = job
    whole.operands = operands
    whole.item = item_size(job.dtype)
    fd_share(apply_part, &whole, n, chunk_for(n), threads)


cdef int64_t chunk_for(int64_t n) noexcept nogil:
    """How many elements a thread takes at a time. Between two chunks lies about as much time as for 500 elements."""
    return max(least_chunk, min(n // 16, 4 * least_chunk) // TILE * TILE)


cdef void walk(const fd_job *job, int64_t n, cnp.ndarray x, other, cnp.ndarray y, double scale, int threads) noexcept:
    """An operation on whole plain arrays."""
    cdef fd_operands operands
    operands.x = cnp.PyArray_DATA(x)
    operands.y = cnp.PyArray_DATA(y)
    operands.other = NULL if other is None else cnp.PyArray_DATA(<cnp.ndarray>other)
    operands.bias = NULL
    operands.bias_at = 0
    operands.scale = scale
    operands.nontemporal = False
    if n < FEW:
        fd_walk(job, 0, <size_t>n, &operands)
    else:
        with nogil:
            apply_whole(job, &operands, n, threads)


def plain_dropout_at(int dtype, uint64_t x, uint64_t y, int64_t size, uint64_t key, double rate, double scale,
                     int threads=1):
    """Dropout of so many elements at addresses, in order, on the kernels that run; whether it was that simple.

    See :meth:`fastdrop._kernels.Kernels.apply_at`.
    """
    cdef fd_job job
    cdef fd_operands operands
    if (running == NULL or not 0 <= size < most_elements or not 0 <= dtype < FD_NUM_DTYPES or not 0.0 <= rate <= 1.0
            or (x | y) % item_size(<fd_dtype>dtype) != 0 or x == 0 or y == 0):
        return False
    job.kernels = running
    job.draw.key = key
    job.draw.call = 0
    job.draw.threshold = threshold_of(rate)
    job.map.offset = 0
    job.map.ndim = 0
    job.map.bits = NULL
    job.op = FD_DROPOUT
    job.dtype = <fd_dtype>dtype
    operands.x = <const void *>x
    operands.y = <void *>y
    operands.other = NULL
    operands.bias = NULL
    operands.bias_at = 0
    operands.scale = scale
    operands.nontemporal = False
    if size < FEW:
        fd_walk(&job, 0, <size_t>size, &operands)
    else:
        with nogil:
            apply_whole(&job, &operands, size, threads)
    return True


@cython.final
cdef class PlainCalls:
    """Calls that never leave C, with what they take from the rest of the package.

    Parameters
    ----------
    default_stream : PhiloxStream
        The one for ``rng=None``.
    mask_type : type
        Of the masks that ``return_mask`` asks for: a ``DropoutState``.
    unset_rate : float
        The very object that stands for a rate that was not given.
    index_map_of : callable
        ``(shape, noise_shape) -> (strides, dims, span)``; see ``fastdrop._geometry``.
    """

    cdef StreamState default_stream
    cdef type stream_type
    cdef type mask_type
    cdef object unset_rate
    cdef object index_map_of

    def __init__(self, StreamState default_stream not None, type mask_type not None, unset_rate, index_map_of):
        self.default_stream = default_stream
        self.stream_type = type(default_stream)
        self.mask_type = mask_type
        self.unset_rate = unset_rate
        self.index_map_of = index_map_of

    def __call__(self, int operation, x, other, rate, keep_prob, noise_shape, training, rng, out, return_mask):
        """What the function is to return; None for a call that is not plain, of which nothing has been done.

        The operation is one that scales what is kept by what follows from the rate.
        """
        if (training is not True or not (return_mask is True or return_mask is False) or self.mask_type is None
                or not 0 <= operation < FD_NUM_OPS or reads_bias(<fd_op>operation)
                or reads_other(<fd_op>operation) != (other is not None)):
            return None
        return self.result(operation, x, other, rate, keep_prob, noise_shape, rng, out, return_mask)

    cdef object result(self, int operation, x, other, rate, keep_prob, noise_shape, rng, out, bint return_mask):
        cdef fd_job job
        cdef double dropped, kept
        cdef int dtype
        cdef int threads = 1 if running == NULL else threads_for(x)
        cdef int64_t n
        cdef uint64_t seed = 0
        cdef uint8_t bits[MAX_SHARED_BYTES]
        cdef tuple strides = None
        cdef cnp.ndarray y
        cdef DropoutState mask = None
        cdef StreamState stream = self.default_stream

        if running == NULL or not is_plain(x, &dtype) or not (out is None or is_plain_out(out, x)):
            return None
        if other is not None and not is_plain_beside(other, x, out):
            return None
        n = cnp.PyArray_SIZE(x)
        if keep_prob is None:
            dropped = PyFloat_AS_DOUBLE(rate) if PyFloat_Check(rate) else -1.0
            kept = 1.0 - dropped
        else:
            kept = PyFloat_AS_DOUBLE(keep_prob) if PyFloat_Check(keep_prob) and rate is self.unset_rate else -1.0
            dropped = 1.0 - kept
        # At 0 and 1 nothing is random. A keep_prob that is next to one of them leaves no rate between.
        if not (0.0 < dropped < 1.0 and 0.0 < kept < 1.0) or n >= most_elements:
            return None
        if rng is not None:
            if type(rng) is self.stream_type:
                stream = rng
            elif PyLong_CheckExact(rng):
                stream = None
                try:
                    seed = rng
                except OverflowError:
                    return None
            elif type(rng) is np.random.Generator:
                stream = None
            else:
                return None
        job.map.offset = 0
        job.map.ndim = 0
        job.map.bits = NULL
        if noise_shape is not None:
            strides = self.place_decisions(&job.map, (<object>x).shape, noise_shape)
            if strides is None:
                return None

        # All that may fail comes before the draw, so that a stream does not move for nothing.
        y = out if out is not None else cnp.PyArray_EMPTY(
            cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
        if return_mask:
            mask = (<PyTypeObject *>self.mask_type).tp_new(self.mask_type, (), NULL)
            mask.shape = (<object>x).shape
            mask.strides = strides
        job.draw.threshold = threshold_of(dropped)
        job.draw.call = 0
        if stream is not None:
            if not fd_next_draw(&stream.state, &job.draw.key, &job.draw.call):
                return None
        elif PyLong_CheckExact(rng):
            job.draw.key = key_of_seed(seed)
        else:
            job.draw.key = key_of_generator(rng)
            for array in (x, y, other):  # by a lock or a capsule of somebody's own
                if array is not None and cnp.PyArray_SIZE(<cnp.ndarray>array) != n:
                    raise ValueError((cnp.PyArray_SIZE(<cnp.ndarray>array), n))
        if job.map.ndim > 0 and job.map.bytes > 0:
            running.keep_bits(&job.draw, 0, <size_t>job.map.bytes, bits)
            job.map.bits = bits
            job.map.bytes = (job.map.bytes + 7) // 8
        job.kernels = running
        job.op = <fd_op>operation
        job.dtype = <fd_dtype>dtype
        walk(&job, n, x, other, y, 1.0 / kept, threads)
        if mask is None:
            return y
        mask.is_drawn = True
        mask.draw_key = job.draw.key
        mask.draw_call = job.draw.call
        mask.rate = dropped
        mask.keep_prob = kept
        mask.scale = 1.0 / kept
        mask.draw_threshold = job.draw.threshold
        return y, mask

    cdef tuple place_decisions(self, fd_index_map *map, tuple shape, noise_shape):
        """Fill the map for a noise_shape, with the number of decisions to draw at once in place of their bytes.

        Returns the strides; None where there are more decisions than a plain call draws, or the lengths are not plain.
        """
        if type(noise_shape) is not tuple:
            return None
        for length in <tuple>noise_shape:
            if length is not None and not PyLong_CheckExact(length):
                return None
        strides, dims, span = self.index_map_of(shape, noise_shape)
        if dims is not None:
            if span > MAX_SHARED:
                return None
            fill_dims(map, dims)
            map.bytes = span
        return strides


cdef uint64_t key_of_generator(generator) except? 0:
    """What ``generator.integers(0, 2**64, dtype=uint64)`` gives."""
    cdef object bit_generator = generator.bit_generator
    cdef bitgen_t *bitgen = <bitgen_t *>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
    with bit_generator.lock:
        return bitgen.next_uint64(bitgen.state)


cdef inline uint32_t hashed(uint32_t value, uint32_t *factor) noexcept:
    value ^= factor[0]
    factor[0] *= <uint32_t>0x931E8875
    value *= factor[0]
    return value ^ value >> 16


cpdef uint64_t key_of_seed(uint64_t seed) noexcept:
    """What ``numpy.random.SeedSequence(seed).generate_state(1, numpy.uint64)`` holds.

    The construction, a hash of four words that mixes each of them into the others, is fixed by NumPy's NEP 19.
    """
    cdef uint32_t pool[4]
    cdef uint32_t factor = <uint32_t>0x43B0D7E5, mixed
    cdef int i, j
    for i in range(4):
        pool[i] = hashed(<uint32_t>(seed >> 32 * i) if i < 2 else 0, &factor)
    for i in range(4):
        for j in range(4):
            if i != j:
                mixed = <uint32_t>0xCA01F9DD * pool[j] - <uint32_t>0x4973F715 * hashed(pool[i], &factor)
                pool[j] = mixed ^ mixed >> 16
    factor = <uint32_t>0x8B51F9DD
    for i in range(2):
        mixed = pool[i] ^ factor
        factor *= <uint32_t>0x58F38DED
        mixed *= factor
        pool[i] = mixed ^ mixed >> 16
    return pool[0] | <uint64_t>pool[1] << 32


def plain_dropout(PlainCalls plain not None):
    """A decorator for ``dropout`` that does plain calls itself, and leaves the others to the function."""

    def decorate(general):
        def dropout(x, rate=plain.unset_rate, *, keep_prob=None, training=True, noise_shape=None, shared_axes=None,
                    mode="upscale_in_train", rng=None, out=None, return_mask=False):
            if (training is True and shared_axes is None and mode is "upscale_in_train"
                    and (return_mask is False or return_mask is True)):
                result = plain.result(FD_DROPOUT, x, None, rate, keep_prob, noise_shape, rng, out, return_mask)
                if result is not None:
                    return result
            return general(x, rate, keep_prob=keep_prob, training=training, noise_shape=noise_shape,
                           shared_axes=shared_axes, mode=mode, rng=rng, out=out, return_mask=return_mask)

        return functools.update_wrapper(dropout, general)

    return decorate


cdef bint is_native(x, int *dtype) noexcept:
    """Whether x is an array of no subclass and of one of NumPy's own dtypes, wherever its elements lie."""
    cdef int num
    if type(x) is not cnp.ndarray:
        return False
    num = cnp.PyArray_TYPE(<cnp.ndarray>x)
    dtype[0] = FD_F32 if num == cnp.NPY_FLOAT else FD_F64 if num == cnp.NPY_DOUBLE else FD_F16
    return num == cnp.NPY_FLOAT or num == cnp.NPY_DOUBLE or num == cnp.NPY_FLOAT16


cdef bint is_line(cnp.ndarray x) noexcept:
    """Whether it has one dimension, along which elements have memory of their own."""
    return (cnp.PyArray_NDIM(x) == 1
            and (cnp.PyArray_STRIDE(x, 0) >= cnp.PyArray_ITEMSIZE(x)
                 or cnp.PyArray_STRIDE(x, 0) <= -cnp.PyArray_ITEMSIZE(x)))


cdef bint is_line_out(out, cnp.ndarray x) noexcept:
    """Whether NumPy's iterator can write the result for a line to out as it is."""
    return (type(out) is cnp.ndarray and cnp.PyArray_TYPE(<cnp.ndarray>out) == cnp.PyArray_TYPE(x)
            and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out) and same_shape(<cnp.ndarray>out, x)
            and is_line(<cnp.ndarray>out))


def plain_apply(walked_dims):
    """A decorator for a method ``(x, out=None)`` of a mask that drops and scales the elements of x.

    It does plain calls itself: of arrays that kernels take as they are, and of those of one dimension. ``walked_dims``
    gives the dimensions of a part of a mask, from its shape and strides; None where they are not plain.
    """

    def decorate(general):
        def apply(DropoutState self not None, x, out=None):
            cdef fd_job job
            cdef fd_operands operands
            cdef int dtype
            cdef int threads = 1 if running == NULL else threads_for(x)
            cdef int64_t n
            cdef bint is_direct
            cdef tuple dims = None
            cdef cnp.ndarray y
            if (running != NULL and is_native(x, &dtype) and self.only_draws() and (<object>x).shape == self.shape
                    and 0 < cnp.PyArray_SIZE(x) < most_elements):
                is_direct = cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x) and (out is None or is_plain_out(out, x))
                if self.strides is not None:
                    dims = walked_dims(self.shape, self.strides)
                if ((is_direct or (is_line(x) and (out is None or is_line_out(out, x))))
                        and (dims is not None or self.strides is None)):
                    n = cnp.PyArray_SIZE(x)
                    y = out if out is not None else cnp.PyArray_EMPTY(
                        cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
                    job.kernels = running
                    job.draw.key = self.draw_key
                    job.draw.call = self.draw_call
                    job.draw.threshold = self.draw_threshold
                    job.map.offset = self._offset
                    job.map.ndim = 0
                    job.map.bits = NULL
                    job.op = FD_DROPOUT
                    job.dtype = <fd_dtype>dtype
                    if dims is not None:
                        fill_dims(&job.map, dims)
                    if is_direct:
                        walk(&job, n, x, None, y, self.scale, threads)
                    else:
                        operands.other = operands.bias = NULL
                        operands.scale = self.scale
                        operands.nontemporal = False
                        iterate(&job, &operands, x, None, y, 0, n, 1)
                    return y
            return general(self, x, out)

        return functools.update_wrapper(apply, general)

    return decorate


# Every other call


cdef int fill_dims(fd_index_map *map, tuple dims) except -1:
    cdef int d
    for d, (length, stride) in enumerate(dims):
        map.shape[d] = length
        map.stride[d] = stride
    map.ndim = len(dims)
    return 0


cdef int fill_job(fd_job *job, const fd_kernels *kernels, Draw draw, IndexMap index_map, int64_t size) except -1:
    """Take over a draw and an index map for an array of so many elements, of which there is one at least."""
    cdef const uint8_t[::1] view
    cdef int d
    cdef int64_t left = size, first = index_map.offset, last = index_map.offset, most = INT64_MAX, step
    cdef tuple dims = index_map.dims
    job.kernels = kernels
    job.draw = draw.draw
    job.map.offset = last
    job.map.bits = NULL
    job.map.bytes = 0
    job.map.ndim = 0
    if index_map.bits is not None:
        view = index_map.bits
        job.map.bytes = <size_t>view.shape[0]
        most = min(view.shape[0], INT64_MAX // 8) * 8 - 1
    if not 0 <= last <= most:
        raise ValueError((last, most))
    if dims is None:
        if size - 1 > most - last:
            raise ValueError((last, size, most))
    else:
        if len(dims) > FD_MAX_DIMS:
            raise ValueError(dims)
        fill_dims(&job.map, dims)
        for d in range(job.map.ndim):
            if job.map.shape[d] < 1 or left % job.map.shape[d] != 0:
                raise ValueError((dims, size))
            left //= job.map.shape[d]
            if job.map.shape[d] > 1:
                step = job.map.stride[d]
                if step > (most - last) // (job.map.shape[d] - 1) or step < -(first // (job.map.shape[d] - 1)):
                    raise ValueError((job.map.offset, dims, most))
                if step > 0:
                    last += (job.map.shape[d] - 1) * step
                else:
                    first += (job.map.shape[d] - 1) * step
        if left != 1:
            raise ValueError((dims, size))
    if index_map.bits is not None:
        job.map.bits = &view[0]
    return 0


cdef size_t item_size(fd_dtype dtype) noexcept nogil:
    return 8 if dtype == FD_F64 else 4 if dtype == FD_F32 else 2


cdef int dtype_code(cnp.ndarray x) except -1:
    cdef int num = cnp.PyArray_TYPE(x)
    if num == cnp.NPY_FLOAT:
        return FD_F32
    if num == cnp.NPY_DOUBLE:
        return FD_F64
    if num == cnp.NPY_FLOAT16:
        return FD_F16
    # Whoever registers it with NumPy gets another number.
    if cnp.PyArray_ITEMSIZE(x) != 2 or x.dtype.name != "bfloat16":
        raise TypeError(x.dtype)
    return FD_BF16


cdef cnp.NpyIter *iterator_over(cnp.ndarray x, cnp.ndarray other, cnp.ndarray out) except NULL:
    """NumPy's iterator over elements of any layout and byte order, which it buffers as contiguous native runs."""
    cdef cnp.PyArrayObject *ops[3]
    cdef cnp.PyArray_Descr *dtypes[3]
    cdef cnp.npy_uint32 flags[3]
    cdef int i, n = 2 if other is None else 3
    cdef cnp.dtype native = x.dtype.newbyteorder("=")
    ops[0] = <cnp.PyArrayObject *>out
    ops[1] = <cnp.PyArrayObject *>x
    ops[2] = <cnp.PyArrayObject *>other
    for i in range(n):
        dtypes[i] = <cnp.PyArray_Descr *>native
        flags[i] = (cnp.NPY_ITER_NBO | cnp.NPY_ITER_ALIGNED | cnp.NPY_ITER_CONTIG
                    | cnp.NPY_ITER_OVERLAP_ASSUME_ELEMENTWISE | cnp.NPY_ITER_READONLY)
    flags[0] ^= cnp.NPY_ITER_READONLY | cnp.NPY_ITER_WRITEONLY | cnp.NPY_ITER_NO_BROADCAST
    cdef cnp.NpyIter *it = new_iterator(
        n, ops,
        cnp.NPY_ITER_EXTERNAL_LOOP | cnp.NPY_ITER_BUFFERED | cnp.NPY_ITER_GROWINNER | cnp.NPY_ITER_RANGED
        # Without the delay the buffers would be set up for element 0, and written back there.
        | cnp.NPY_ITER_DELAY_BUFALLOC | cnp.NPY_ITER_COPY_IF_OVERLAP | cnp.NPY_ITER_ZEROSIZE_OK,
        cnp.NPY_CORDER, cnp.NPY_SAME_KIND_CASTING, flags, dtypes)
    if it == NULL:
        raise MemoryError
    return it


# An operation by iterators: one for each worker, with the error that it met.
cdef struct Iterated:
    const fd_job *job
    const fd_operands *operands
    bint has_other
    int (*next_run)(cnp.NpyIter *) noexcept nogil
    cnp.NpyIter **iterators
    char **errors


cdef void iterate_part(void *context, int worker, int64_t first, int64_t n) noexcept nogil:
    cdef const Iterated *whole = <const Iterated *>context
    cdef cnp.NpyIter *it = whole.iterators[worker]
    cdef fd_operands operands = whole.operands[0]
    cdef char **pointers
    cdef cnp.npy_intp *count
    if whole.errors[worker] != NULL or not reset_without_gil(it, first, first + n, &whole.errors[worker]):
        return
    pointers = cnp.NpyIter_GetDataPtrArray(it)
    count = cnp.NpyIter_GetInnerLoopSizePtr(it)
    while True:
        walk_run(whole.job, &operands, pointers, whole.has_other, first, count[0])
        first += count[0]
        if not whole.next_run(it):
            break


cdef int iterate(const fd_job *job, fd_operands *operands, cnp.ndarray x, cnp.ndarray other, cnp.ndarray out,
                 int64_t start, int64_t stop, int threads) except -1:
    """Elements of any layout and byte order. By several threads it is the whole array."""
    cdef Iterated whole
    cdef cnp.NpyIter *it = iterator_over(x, other, out)
    cdef int64_t size = cnp.PyArray_SIZE(x)
    cdef int i, made = 1
    threads = <int>min(threads, size // chunk_for(size) + 1)
    whole.job = job
    whole.operands = operands
    whole.has_other = other is not None
    whole.iterators = &it
    whole.errors = NULL
    try:
        whole.next_run = cnp.NpyIter_GetIterNext(it, NULL)
        if cnp.NpyIter_IterationNeedsAPI(it):
            iterate_with_gil(&whole, start, stop)
            return 0
        whole.iterators = <cnp.NpyIter **>calloc(threads, sizeof(cnp.NpyIter *))
        whole.errors = <char **>calloc(threads, sizeof(char *))
        if whole.iterators == NULL or whole.errors == NULL:
            raise MemoryError
        whole.iterators[0] = it
        while made < threads:
            whole.iterators[made] = iterator_over(x, other, out)
            made += 1
        with nogil:
            if stop - start < size or size < least_shared:
                iterate_part(&whole, 0, start, stop - start)
            else:
                fd_share(iterate_part, &whole, size, chunk_for(size), threads)
        for i in range(threads):
            if whole.errors[i] != NULL:
                raise MemoryError  # for buffers: nothing else can fail
    finally:
        for i in range(1, made):
            cnp.NpyIter_Deallocate(whole.iterators[i])
        if whole.iterators != &it:
            free(whole.iterators)
        free(whole.errors)
        cnp.NpyIter_Deallocate(it)
    return 0


cdef int iterate_with_gil(const Iterated *whole, int64_t first, int64_t stop) except -1:
    """The same where casts call Python."""
    cdef cnp.NpyIter *it = whole.iterators[0]
    cdef fd_operands operands = whole.operands[0]
    cdef char **pointers
    cdef cnp.npy_intp *count
    cnp.NpyIter_ResetToIterIndexRange(it, first, stop, NULL)
    pointers = cnp.NpyIter_GetDataPtrArray(it)
    count = cnp.NpyIter_GetInnerLoopSizePtr(it)
    while True:
        walk_run(whole.job, &operands, pointers, whole.has_other, first, count[0])
        first += count[0]
        if not (<NextRunOrError>whole.next_run)(it):
            break
    return 0


cdef void walk_run(const fd_job *job, fd_operands *operands, char **pointers, bint has_other, int64_t first,
                   int64_t n) noexcept nogil:
    operands.y = pointers[0]
    operands.x = pointers[1]
    if has_other:
        operands.other = pointers[2]
    operands.bias_at = <size_t>first
    fd_walk(job, first, <size_t>n, operands)


cdef struct Kept:
    const fd_job *job
    uint8_t *out


cdef void keep_part(void *context, int worker, int64_t first, int64_t n) noexcept nogil:
    cdef const Kept *whole = <const Kept *>context
    fd_walk_keep(whole.job, first, <size_t>n, whole.out + first)


cdef tuple checked_part(int64_t size, tuple part, int threads):
    """The first element and the last (exclusive) that are to be done."""
    cdef int64_t start = 0, stop = size
    if part is not None:
        start, stop = part
    if not 0 <= start <= stop <= size or threads < 1 or (threads > 1 and stop - start < size):
        raise ValueError((size, part, threads))
    return start, stop


cdef void apply_direct(const fd_job *job, const fd_operands *operands, int64_t size, int64_t start, int64_t stop,
                       int threads) noexcept:
    """Elements of arrays that kernels take as they are. By several threads it is all of them."""
    cdef Whole whole
    whole.job = job
    whole.operands = operands
    whole.item = item_size(job.dtype)
    if size < FEW:
        apply_part(&whole, 0, start, stop - start)
        return
    with nogil:
        if stop - start < size:
            apply_part(&whole, 0, start, stop - start)
        else:
            apply_whole(job, operands, size, threads)


@cython.final
cdef class Kernels:
    """One instruction set of the C core. See :class:`fastdrop._kernels.Kernels`."""

    cdef const fd_kernels *kernels
    cdef readonly str name

    def __cinit__(self, str name not None):
        cdef size_t i = 0
        while fd_built(i) != NULL:
            if fd_supported(i) and fd_built(i).name == name.encode():
                self.kernels = fd_built(i)
            i += 1
        if self.kernels == NULL:
            raise ValueError(name)
        self.name = name

    @property
    def releases_gil(self):
        return True

    def philox(self, counter, key, int rounds=10):
        cdef uint32_t c[4]
        cdef uint32_t k[2]
        cdef uint32_t result[4]
        if not 0 <= rounds <= 10:
            raise ValueError(rounds)
        c = counter
        k = key
        self.kernels.philox(c, k, rounds, result)
        return tuple(result)

    def apply(self, int operation, Operands operands not None, Draw draw not None, IndexMap index_map not None,
              bint nontemporal=False, int threads=1, tuple part=None):
        cdef fd_job job
        cdef fd_operands c
        cdef cnp.ndarray x = operands.x, y = operands.y, other = operands.other, bias = operands.bias
        cdef char *px
        cdef char *py
        cdef char *po = NULL
        cdef bint is_direct
        cdef int64_t size, start, stop
        cdef size_t nbytes
        if x is None or y is None:
            raise TypeError((x, y))
        size = cnp.PyArray_SIZE(x)
        if not 0 <= operation < FD_NUM_OPS or not same_shape(x, y):
            raise ValueError((operation, size))
        job.op = <fd_op>operation
        job.dtype = <fd_dtype>dtype_code(x)
        start, stop = checked_part(size, part, threads)
        if start == stop:
            return
        if (other is None and reads_other(job.op)) or (other is not None and not same_shape(x, other)):
            raise ValueError("other")
        if bias is not None and not (cnp.PyArray_TYPE(bias) == cnp.PyArray_TYPE(x) and cnp.PyArray_ISCARRAY_RO(bias)):
            raise TypeError("bias")
        if reads_bias(job.op) and (bias is None or cnp.PyArray_SIZE(bias) < MIN_PERIOD):
            raise ValueError("bias")
        fill_job(&job, self.kernels, draw, index_map, size)
        if reads_normals(job.op) and job.map.bits != NULL:
            raise ValueError("bits")
        nbytes = <size_t>size * <size_t>cnp.PyArray_ITEMSIZE(x)
        px = cnp.PyArray_BYTES(x)
        py = cnp.PyArray_BYTES(y)
        is_direct = (is_apart(px, py, nbytes) and cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(y)
                     and cnp.PyArray_ISCARRAY_RO(x) and cnp.PyArray_ISCARRAY(y))
        c.scale = operands.scale
        c.shift = operands.shift
        c.fill = operands.fill
        c.other = c.bias = NULL
        if other is not None:
            po = cnp.PyArray_BYTES(other)
            is_direct = (is_direct and is_apart(po, py, nbytes) and cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(other)
                         and cnp.PyArray_ISCARRAY_RO(other))
        if bias is not None:
            c.bias = cnp.PyArray_BYTES(bias)
            c.period = <size_t>cnp.PyArray_SIZE(bias)
        c.nontemporal = nontemporal and is_direct
        if not is_direct:
            iterate(&job, &c, x, other, y, start, stop, threads)
            return
        c.x = px
        c.y = py
        c.other = po
        c.bias_at = 0
        apply_direct(&job, &c, size, start, stop, threads)

    def apply_at(self, int operation, int dtype, uint64_t x, uint64_t y, int64_t size, Draw draw not None,
                 IndexMap index_map not None, double scale, double shift=0.0, double fill=0.0, uint64_t other=0,
                 uint64_t bias=0, int64_t period=0, bint nontemporal=False, int threads=1, tuple part=None):
        cdef fd_job job
        cdef fd_operands c
        cdef size_t item
        cdef int64_t start, stop
        if not 0 <= operation < FD_NUM_OPS or not 0 <= dtype < FD_NUM_DTYPES or size < 0:
            raise ValueError((operation, dtype, size))
        job.op = <fd_op>operation
        job.dtype = <fd_dtype>dtype
        item = item_size(job.dtype)
        start, stop = checked_part(size, part, threads)
        if start == stop:
            return
        if ((x | y | other | bias) % item != 0 or x == 0 or y == 0 or (reads_other(job.op) and other == 0)
                or (reads_bias(job.op) and (bias == 0 or period < MIN_PERIOD))):
            raise ValueError((x, y, other, bias, period))
        fill_job(&job, self.kernels, draw, index_map, size)
        if reads_normals(job.op) and job.map.bits != NULL:
            raise ValueError("bits")
        c.x = <const void *>x
        c.y = <void *>y
        c.other = <const void *>other
        c.bias = <const void *>bias
        c.period = <size_t>period
        c.bias_at = 0
        c.scale = scale
        c.shift = shift
        c.fill = fill
        c.nontemporal = nontemporal
        apply_direct(&job, &c, size, start, stop, threads)

    def keep(self, cnp.ndarray out not None, Draw draw not None, IndexMap index_map not None, int threads=1,
             tuple part=None):
        cdef fd_job job
        cdef Kept whole
        cdef int64_t size = cnp.PyArray_SIZE(out), start, stop
        if cnp.PyArray_TYPE(out) != cnp.NPY_BOOL or not cnp.PyArray_ISCARRAY(out):
            raise ValueError(out.dtype)
        start, stop = checked_part(size, part, threads)
        if start == stop:
            return
        fill_job(&job, self.kernels, draw, index_map, size)
        whole.job = &job
        whole.out = <uint8_t *>cnp.PyArray_BYTES(out)
        with nogil:
            if stop - start < size or size < least_shared:
                keep_part(&whole, 0, start, stop - start)
            else:
                fd_share(keep_part, &whole, size, chunk_for(size), threads)

    def keep_bits(self, size_t n, Draw draw not None, uint64_t start=0):
        cdef cnp.npy_intp length = <cnp.npy_intp>(n // 8 + (n % 8 != 0))
        cdef cnp.ndarray bits = cnp.PyArray_EMPTY(1, &length, cnp.NPY_UINT8, 0)
        cdef fd_draw d = draw.draw
        if n > 0:
            with nogil:
                self.kernels.keep_bits(&d, start, n, <uint8_t *>cnp.PyArray_DATA(bits))
        return bits

    def order_bits(self, int64_t n, IndexMap index_map not None):
        cdef fd_job job
        cdef cnp.npy_intp length = <cnp.npy_intp>(n // 8 + (n % 8 != 0) + FD_BITS_SLACK)
        cdef cnp.ndarray bits
        if n < 1 or index_map.bits is None:
            raise ValueError(n)
        fill_job(&job, self.kernels, Draw(), index_map, n)
        bits = cnp.PyArray_ZEROS(1, &length, cnp.NPY_UINT8, 0)
        with nogil:
            fd_order_bits(&job.map, <size_t>n, <uint8_t *>cnp.PyArray_DATA(bits))
        return bits[:length - FD_BITS_SLACK]


def built():
    """Names of the instruction sets in this build, from the plainest to the fastest."""
    names = []
    while fd_built(len(names)) != NULL:
        names.append(fd_built(len(names)).name.decode())
    return tuple(names)


def supported():
    """Those of them that this machine can run, in the same order."""
    return tuple(name for i, name in enumerate(built()) if fd_supported(i))


# What clients with C of their own work with


cdef int threads_of_clients = 0


cdef const fd_kernels *running_kernels() noexcept nogil:
    return running


cdef void share_for_client(fd_part *part, void *context, int64_t n, int asked, int cpus) noexcept nogil:
    cdef int threads = 1
    if n < least_shared:
        part(context, 0, 0, n)
        return
    if n >= most_elements or fd_has_just_shared():
        threads = asked if asked > 0 else threads_of_clients
        if threads == 0:
            threads = fd_usable_cpus()
            threads = cpus if threads == 0 or cpus < threads else threads
        threads = <int>max(1, min(threads, n // least_chunk))
    fd_share(part, context, n, chunk_for(n), threads)


cdef fd_client core
core.size = sizeof(fd_client)
core.version = FD_CLIENT_VERSION
core.running = running_kernels
core.walk = fd_walk
core.share = share_for_client

# See csrc/client.h.
client = PyCapsule_New(&core, FD_CLIENT_NAME, NULL)


def set_threads_of_clients(number):
    """Let so many threads work on an array of a client; with 0 as many as there are CPUs to be used."""
    global threads_of_clients
    if number < 0:
        raise ValueError(number)
    threads_of_clients = <int>min(number, 1 << 30)
