/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transpose.inc.h: a square of 64 x 64 bits, transposed. It is plain C, which compilers turn into vectors of each
 * instruction set.
 */

enum { SIDE = 64 };

/* Exchange the bits of words that are `apart` from each other: the upper ones of each `half` of the lower word with the
 * lower ones of the upper word. */
INLINE void exchange(uint64_t a[SIDE], unsigned apart, unsigned half, uint64_t mask)
{
    for (unsigned top = 0; top < SIDE; top += 2 * apart) {
        for (unsigned i = top; i < top + apart; ++i) {
            const uint64_t differ = (a[i] >> half ^ a[i + apart]) & mask;
            a[i] ^= differ << half;
            a[i + apart] ^= differ;
        }
    }
}

/* Halves, quarters and so on change places, as in H. S. Warren, "Hacker's Delight", section 7-3. Before words next to
 * each other do, they are put 8 apart, so that in every step whole vectors of words are exchanged. */
static void NAME(transpose)(const uint64_t square[64], uint64_t transposed[64])
{
    uint64_t rows[SIDE], a[SIDE];
    memcpy(rows, square, sizeof rows);
    exchange(rows, 32, 32, UINT64_C(0x00000000FFFFFFFF));
    exchange(rows, 16, 16, UINT64_C(0x0000FFFF0000FFFF));
    exchange(rows, 8, 8, UINT64_C(0x00FF00FF00FF00FF));
    for (unsigned i = 0; i < SIDE; ++i) {
        a[i % 8 * 8 + i / 8] = rows[i];
    }
    exchange(a, 32, 4, UINT64_C(0x0F0F0F0F0F0F0F0F));
    exchange(a, 16, 2, UINT64_C(0x3333333333333333));
    exchange(a, 8, 1, UINT64_C(0x5555555555555555));
    for (unsigned i = 0; i < SIDE; ++i) {
        transposed[i] = a[i % 8 * 8 + i / 8];
    }
}
