/* SPDX-License-Identifier: BSD-3-Clause
 *
 * apply.inc.h: keep bits applied to elements, and the loop that draws and applies in one pass.
 *
 * Elements are handled in groups of 32. A group function turns four bytes of keep bits into 32 elements of its kind;
 * all loops here are written once and take it as an argument that the compiler inlines.
 *
 * The bits stay in memory until they are masks. A load brings them to where vectors are masked, while every way through
 * a general register needs the very units that the generator keeps busy: that cost AVX-512 10 %. So the bits of a tile
 * are first moved, as a whole, such that each group begins with a byte.
 */

enum {
    GROUP = 32,
    ALIGNMENT = 64, /* of the stores: a cache line */
    F32_LANES = 2 * LANES,
    F64_LANES = LANES,
    BF16_LANES = 4 * LANES, /* as float32 they are two vectors, of the elements with even and odd numbers */
    AHEAD = 2048,           /* bytes between an element in work and the one that is prefetched */
};

typedef struct {
    double scale, shift, fill;
} numbers;

/* One of an operation's numbers, in its arithmetic type. */
INLINE fvec number_f32(double a) { return set1_f32((float)a); }
INLINE dvec number_f64(double a) { return set1_f64(a); }

/* An operation on a vector of elements, whose keep bits begin with bit i of the four bytes at keep. */
#define DEFINE_OPERATE(arithmetic, vector)                                                                             \
    INLINE vector operate_##arithmetic(fd_op op, numbers o, vector x, vector other, vector bias, const uint8_t *keep,  \
                                       int i)                                                                          \
    {                                                                                                                  \
        const vector scale = number_##arithmetic(o.scale);                                                             \
        switch (op) {                                                                                                  \
        case FD_BIAS_DROPOUT_ADD:                                                                                      \
            x = add_##arithmetic(x, bias);                                                                             \
            return add_##arithmetic(other, scale_kept_##arithmetic(x, scale, keep, i));                                \
        case FD_DROPOUT_ADD:                                                                                           \
            return add_##arithmetic(other, scale_kept_##arithmetic(x, scale, keep, i));                                \
        case FD_RELU_DROPOUT:                                                                                          \
            return scale_kept_##arithmetic(unless_negative_##arithmetic(x), scale, keep, i);                           \
        case FD_RELU_BACKWARD:                                                                                         \
            return where_nonzero_##arithmetic(other, scale_kept_##arithmetic(x, scale, keep, i));                      \
        case FD_ALPHA_DROPOUT:                                                                                         \
            x = add_##arithmetic(mul_##arithmetic(x, scale), number_##arithmetic(o.shift));                            \
            return choose_##arithmetic(x, number_##arithmetic(o.fill), keep, i);                                       \
        case FD_ZONEOUT:                                                                                               \
            return choose_##arithmetic(x, other, keep, i);                                                             \
        default:                                                                                                       \
            return scale_kept_##arithmetic(x, scale, keep, i);                                                         \
        }                                                                                                              \
    }

DEFINE_OPERATE(f32, fvec)
DEFINE_OPERATE(f64, dvec)

#undef DEFINE_OPERATE

/* Where the elements of a group stand. */
typedef struct {
    const void *x, *other, *bias;
    void *y;
} place;

/* An operation, with the numbers of o, on GROUP elements. */
typedef void group_function(fd_op op, numbers o, place at, const uint8_t *keep, int nontemporal);

#define DEFINE_GROUP(name, dtype, element, arithmetic, vector, lanes)                                                  \
    INLINE void name(fd_op op, numbers o, place at, const uint8_t *keep, int nontemporal)                              \
    {                                                                                                                  \
        for (int i = 0; i < GROUP; i += lanes) {                                                                       \
            const vector x = load_##dtype((const element *)at.x + i);                                                  \
            const vector other = reads_other(op) ? load_##dtype((const element *)at.other + i) : x;                    \
            const vector bias = reads_bias(op) ? load_##dtype((const element *)at.bias + i) : x;                       \
            store_##dtype((element *)at.y + i, operate_##arithmetic(op, o, x, other, bias, keep, i), nontemporal);     \
        }                                                                                                              \
    }

DEFINE_GROUP(group_f16, f16, uint16_t, f32, fvec, F32_LANES)
DEFINE_GROUP(group_widened_bf16, bf16, uint16_t, f32, fvec, F32_LANES)
DEFINE_GROUP(group_f32, f32, float, f32, fvec, F32_LANES)
DEFINE_GROUP(group_f64, f64, double, f64, dvec, F64_LANES)

#undef DEFINE_GROUP

/* Plain dropout gains a tenth to a fifth where even and odd elements are taken apart instead of widened in turn. */
INLINE void group_bf16(fd_op op, numbers o, place at, const uint8_t *keep, int nontemporal)
{
    if (op != FD_DROPOUT) {
        group_widened_bf16(op, o, at, keep, nontemporal);
        return;
    }
    for (int i = 0; i < GROUP; i += BF16_LANES) {
        scale_kept_bf16((const uint16_t *)at.x + i, (uint16_t *)at.y + i, number_f32(o.scale), keep, i, nontemporal);
    }
}

INLINE void group_bits(fd_op op, numbers o, place at, const uint8_t *keep, int nontemporal)
{
    (void)op, (void)o, (void)nontemporal;
    memcpy(at.y, keep, GROUP / 8);
}

INLINE void group_bools(fd_op op, numbers o, place at, const uint8_t *keep, int nontemporal)
{
    (void)op, (void)o, (void)nontemporal;
    const uint32_t bits = load_le32(keep);
    for (int i = 0; i < GROUP; ++i) {
        ((uint8_t *)at.y)[i] = bits >> i & 1;
    }
}

/* An operation, what it works on, and how far it has come. */
typedef struct {
    fd_op op;
    fd_operands o;
    unsigned bits_x, bits_y; /* an element's size: 1 for bits, 0 where x is not read */
    group_function *group;
    size_t done;    /* elements */
    size_t bias_at; /* where the bias of the next element stands */
} pass;

INLINE size_t bytes_of(size_t i, unsigned bits) { return bits % 8 == 0 ? i * (bits / 8) : i * bits / 8; }
INLINE const uint8_t *at_element(const void *p, size_t i, unsigned bits)
{
    return (const uint8_t *)p + bytes_of(i, bits);
}

INLINE void start_pass(pass *a)
{
    a->done = 0;
    a->bias_at = reads_bias(a->op) ? a->o.bias_at % a->o.period : 0;
}

/* n more elements are done, in which the bias wraps around at most once. */
INLINE void advance(pass *a, size_t n)
{
    a->done += n;
    if (reads_bias(a->op)) {
        a->bias_at += n;
        a->bias_at -= a->bias_at >= a->o.period ? a->o.period : 0;
    }
}

/* Gather the bias of the next n <= GROUP elements, which may be the end of it and the beginning. */
INLINE void gather_bias(const pass *a, size_t n, uint8_t *bias)
{
    const size_t size = a->bits_x / 8, end = a->o.period - a->bias_at, before = n < end ? n : end;
    memcpy(bias, at_element(a->o.bias, a->bias_at, a->bits_x), before * size);
    memcpy(bias + before * size, a->o.bias, (n - before) * size);
}

/* n <= GROUP elements, through a copy: nothing outside the arrays may be touched. */
INLINE void apply_few(pass *a, const uint8_t *bits, uint64_t first, size_t n)
{
    if (n == 0) {
        return;
    }
    uint8_t keep[8] = {0};
    memcpy(keep, bits + first / 8, (size_t)(first % 8 + n + 7) / 8);
    store_le64(keep, load_le64(keep) >> first % 8 & ((UINT64_C(1) << n) - 1));
    alignas(ALIGNMENT) uint8_t x[GROUP * 8] = {0}, other[GROUP * 8] = {0}, bias[GROUP * 8] = {0}, y[GROUP * 8];
    memcpy(x, at_element(a->o.x, a->done, a->bits_x), n * a->bits_x / 8);
    if (reads_other(a->op)) {
        memcpy(other, at_element(a->o.other, a->done, a->bits_x), n * a->bits_x / 8);
    }
    if (reads_bias(a->op)) {
        gather_bias(a, n, bias);
    }
    a->group(a->op, (numbers){a->o.scale, a->o.shift, a->o.fill}, (place){x, other, bias, y}, keep, 0);
    memcpy((uint8_t *)a->o.y + a->done * a->bits_y / 8, y, (n * a->bits_y + 7) / 8);
    advance(a, n);
}

/* The group of elements from `first` on, with the keep bits and the bias at these addresses. */
INLINE void apply_group(const pass *a, size_t first, const uint8_t *keep, const void *bias, int nontemporal)
{
    place at = {at_element(a->o.x, first, a->bits_x), NULL, bias, (uint8_t *)a->o.y + bytes_of(first, a->bits_y)};
    if (reads_other(a->op)) {
        at.other = at_element(a->o.other, first, a->bits_x);
    }
    if (nontemporal) {
        for (unsigned line = 0; line < GROUP * a->bits_x / 8; line += 64) {
            prefetch((const uint8_t *)at.x + line + AHEAD);
            if (reads_other(a->op)) {
                prefetch((const uint8_t *)at.other + line + AHEAD);
            }
        }
    }
    a->group(a->op, (numbers){a->o.scale, a->o.shift, a->o.fill}, at, keep, nontemporal);
}

/* The same for group g of those that come next. */
INLINE void apply_next(const pass *a, size_t g, const uint8_t *keep)
{
    apply_group(a, a->done + g * GROUP, keep + g * (GROUP / 8),
                reads_bias(a->op) ? at_element(a->o.bias, a->bias_at + g * GROUP, a->bits_x) : NULL, a->o.nontemporal);
}

/* Apply whole groups, at most `groups` of them, up to element `end`. The bits of the group at element i begin with byte
 * (offset + i) / 8. */
INLINE void apply_groups(pass *a, const uint8_t *bits, int64_t offset, size_t end, size_t groups)
{
    size_t left = a->done < end ? (end - a->done) / GROUP : 0;
    left = left < groups ? left : groups;
    while (left > 0) {
        const uint8_t *const keep = bits + (uint64_t)(offset + (int64_t)a->done) / 8;
        const uint8_t *bias = NULL;
        size_t together = left;
        alignas(ALIGNMENT) uint8_t gathered[GROUP * 8];
        if (reads_bias(a->op)) {
            const size_t before_wrap = (a->o.period - a->bias_at) / GROUP;
            together = before_wrap < left ? before_wrap : left;
            bias = at_element(a->o.bias, a->bias_at, a->bits_x);
            if (before_wrap == 0) {
                together = 1;
                gather_bias(a, GROUP, gathered);
                bias = gathered;
            }
        }
        size_t g = 0;
        for (; GROUPS_AT_ONCE > 1 && !reads_bias(a->op) && g + GROUPS_AT_ONCE <= together; g += GROUPS_AT_ONCE) {
            UNROLL(8)
            for (size_t i = g; i < g + GROUPS_AT_ONCE; ++i) {
                apply_group(a, a->done + i * GROUP, keep + i * (GROUP / 8), NULL, a->o.nontemporal);
            }
        }
        for (; g < together; ++g) {
            apply_group(a, a->done + g * GROUP, keep + g * (GROUP / 8),
                        bias != NULL ? at_element(bias, g * GROUP, a->bits_x) : NULL, a->o.nontemporal);
        }
        advance(a, together * GROUP);
        left -= together;
    }
}

enum { SLACK = 16 }; /* bytes that to_bytes() reads and nobody uses */

/* Move bits so that bit `odd` < 8 begins the first byte. Reads up to SLACK bytes more than it is asked for. */
INLINE void to_bytes(uint8_t *moved, const uint8_t *bits, unsigned odd, size_t bytes)
{
    if (odd == 0) {
        memcpy(moved, bits, bytes);
        return;
    }
    for (size_t i = 0; i < bytes; i += 8) {
        store_le64(moved + i, load_le64(bits + i) >> odd | load_le64(bits + i + 8) << (64 - odd));
    }
}

/* Apply what comes before the first element whose address in y is aligned, where that pays. */
INLINE void apply_head(pass *a, const uint8_t *bits, uint64_t first, size_t n)
{
    if (a->bits_x == 0 || n < 8 * GROUP) {
        a->o.nontemporal = 0; /* such a store needs an aligned address */
        return;
    }
    apply_few(a, bits, first, (size_t)(-(uintptr_t)a->o.y % ALIGNMENT) * 8 / a->bits_y);
}

/* Apply given keep bits. */
INLINE void apply_given(const uint8_t *bits, uint64_t first, size_t n, pass a)
{
    start_pass(&a);
    apply_head(&a, bits, first, n);
    const unsigned odd = (unsigned)((first + a.done) % 8);
    while (n - a.done >= GROUP) {
        const size_t part = n - a.done < TILE ? (n - a.done) / GROUP * GROUP : TILE;
        const uint8_t *from = bits + (first + a.done) / 8;
        uint8_t raw[TILE / 8 + SLACK], moved[TILE / 8];
        if (odd != 0) {
            memcpy(raw, from, (odd + part + 7) / 8);
            to_bytes(moved, raw, odd, part / 8);
            from = moved;
        }
        apply_groups(&a, from, -(int64_t)a.done, a.done + part, SIZE_MAX);
    }
    apply_few(&a, bits, first + a.done, n - a.done);
    if (a.o.nontemporal) {
        fence();
    }
}
