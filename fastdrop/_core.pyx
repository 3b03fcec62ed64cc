# SPDX-License-Identifier: BSD-3-Clause
"""The kernels of the C core on NumPy arrays: pointers, iterators and the release of the GIL.

There is no policy here and no check: arguments come from :mod:`fastdrop._engine`, which has seen to them.
:mod:`fastdrop._reference` has the same class in NumPy and says what each method means.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

cimport cython
cimport numpy as cnp

import numpy as np

cnp.import_array()


cdef extern from "fastdrop.h" nogil:
    ctypedef struct fd_draw:
        uint64_t key
        uint64_t call
        uint64_t threshold

    enum:
        FD_F16
        FD_BF16
        FD_F32
        FD_F64

    ctypedef void (*fd_apply)(const uint8_t *, uint64_t, size_t, const void *, void *, double, int) noexcept nogil
    ctypedef void (*fd_dropout)(const fd_draw *, uint64_t, size_t, const void *, void *, double, int) noexcept nogil

    ctypedef struct fd_kernels:
        const char *name
        void (*philox)(const uint32_t *counter, const uint32_t *key, int rounds, uint32_t *result) noexcept nogil
        void (*keep_bits)(const fd_draw *, uint64_t, size_t, uint8_t *) noexcept nogil
        void (*keep_bools)(const fd_draw *, uint64_t, size_t, uint8_t *) noexcept nogil
        fd_dropout dropout[4]
        fd_apply apply[4]

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


cdef enum:
    MAX_DIMS = 64
    ONES = 512

cdef uint8_t all_kept[ONES]
memset(all_kept, 0xFF, sizeof(all_kept))

# One call, in C terms. Element i of the array has index offset + sum(coordinate * stride) in the stream of the mask,
# or in `bits` where those are given. No dimensions means that the index is offset + i.
cdef struct Job:
    const fd_kernels *kernels
    fd_draw draw
    const uint8_t *bits
    int dtype
    double scale
    int stream
    int64_t offset
    int ndim
    int64_t shape[MAX_DIMS]
    int64_t stride[MAX_DIMS]

# Casts of dtypes from outside NumPy can fail.
ctypedef int (*NextRunOrError)(cnp.NpyIter *) except? 0

# What is done with a run of n elements whose indices follow each other, or are all the same (`repeated`).
ctypedef void (*Run)(const Job *job, int64_t index, size_t n, bint repeated, char *x, char *y) noexcept nogil


cdef bint is_kept(const Job *job, int64_t index) noexcept nogil:
    cdef uint8_t bit
    if job.bits != NULL:
        return job.bits[index >> 3] >> (index & 7) & 1
    job.kernels.keep_bits(&job.draw, <uint64_t>index, 1, &bit)
    return bit


cdef void apply_run(const Job *job, int64_t index, size_t n, bint repeated, char *x, char *y) noexcept nogil:
    cdef size_t item = 2 if job.dtype == FD_F16 or job.dtype == FD_BF16 else 4 if job.dtype == FD_F32 else 8
    cdef size_t part
    if not repeated:
        if job.bits != NULL:
            job.kernels.apply[job.dtype](job.bits, <uint64_t>index, n, x, y, job.scale, job.stream)
        else:
            job.kernels.dropout[job.dtype](&job.draw, <uint64_t>index, n, x, y, job.scale, job.stream)
    elif is_kept(job, index):
        while n > 0:
            part = n if n < 8 * ONES else 8 * ONES
            job.kernels.apply[job.dtype](all_kept, 0, part, x, y, job.scale, job.stream)
            x += part * item
            y += part * item
            n -= part
    else:
        memset(y, 0, n * item)


cdef void keep_run(const Job *job, int64_t index, size_t n, bint repeated, char *x, char *y) noexcept nogil:
    cdef size_t i
    if repeated:
        memset(y, is_kept(job, index), n)
    elif job.bits != NULL:
        for i in range(n):
            y[i] = job.bits[(index + <int64_t>i) >> 3] >> ((index + <int64_t>i) & 7) & 1
    else:
        job.kernels.keep_bools(&job.draw, <uint64_t>index, n, <uint8_t *>y)


cdef void walk(const Job *job, Run run, int64_t first, size_t n, char *x, char *y,
               size_t item_x, size_t item_y) noexcept nogil:
    """Elements first .. first+n-1 of the array, as runs."""
    cdef int64_t at[MAX_DIMS]
    cdef int64_t index = job.offset
    cdef int64_t rest = first
    cdef int last = job.ndim - 1
    cdef int d
    cdef size_t part
    if job.ndim == 0:
        run(job, job.offset + first, n, False, x, y)
        return
    for d in range(last, -1, -1):
        at[d] = rest % job.shape[d]
        rest //= job.shape[d]
        index += at[d] * job.stride[d]
    while n > 0:
        part = <size_t>(job.shape[last] - at[last]) if job.stride[last] == 0 or job.stride[last] == 1 else 1
        part = min(part, n)
        run(job, index, part, job.stride[last] == 0, x, y)
        x += part * item_x
        y += part * item_y
        n -= part
        d = last
        at[d] += <int64_t>part
        index += <int64_t>part * job.stride[d]
        while d > 0 and at[d] == job.shape[d]:
            index -= at[d] * job.stride[d]
            at[d] = 0
            d -= 1
            at[d] += 1
            index += job.stride[d]


cdef int fill_job(Job *job, const fd_kernels *kernels, uint64_t key, uint64_t call, uint64_t threshold,
                  int64_t offset, dims, bits) except -1:
    cdef const uint8_t[::1] view
    cdef int d
    job.kernels = kernels
    job.draw.key = key
    job.draw.call = call
    job.draw.threshold = threshold
    job.offset = offset
    job.stream = False
    job.bits = NULL
    if bits is not None:
        view = bits
        job.bits = &view[0]
    job.ndim = 0
    if dims is not None:
        for d, (length, stride) in enumerate(dims):
            job.shape[d] = length
            job.stride[d] = stride
        job.ndim = len(dims)
    return 0


cdef int dtype_code(cnp.ndarray x):
    cdef int num = cnp.PyArray_TYPE(x)
    if num == cnp.NPY_FLOAT:
        return FD_F32
    if num == cnp.NPY_DOUBLE:
        return FD_F64
    if num == cnp.NPY_FLOAT16:
        return FD_F16
    return FD_BF16


cdef int iterate(Job *job, cnp.ndarray x, cnp.ndarray out, int64_t start, int64_t stop) except -1:
    """Elements of any layout and byte order, as contiguous native runs that NumPy's iterator buffers."""
    cdef cnp.PyArrayObject *ops[2]
    cdef cnp.PyArray_Descr *dtypes[2]
    cdef cnp.npy_uint32 flags[2]
    cdef cnp.NpyIter *it
    cdef int (*next_run)(cnp.NpyIter *) noexcept nogil
    cdef char **pointers
    cdef cnp.npy_intp *count
    cdef int64_t first = start
    cdef size_t item = <size_t>cnp.PyArray_ITEMSIZE(x)
    cdef cnp.dtype native = x.dtype.newbyteorder("=")
    ops[0] = <cnp.PyArrayObject *>x
    ops[1] = <cnp.PyArrayObject *>out
    dtypes[0] = dtypes[1] = <cnp.PyArray_Descr *>native
    flags[0] = flags[1] = (cnp.NPY_ITER_NBO | cnp.NPY_ITER_ALIGNED | cnp.NPY_ITER_CONTIG
                           | cnp.NPY_ITER_OVERLAP_ASSUME_ELEMENTWISE)
    flags[0] |= cnp.NPY_ITER_READONLY
    flags[1] |= cnp.NPY_ITER_WRITEONLY | cnp.NPY_ITER_NO_BROADCAST
    it = cnp.NpyIter_MultiNew(
        2, ops,
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
                walk(job, apply_run, first, <size_t>count[0], pointers[0], pointers[1], item, item)
                first += count[0]
                if not (<NextRunOrError>next_run)(it):
                    break
        else:
            with nogil:
                while True:
                    walk(job, apply_run, first, <size_t>count[0], pointers[0], pointers[1], item, item)
                    first += count[0]
                    if not next_run(it):
                        break
    finally:
        cnp.NpyIter_Deallocate(it)
    return 0


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
              Chunks chunks=None, bint from_front=False):
        cdef Job job
        cdef int64_t first, part
        cdef size_t item = <size_t>cnp.PyArray_ITEMSIZE(x)
        cdef char *px = cnp.PyArray_BYTES(x) + <size_t>start * item
        cdef char *py = cnp.PyArray_BYTES(out) + <size_t>start * item
        cdef size_t n = <size_t>(stop - start)
        cdef bint apart = px == py or px + n * item <= py or py + n * item <= px
        if n == 0:
            return
        fill_job(&job, self.kernels, key, call, threshold, offset, dims, bits)
        job.dtype = dtype_code(x)
        job.scale = scale
        if (apart and cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(out)
                and cnp.PyArray_ISCARRAY_RO(x) and cnp.PyArray_ISCARRAY(out)):
            job.stream = stream
            with nogil:
                if chunks is None:
                    walk(&job, apply_run, start, n, px, py, item, item)
                else:
                    while True:
                        first = chunks.take(from_front)
                        if first == stop:
                            break
                        part = min(chunks.length, stop - first)
                        walk(&job, apply_run, first, <size_t>part, px + <size_t>first * item,
                             py + <size_t>first * item, item, item)
                        FETCH_ADD(&chunks.done, part)
        else:
            iterate(&job, x, out, start, stop)

    def keep(self, cnp.ndarray out, int64_t start, int64_t stop, uint64_t key, uint64_t call,
             uint64_t threshold, int64_t offset=0, dims=None, bits=None):
        cdef Job job
        cdef char *py = cnp.PyArray_BYTES(out) + start
        if stop == start:
            return
        fill_job(&job, self.kernels, key, call, threshold, offset, dims, bits)
        with nogil:
            walk(&job, keep_run, start, <size_t>(stop - start), NULL, py, 0, 1)

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
