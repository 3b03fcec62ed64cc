# SPDX-License-Identifier: BSD-3-Clause
"""The kernels of the C core on NumPy arrays: pointers, iterators and the release of the GIL.

There is no policy here and no check: arguments come from :mod:`fastdrop._engine`, which has seen to them.
:mod:`fastdrop._reference` has the same class in NumPy and says what each method means.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython
cimport numpy as cnp

import numpy as np

cnp.import_array()


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

    void fd_walk(const fd_job *, int64_t, size_t, const fd_operands *) noexcept
    void fd_walk_keep(const fd_job *, int64_t, size_t, uint8_t *) noexcept
    const fd_kernels *fd_built(size_t i)
    int fd_supported(size_t i)


cdef extern from *:
    """
    #ifdef _MSC_VER
    #include <intrin.h>
    #define FETCH_ADD(p, n) _InterlockedExchangeAdd64(p, n)
    #else
    #define FETCH_ADD(p, n) __atomic_fetch_add(p, n, __ATOMIC_ACQ_REL)
    #endif
    """
    int64_t FETCH_ADD(int64_t *p, int64_t n) noexcept nogil


# Casts of dtypes from outside NumPy can fail.
ctypedef int (*NextRunOrError)(cnp.NpyIter *) except? 0


cdef int fill_job(fd_job *job, const fd_kernels *kernels, uint64_t key, uint64_t call, uint64_t threshold,
                  int64_t offset, dims, bits) except -1:
    cdef const uint8_t[::1] view
    cdef int d
    job.kernels = kernels
    job.draw.key = key
    job.draw.call = call
    job.draw.threshold = threshold
    job.map.offset = offset
    job.map.bits = NULL
    if bits is not None:
        view = bits
        job.map.bits = &view[0]
        job.map.bytes = <size_t>view.shape[0]
    job.map.ndim = 0
    if dims is not None:
        for d, (length, stride) in enumerate(dims):
            job.map.shape[d] = length
            job.map.stride[d] = stride
        job.map.ndim = len(dims)
    return 0


cdef fd_dtype dtype_code(cnp.ndarray x):
    cdef int num = cnp.PyArray_TYPE(x)
    if num == cnp.NPY_FLOAT:
        return FD_F32
    if num == cnp.NPY_DOUBLE:
        return FD_F64
    if num == cnp.NPY_FLOAT16:
        return FD_F16
    return FD_BF16


cdef bint is_apart(const char *x, const char *y, size_t n) noexcept:
    """Whether n bytes at x are those at y, or have none in common with them."""
    return x == y or x + n <= y or y + n <= x


cdef int iterate(const fd_job *job, fd_operands *operands, cnp.ndarray x, cnp.ndarray other, cnp.ndarray out,
                 int64_t start, int64_t stop) except -1:
    """Elements of any layout and byte order, as contiguous native runs that NumPy's iterator buffers."""
    cdef cnp.PyArrayObject *ops[3]
    cdef cnp.PyArray_Descr *dtypes[3]
    cdef cnp.npy_uint32 flags[3]
    cdef cnp.NpyIter *it
    cdef int (*next_run)(cnp.NpyIter *) noexcept nogil
    cdef char **pointers
    cdef cnp.npy_intp *count
    cdef int i, n = 2 if other is None else 3
    cdef int64_t first = start
    cdef cnp.dtype native = x.dtype.newbyteorder("=")
    ops[0] = <cnp.PyArrayObject *>out
    ops[1] = <cnp.PyArrayObject *>x
    ops[2] = <cnp.PyArrayObject *>other
    for i in range(n):
        dtypes[i] = <cnp.PyArray_Descr *>native
        flags[i] = (cnp.NPY_ITER_NBO | cnp.NPY_ITER_ALIGNED | cnp.NPY_ITER_CONTIG
                    | cnp.NPY_ITER_OVERLAP_ASSUME_ELEMENTWISE | cnp.NPY_ITER_READONLY)
    flags[0] ^= cnp.NPY_ITER_READONLY | cnp.NPY_ITER_WRITEONLY | cnp.NPY_ITER_NO_BROADCAST
    it = cnp.NpyIter_MultiNew(
        n, ops,
        cnp.NPY_ITER_EXTERNAL_LOOP | cnp.NPY_ITER_BUFFERED | cnp.NPY_ITER_GROWINNER | cnp.NPY_ITER_RANGED
        # Without the delay the buffers would be set up for element 0, and written back there.
        | cnp.NPY_ITER_DELAY_BUFALLOC | cnp.NPY_ITER_COPY_IF_OVERLAP | cnp.NPY_ITER_ZEROSIZE_OK,
        cnp.NPY_CORDER, cnp.NPY_SAME_KIND_CASTING, flags, dtypes)
    try:
        cnp.NpyIter_ResetToIterIndexRange(it, start, stop, NULL)
        next_run = cnp.NpyIter_GetIterNext(it, NULL)
        pointers = cnp.NpyIter_GetDataPtrArray(it)
        count = cnp.NpyIter_GetInnerLoopSizePtr(it)
        if cnp.NpyIter_IterationNeedsAPI(it):
            while True:
                walk_run(job, operands, pointers, other is not None, first, count[0])
                first += count[0]
                if not (<NextRunOrError>next_run)(it):
                    break
        else:
            with nogil:
                while True:
                    walk_run(job, operands, pointers, n == 3, first, count[0])
                    first += count[0]
                    if not next_run(it):
                        break
    finally:
        cnp.NpyIter_Deallocate(it)
    return 0


cdef void walk_run(const fd_job *job, fd_operands *operands, char **pointers, bint has_other, int64_t first,
                   int64_t n) noexcept nogil:
    operands.y = pointers[0]
    operands.x = pointers[1]
    if has_other:
        operands.other = pointers[2]
    operands.bias_at = <size_t>first
    fd_walk(job, first, <size_t>n, operands)


@cython.final
cdef class Chunks:
    """The parts of an array that several threads take one by one, without the GIL.

    The caller takes them from the front and its helpers from the back: so call after call each finds in its own caches
    what it has worked on before.
    """

    cdef int64_t size
    cdef int64_t length
    cdef int64_t count
    cdef int64_t taken
    cdef int64_t from_front
    cdef int64_t from_back
    cdef int64_t done

    def __cinit__(self, int64_t size, int64_t length):
        self.size = size
        self.length = length
        self.count = (size + length - 1) // length

    cdef int64_t take(self, bint from_front) noexcept nogil:
        """The first element of a chunk that nobody else gets, or the size when there are no more."""
        if FETCH_ADD(&self.taken, 1) >= self.count:
            return self.size
        if from_front:
            return self.length * FETCH_ADD(&self.from_front, 1)
        return self.length * (self.count - 1 - FETCH_ADD(&self.from_back, 1))

    def wait(self, int64_t polls):
        """Look so many times whether all chunks are done, and return whether they are."""
        cdef bint is_done = False
        with nogil:
            while polls > 0 and not is_done:
                is_done = FETCH_ADD(&self.done, 0) == self.size
                polls -= 1
        return is_done


@cython.final
cdef class Kernels:
    """One instruction set of the C core."""

    cdef const fd_kernels *kernels
    cdef readonly str name

    def __cinit__(self, str name):
        cdef size_t i = 0
        while fd_built(i) != NULL:
            if fd_built(i).name == name.encode():
                self.kernels = fd_built(i)
            i += 1
        self.name = name

    def are_plain(self, x, out):
        cdef cnp.ndarray a, b
        cdef int num
        if type(x) is not cnp.ndarray:
            return False
        a = x
        num = cnp.PyArray_TYPE(a)
        if not cnp.PyArray_ISCARRAY_RO(a) or not (num == cnp.NPY_FLOAT or num == cnp.NPY_DOUBLE
                                                  or num == cnp.NPY_FLOAT16):
            return False
        if out is None:
            return True
        if type(out) is not cnp.ndarray:
            return False
        b = out
        return (cnp.PyArray_TYPE(b) == num and cnp.PyArray_ISCARRAY(b) and cnp.PyArray_NDIM(a) == cnp.PyArray_NDIM(b)
                and cnp.PyArray_CompareLists(cnp.PyArray_DIMS(a), cnp.PyArray_DIMS(b), cnp.PyArray_NDIM(a)))

    def philox(self, counter, key, int rounds=10):
        cdef uint32_t c[4]
        cdef uint32_t k[2]
        cdef uint32_t result[4]
        c = counter
        k = key
        self.kernels.philox(c, k, rounds, result)
        return tuple(result)

    def apply(self, cnp.ndarray x, cnp.ndarray out, int64_t start, int64_t stop, uint64_t key, uint64_t call,
              uint64_t threshold, double scale, int64_t offset=0, dims=None, bits=None, bint stream=False,
              Chunks chunks=None, bint from_front=False, int op=FD_DROPOUT, cnp.ndarray other=None,
              cnp.ndarray bias=None, double shift=0.0, double fill=0.0):
        cdef fd_job job
        cdef fd_operands operands
        cdef int64_t first = start
        cdef size_t n = <size_t>(stop - start)
        cdef size_t item = <size_t>cnp.PyArray_ITEMSIZE(x)
        cdef char *px = cnp.PyArray_BYTES(x) + <size_t>start * item
        cdef char *py = cnp.PyArray_BYTES(out) + <size_t>start * item
        cdef char *po = NULL
        cdef bint is_direct = (is_apart(px, py, n * item) and cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(out)
                               and cnp.PyArray_ISCARRAY_RO(x) and cnp.PyArray_ISCARRAY(out))
        if n == 0:
            return
        fill_job(&job, self.kernels, key, call, threshold, offset, dims, bits)
        job.op = <fd_op>op
        job.dtype = dtype_code(x)
        operands.scale = scale
        operands.shift = shift
        operands.fill = fill
        operands.nontemporal = False
        operands.other = NULL
        if other is not None:
            po = cnp.PyArray_BYTES(other) + <size_t>start * item
            is_direct = is_direct and is_apart(po, py, n * item) and cnp.PyArray_ISCARRAY_RO(other)
        if bias is not None:
            operands.bias = cnp.PyArray_BYTES(bias)
            operands.period = <size_t>cnp.PyArray_SIZE(bias)
        if not is_direct:
            iterate(&job, &operands, x, other, out, start, stop)
            return
        operands.nontemporal = stream
        with nogil:
            while True:
                if chunks is not None:
                    first = chunks.take(from_front)
                    if first == stop:
                        break
                    n = <size_t>min(chunks.length, stop - first)
                operands.x = px + <size_t>(first - start) * item
                operands.y = py + <size_t>(first - start) * item
                operands.other = po + <size_t>(first - start) * item if po != NULL else NULL
                operands.bias_at = <size_t>first
                fd_walk(&job, first, n, &operands)
                if chunks is None:
                    break
                FETCH_ADD(&chunks.done, <int64_t>n)

    def keep(self, cnp.ndarray out, int64_t start, int64_t stop, uint64_t key, uint64_t call,
             uint64_t threshold, int64_t offset=0, dims=None, bits=None):
        cdef fd_job job
        cdef uint8_t *y = <uint8_t *>cnp.PyArray_BYTES(out) + start
        if stop == start:
            return
        fill_job(&job, self.kernels, key, call, threshold, offset, dims, bits)
        with nogil:
            fd_walk_keep(&job, start, <size_t>(stop - start), y)

    def keep_bits(self, size_t n, uint64_t key, uint64_t call, uint64_t threshold, uint64_t start=0):
        cdef fd_draw draw
        cdef uint8_t[::1] view
        bits = np.empty((n + 7) // 8, np.uint8)
        draw.key = key
        draw.call = call
        draw.threshold = threshold
        if n > 0:
            view = bits
            with nogil:
                self.kernels.keep_bits(&draw, start, n, &view[0])
        return bits


def built():
    """Names of the instruction sets in this build, from the plainest to the fastest."""
    names = []
    while fd_built(len(names)) != NULL:
        names.append(fd_built(len(names)).name.decode())
    return tuple(names)


def supported():
    """Those of them that this machine can run, in the same order."""
    return tuple(name for i, name in enumerate(built()) if fd_supported(i))
