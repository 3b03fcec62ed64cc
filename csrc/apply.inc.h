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

/* Numbers of an operation, in its arithmetic type. */
INLINE fvec number_f32(double a) { return set1_f32((float)a); }
INLINE dvec number_f64(double a) { return set1_f64(a); }

/* An operation on a vector of elements, whose keep bits begin with bit i of the four bytes at keep. */
#define DEFINE_OPERATE(arithmetic, vector)                                                                             \
    INLINE vector operate_##arithmetic(fd_op op, const fd_operands *o, vector x, vector other, vector bias,            \
                                       const uint8_t *keep, int i)                                                     \
    {                                                                                                                  \
        const vector scale = number_##arithmetic(o->scale);                                                            \
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
            x = add_##arithmetic(mul_##arithmetic(x, scale), number_##arithmetic(o->shift));                           \
            return choose_##arithmetic(x, number_##arithmetic(o->fill), keep, i);                                      \
        case FD_ZONEOUT:                                                                                               \
            return choose_##arithmetic(x, other, keep, i);                                                             \
        default:                                                                                                       \
            return scale_kept_##arithmetic(x, scale, keep, i);                                                         \
        }                                                                                                              \
    }

DEFINE_OPERATE(f32, fvec)
DEFINE_OPERATE(f64, dvec)

#undef DEFINE_OPERATE

/* GROUP elements at the pointers of o. */
typedef void group_function(fd_op op, const fd_operands *o, const uint8_t *keep, int nontemporal);

#define DEFINE_GROUP(name, dtype, element, arithmetic, vector, lanes)                                                  \
    INLINE void name(fd_op op, const fd_operands *o, const uint8_t *keep, int nontemporal)                             \
    {                                                                                                                  \
        for (int i = 0; i < GROUP; i += lanes) {                                                                       \
            const vector x = load_##dtype((const element *)o->x + i);                                                  \
            const vector other = reads_other(op) ? load_##dtype((const element *)o->other + i) : x;                    \
            const vector bias = reads_bias(op) ? load_##dtype((const element *)o->bias + i) : x;                       \
            store_##dtype((element *)o->y + i, operate_##arithmetic(op, o, x, other, bias, keep, i), nontemporal);     \
        }                                                                                                              \
    }

DEFINE_GROUP(group_f16, f16, uint16_t, f32, fvec, F32_LANES)
DEFINE_GROUP(group_widened_bf16, bf16, uint16_t, f32, fvec, F32_LANES)
DEFINE_GROUP(group_f32, f32, float, f32, fvec, F32_LANES)
DEFINE_GROUP(group_f64, f64, double, f64, dvec, F64_LANES)

#undef DEFINE_GROUP

/* Plain dropout gains a tenth to a fifth where even and odd elements are taken apart instead of widened in turn. */
INLINE void group_bf16(fd_op op, const fd_operands *o, const uint8_t *keep, int nontemporal)
{
    if (op != FD_DROPOUT) {
        group_widened_bf16(op, o, keep, nontemporal);
        return;
    }
    for (int i = 0; i < GROUP; i += BF16_LANES) {
        scale_kept_bf16((const uint16_t *)o->x + i, (uint16_t *)o->y + i, number_f32(o->scale), keep, i, nontemporal);
    }
}

INLINE void group_bits(fd_op op, const fd_operands *o, const uint8_t *keep, int nontemporal)
{
    (void)op, (void)nontemporal;
    memcpy(o->y, keep, GROUP / 8);
}

INLINE void group_bools(fd_op op, const fd_operands *o, const uint8_t *keep, int nontemporal)
{
    (void)op, (void)nontemporal;
    const uint32_t bits = load_le32(keep);
    for (int i = 0; i < GROUP; ++i) {
        ((uint8_t *)o->y)[i] = bits >> i & 1;
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

INLINE const uint8_t *at_element(const void *p, size_t i, unsigned bits) { return (const uint8_t *)p + i * bits / 8; }

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
    fd_operands few = a->o;
    memcpy(x, at_element(a->o.x, a->done, a->bits_x), n * a->bits_x / 8);
    few.x = x;
    few.y = y;
    if (reads_other(a->op)) {
        memcpy(other, at_element(a->o.other, a->done, a->bits_x), n * a->bits_x / 8);
        few.other = other;
    }
    if (reads_bias(a->op)) {
        gather_bias(a, n, bias);
        few.bias = bias;
    }
    a->group(a->op, &few, keep, 0);
    memcpy((uint8_t *)a->o.y + a->done * a->bits_y / 8, y, (n * a->bits_y + 7) / 8);
    advance(a, n);
}

/* The group of elements from `first` on, with the keep bits and the bias at these addresses. */
INLINE void apply_group(const pass *a, size_t first, const uint8_t *keep, const void *bias)
{
    fd_operands o = a->o;
    o.x = at_element(a->o.x, first, a->bits_x);
    o.y = (uint8_t *)a->o.y + first * a->bits_y / 8;
    o.bias = bias;
    if (reads_other(a->op)) {
        o.other = at_element(a->o.other, first, a->bits_x);
    }
    if (a->o.nontemporal) {
        for (unsigned line = 0; line < GROUP * a->bits_x / 8; line += 64) {
            prefetch((const uint8_t *)o.x + line + AHEAD);
            if (reads_other(a->op)) {
                prefetch((const uint8_t *)o.other + line + AHEAD);
            }
        }
    }
    a->group(a->op, &o, keep, a->o.nontemporal);
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
        for (size_t g = 0; g < together; ++g) {
            apply_group(a, a->done + g * GROUP, keep + g * (GROUP / 8),
                        bias != NULL ? at_element(bias, g * GROUP, a->bits_x) : NULL);
        }
        advance(a, together * GROUP);
        left -= together;
    }
}

/* Move bits so that bit `odd` < 8 begins the first byte. Reads up to 16 bytes more than it is asked for. */
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

enum {
    CARRY = 8,  /* bytes of the tile before, for a group that straddles the two */
    SLACK = 16, /* bytes that to_bytes() reads and nobody uses */
};

/* Draw and apply. While the planes of a tile are drawn, the tile before it is applied, a few groups after each plane:
 * the generator multiplies integers, applying moves memory, and a core does both at once. */
INLINE void draw_and_apply(const fd_draw *draw, uint64_t start, size_t n, pass a)
{
    if (n == 0) {
        return;
    }
    start_pass(&a);
    const plan p = make_plan(draw);
    const uint64_t block = start / BLOCK;
    const size_t phase = start % BLOCK; /* bits of the first block before the first element */
    const int is_few = n <= FEW_BLOCKS * BLOCK - phase;
    const size_t tiles = (n - 1) / TILE + ((n - 1) % TILE + phase) / TILE + 1;
    const size_t last_steps = ((n + phase - 1) % TILE) / STEP + 1;
    const size_t share = TILE / GROUP / STEPS / (size_t)(p.planes ? p.planes : 1) + 1; /* groups after each plane */
    uint8_t keep[CARRY + TILE / 8 + SLACK], moved[CARRY + TILE / 8], undecided[TILE / 8];
    uint64_t lanes[2 * LANES];
    first_indices(lanes);

    size_t end = 0;     /* elements up to which bits are in keep, and in moved */
    int64_t offset = 0; /* of element 0's bit in keep; its byte in moved is offset / 8 */
    unsigned odd = 0;   /* bit of a byte of keep with which groups begin */
    for (size_t i = 0; i <= tiles; ++i) {
        const size_t steps = i + 1 < tiles ? STEPS : i < tiles ? last_steps : 0;
        /* The bits of the tile before are moved after the first plane of this one, if it has any: memory that has just
         * been written in other pieces is slow to read. */
        int waiting = i > 0;
        if (waiting && (steps == 0 || p.planes == 0)) {
            to_bytes(moved, keep, odd, sizeof moved);
            waiting = 0;
        }
        if (is_few && i == 0) {
            draw_few(&p, block, keep + CARRY, undecided);
        } else {
            for (size_t s = 0; s < steps; ++s) {
                const vec first = set1(block + i * (TILE / BLOCK) + s * (STEP / BLOCK));
                const vec index[PAIR] = {add(load_lanes(lanes), first), add(load_lanes(lanes + LANES), first)};
                comparison c;
                for (int r = 0; r < 4; ++r) {
                    c.kept[r] = set1(p.all_dropped ? 0 : ~UINT64_C(0));
                    c.undecided[r] = set1(~UINT64_C(0));
                }
                for (int plane = 0; plane < p.planes; ++plane) {
                    compare_plane(&c, &p, index, plane);
                    if (waiting) {
                        to_bytes(moved, keep, odd, sizeof moved);
                        waiting = 0;
                    }
                    apply_groups(&a, moved, offset, end, share);
                }
                if (s == 0) {
                    memcpy(keep, keep + TILE / 8, CARRY);
                }
                store_step(keep + CARRY + s * (STEP / 8), c.kept);
                if (p.has_tail) {
                    store_step(undecided + s * (STEP / 8), c.undecided);
                }
            }
        }
        apply_groups(&a, moved, offset, end, SIZE_MAX);
        if (steps == 0) {
            break;
        }
        if (p.has_tail) {
            decide_tails(&p, (block + i * (TILE / BLOCK)) * BLOCK, is_few ? FEW_BLOCKS * BLOCK : (unsigned)steps * STEP,
                         keep + CARRY, undecided);
        }
        offset = (int64_t)(8 * CARRY + phase) - (int64_t)(i * TILE);
        end = (i + 1) * TILE - phase < n ? (i + 1) * TILE - phase : n;
        if (i == 0) {
            apply_head(&a, keep, (uint64_t)offset, n);
            odd = (unsigned)(phase + a.done) % 8;
        }
    }
    apply_few(&a, keep, (uint64_t)(offset + (int64_t)a.done), n - a.done);
    if (a.o.nontemporal) {
        fence();
    }
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

static void NAME(keep_bits)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bits)
{
    draw_and_apply(draw, start, n, (pass){.o = {.x = bits, .y = bits}, .bits_y = 1, .group = group_bits});
}

static void NAME(keep_bools)(const fd_draw *draw, uint64_t start, size_t n, uint8_t *bools)
{
    draw_and_apply(draw, start, n, (pass){.o = {.x = bools, .y = bools}, .bits_y = 8, .group = group_bools});
}
