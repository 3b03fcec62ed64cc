/* SPDX-License-Identifier: BSD-3-Clause
 *
 * _ffi.c: dropout as a custom call of XLA, by the kernels and the threads of the core that this process has loaded.
 *
 * XLA calls it on threads of its own, several at a time. Nothing here needs Python, links with anything or keeps state,
 * but for what fastdrop.jax says once by fastdrop_jax_connect(). What the attributes mean stands in _primitive.py,
 * which writes them. A program that was compiled or exported elsewhere may come with others, so all are checked that
 * memory depends on.
 */
#include <fenv.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "operands.h"
#include "xla/ffi/api/c_api.h"

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/* The domain of fold_in(): see fastdrop._streams. */
enum { FOLD_IN = 32 };

static struct {
    const fd_client *core;
    uint64_t past_caches; /* bytes of a result from which it is stored past the caches */
    int cpus;
} host;

/* The version of XLA's interface that this was compiled for, as two numbers. */
EXPORTED void fastdrop_jax_interface(int version[2])
{
    version[0] = XLA_FFI_API_MAJOR;
    version[1] = XLA_FFI_API_MINOR;
}

/* To be called before XLA runs anything. Returns 0 for a core that this was not compiled for. */
EXPORTED int fastdrop_jax_connect(const fd_client *core, uint64_t past_caches, int cpus)
{
    if (core->size != sizeof *core || core->version != FD_CLIENT_VERSION) {
        return 0;
    }
    host.core = core;
    host.past_caches = past_caches;
    host.cpus = cpus;
    return 1;
}

/* A call */

typedef struct {
    fd_job job;           /* of all masks alike, but for its key, its offset and its bits */
    fd_operands operands; /* whole arrays */
    int64_t masks;        /* one for each key */
    int64_t each;         /* elements that one is for */
    size_t item;          /* bytes of an element */
    const uint32_t *words;
    int64_t num_words; /* of a key: 2 or 4 */
    const int32_t *shards;
    const int64_t *steps;
    int64_t num_shards; /* numbers for each mask that say which part of a whole it is */
    int64_t span;       /* decisions that are drawn at once, because elements share them; or 0 */
    uint8_t *bits;      /* those of all masks, or NULL */
    size_t bytes;       /* of those of one */
    int64_t threads;
} call;

static uint64_t joined(uint32_t low, uint32_t high) { return low | (uint64_t)high << 32; }

static uint64_t key_of(const call *c, int64_t mask)
{
    const uint32_t *const w = c->words + mask * c->num_words;
    if (c->num_words == 2) {
        return joined(w[0], w[1]);
    }
    const uint32_t counter[4] = {w[2], w[3], 0, FOLD_IN};
    uint32_t folded[4];
    c->job.kernels->philox(counter, w, 10, folded);
    return joined(folded[0], folded[1]);
}

/* The index, in the stream, of the first element of a mask. */
static uint64_t offset_of(const call *c, int64_t mask)
{
    uint64_t offset = 0;
    for (int64_t i = 0; i < c->num_shards; ++i) {
        offset += (uint64_t)(uint32_t)c->shards[mask * c->num_shards + i] * (uint64_t)c->steps[i];
    }
    return offset;
}

/* Decisions that several elements share are drawn once. Where there is no memory for them, it takes longer. */
static void hold_bits(call *c)
{
    c->bytes = (size_t)(c->span / 8 + (c->span % 8 != 0));
    if (c->bytes > SIZE_MAX / (size_t)c->masks) {
        return;
    }
    c->bits = malloc(c->bytes * (size_t)c->masks);
    if (c->bits == NULL) {
        return;
    }
    fd_draw draw = c->job.draw;
    for (int64_t mask = 0; mask < c->masks; ++mask) {
        draw.key = key_of(c, mask);
        c->job.kernels->keep_bits(&draw, offset_of(c, mask), (size_t)c->span, c->bits + (size_t)mask * c->bytes);
    }
}

static void do_part(void *context, int worker, int64_t first, int64_t n)
{
    const call *const c = context;
    fd_job job = c->job;
    (void)worker;
    while (n > 0) {
        const int64_t mask = first / c->each, done = first % c->each, left = c->each - done;
        const int64_t some = left < n ? left : n;
        const fd_operands part = operands_at(&c->operands, (size_t)first, c->item);
        if (c->bits != NULL) {
            job.map.bits = c->bits + (size_t)mask * c->bytes;
        } else {
            job.draw.key = key_of(c, mask);
            job.map.offset = (int64_t)offset_of(c, mask);
        }
        host.core->walk(&job, done, (size_t)some, &part);
        first += some;
        n -= some;
    }
}

static void run(call *c)
{
    if (c->span > 0) {
        hold_bits(c);
        c->job.map.bytes = c->bytes;
    }
    /* XLA lets its threads treat denormals as zeros. Here they have the bits that they have everywhere. */
    fenv_t before;
    fegetenv(&before);
    fesetenv(FE_DFL_ENV);
    host.core->share(do_part, c, c->masks * c->each, (int)c->threads, host.cpus);
    fesetenv(&before);
    free(c->bits);
}

/* What XLA hands over */

/* An attribute by its name; NULL where there is none of this kind. */
static const void *attribute(const XLA_FFI_CallFrame *frame, const char *name, XLA_FFI_AttrType kind)
{
    const XLA_FFI_Attrs *const attrs = &frame->attrs;
    for (int64_t i = 0; i < attrs->size; ++i) {
        const XLA_FFI_ByteSpan *const span = attrs->names[i];
        if (attrs->types[i] == kind && span->len == strlen(name) && memcmp(span->ptr, name, span->len) == 0) {
            return attrs->attrs[i];
        }
    }
    return NULL;
}

static int read_number(const XLA_FFI_CallFrame *frame, const char *name, int64_t *number)
{
    const XLA_FFI_Scalar *const scalar = attribute(frame, name, XLA_FFI_AttrType_SCALAR);
    if (scalar == NULL || scalar->dtype != XLA_FFI_DataType_S64) {
        return 0;
    }
    memcpy(number, scalar->value, sizeof *number);
    return 1;
}

static const void *read_array(const XLA_FFI_CallFrame *frame, const char *name, XLA_FFI_DataType dtype, int64_t *size)
{
    const XLA_FFI_Array *const array = attribute(frame, name, XLA_FFI_AttrType_ARRAY);
    *size = 0;
    if (array == NULL || array->dtype != dtype) {
        return NULL;
    }
    *size = (int64_t)array->size;
    return array->data;
}

static int64_t elements_of(const XLA_FFI_Buffer *buffer)
{
    int64_t n = 1;
    for (int64_t i = 0; i < buffer->rank; ++i) {
        n *= buffer->dims[i];
    }
    return n;
}

static int dtype_of(XLA_FFI_DataType dtype)
{
    switch (dtype) {
    case XLA_FFI_DataType_F16: return FD_F16;
    case XLA_FFI_DataType_BF16: return FD_BF16;
    case XLA_FFI_DataType_F32: return FD_F32;
    case XLA_FFI_DataType_F64: return FD_F64;
    default: return -1;
    }
}

/* Buffers: x, the words of keys, and where there are shards, their numbers. Returns what is wrong, or NULL. */
static const char *read_buffers(const XLA_FFI_CallFrame *frame, call *c)
{
    static const size_t items[FD_NUM_DTYPES] = {[FD_F16] = 2, [FD_BF16] = 2, [FD_F32] = 4, [FD_F64] = 8};
    const int64_t count = frame->args.size;
    if (count < 2 || count > 3 || frame->rets.size != 1) {
        return "2 or 3 operands and 1 result are expected";
    }
    const XLA_FFI_Buffer *const x = frame->args.args[0], *const words = frame->args.args[1];
    const XLA_FFI_Buffer *const shards = count == 3 ? frame->args.args[2] : NULL, *const y = frame->rets.rets[0];
    const int dtype = dtype_of(x->dtype);
    const int64_t n = elements_of(x);
    if (dtype < 0 || y->dtype != x->dtype || elements_of(y) != n) {
        return "x must be of float16, bfloat16, float32 or float64, and the result like it";
    }
    if (words->dtype != XLA_FFI_DataType_U32 || words->rank < 1) {
        return "keys must be of uint32";
    }
    c->num_words = words->dims[words->rank - 1];
    if (c->num_words != 2 && c->num_words != 4) {
        return "a key must be 2 or 4 words";
    }
    c->masks = elements_of(words) / c->num_words;
    c->each = c->masks > 0 ? n / c->masks : 0;
    if (c->masks * c->each != n) {
        return "each key must be for as many elements";
    }
    if (shards != NULL && (shards->dtype != XLA_FFI_DataType_S32 || shards->rank < 1 ||
                           elements_of(shards) != c->masks * shards->dims[shards->rank - 1])) {
        return "shards must be numbers of int32 for each key";
    }
    c->num_shards = shards != NULL ? shards->dims[shards->rank - 1] : 0;
    c->shards = shards != NULL ? shards->data : NULL;
    c->words = words->data;
    c->item = items[dtype];
    c->job.dtype = (fd_dtype)dtype;
    c->operands.x = x->data;
    c->operands.y = y->data;
    c->operands.nontemporal = x->data != y->data && (uint64_t)n * c->item >= host.past_caches;
    return NULL;
}

/* The dimensions that a mask has, behind those of the keys. */
static const char *read_map(const XLA_FFI_CallFrame *frame, call *c)
{
    int64_t ndim, num_strides;
    const int64_t *const lengths = read_array(frame, "lengths", XLA_FFI_DataType_S64, &ndim);
    const int64_t *const strides = read_array(frame, "strides", XLA_FFI_DataType_S64, &num_strides);
    if (lengths == NULL || strides == NULL || ndim != num_strides || ndim < 1 || ndim > FD_MAX_DIMS) {
        return "there must be as many lengths as strides";
    }
    int64_t left = c->each;
    uint64_t last = 0;
    for (int64_t d = 0; d < ndim; ++d) {
        if (lengths[d] < 1 || left % lengths[d] != 0 || strides[d] < 0) {
            return "lengths must be those of x, and strides at least 0";
        }
        left /= lengths[d];
        last += (uint64_t)(lengths[d] - 1) * (uint64_t)strides[d];
    }
    if (left != 1 || (c->span > 0 && last >= (uint64_t)c->span)) {
        return "lengths and strides must be those of x, and within the span";
    }
    if (ndim == 1 && strides[0] == 1) {
        return NULL; /* elements follow each other */
    }
    c->job.map.ndim = (int)ndim;
    memcpy(c->job.map.shape, lengths, (size_t)ndim * sizeof *lengths);
    memcpy(c->job.map.stride, strides, (size_t)ndim * sizeof *strides);
    return NULL;
}

static const char *read_attributes(const XLA_FFI_CallFrame *frame, call *c)
{
    int64_t op, threshold, num_numbers, num_steps;
    if (!read_number(frame, "op", &op) || !read_number(frame, "threshold", &threshold) ||
        !read_number(frame, "span", &c->span) || !read_number(frame, "threads", &c->threads)) {
        return "op, threshold, span and threads must be int64";
    }
    const double *const numbers = read_array(frame, "numbers", XLA_FFI_DataType_F64, &num_numbers);
    if (numbers == NULL || num_numbers != 3) {
        return "numbers must be scale, shift and fill";
    }
    c->steps = read_array(frame, "steps", XLA_FFI_DataType_S64, &num_steps);
    if (c->num_shards > 0 && (c->steps == NULL || num_steps != c->num_shards)) {
        return "there must be a step for each number of a shard";
    }
    if (op != FD_DROPOUT && op != FD_ALPHA_DROPOUT && op != FD_GAUSSIAN_DROPOUT && op != FD_GAUSSIAN_NOISE) {
        return "op must be that of dropout, alpha dropout, Gaussian dropout or Gaussian noise";
    }
    const int64_t all = INT64_C(1) << 32;
    if (threshold < 0 || threshold > all || c->span < 0 || (c->span > 0 && reads_normals((fd_op)op)) ||
        c->threads < 0 || c->threads > INT32_MAX) {
        return "threshold, span and threads must be in range";
    }
    c->job.op = (fd_op)op;
    c->job.draw.threshold = (uint64_t)threshold;
    c->operands.scale = numbers[0];
    c->operands.shift = numbers[1];
    c->operands.fill = numbers[2];
    return read_map(frame, c);
}

static XLA_FFI_Error *error(const XLA_FFI_CallFrame *frame, XLA_FFI_Error_Code code, const char *message)
{
    XLA_FFI_Error_Create_Args args = {
        .struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE,
        .message = message,
        .errc = code,
    };
    return frame->api->XLA_FFI_Error_Create(&args);
}

/* Say for which version of XLA's interface this was compiled, if that is what XLA asks. */
static int says_version(const XLA_FFI_CallFrame *frame)
{
    XLA_FFI_Extension_Base *const extension = frame->extension_start;
    if (extension == NULL || extension->type != XLA_FFI_Extension_Metadata) {
        return 0;
    }
    XLA_FFI_Metadata *const metadata = ((XLA_FFI_Metadata_Extension *)extension)->metadata;
    metadata->api_version = (XLA_FFI_Api_Version){
        .struct_size = XLA_FFI_Api_Version_STRUCT_SIZE,
        .major_version = XLA_FFI_API_MAJOR,
        .minor_version = XLA_FFI_API_MINOR,
    };
    metadata->traits = 0;
    return 1;
}

EXPORTED XLA_FFI_Error *fastdrop_jax_dropout(XLA_FFI_CallFrame *frame)
{
    if (says_version(frame) || frame->stage != XLA_FFI_ExecutionStage_EXECUTE) {
        return NULL;
    }
    call c = {.bits = NULL};
    c.job.kernels = host.core->running();
    if (c.job.kernels == NULL) {
        return error(frame, XLA_FFI_Error_Code_FAILED_PRECONDITION,
                     "fastdrop.jax: the reference in NumPy runs in place of the compiled core, and XLA cannot call it");
    }
    const char *wrong = read_buffers(frame, &c);
    if (wrong == NULL && c.masks * c.each == 0) {
        return NULL;
    }
    if (wrong == NULL) {
        wrong = read_attributes(frame, &c);
    }
    if (wrong != NULL) {
        return error(frame, XLA_FFI_Error_Code_INVALID_ARGUMENT, wrong);
    }
    run(&c);
    return NULL;
}
