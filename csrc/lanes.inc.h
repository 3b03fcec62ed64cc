/* SPDX-License-Identifier: BSD-3-Clause
 *
 * lanes.inc.h: primitives that most instruction sets have no better way to do than lane by lane.
 */

INLINE vec lowest_bit(vec a)
{
    uint64_t lanes[LANES];
    store_lanes(lanes, a);
    for (int i = 0; i < LANES; ++i) {
        lanes[i] = ctz64(lanes[i] | UINT64_C(1) << 63);
    }
    return load_lanes(lanes);
}

INLINE unsigned append_nonzero(const uint8_t *p, uint64_t first, uint64_t *to, uint64_t *numbers)
{
    unsigned count = 0;
    for (int i = 0; i < LANES; ++i) {
        to[count] = load_le64(p + 8 * i);
        numbers[count] = first + (uint64_t)i;
        count += to[count] != 0;
    }
    return count;
}

INLINE unsigned are_below(const vec words[4], vec which, uint32_t limit)
{
    uint64_t w[4][LANES], at[LANES];
    unsigned below = 0;
    for (int r = 0; r < 4; ++r) {
        store_lanes(w[r], words[r]);
    }
    store_lanes(at, which);
    for (int i = 0; i < LANES; ++i) {
        below |= (unsigned)((uint32_t)w[at[i] % 4][i] < limit) << i;
    }
    return below;
}
