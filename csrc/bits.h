/* SPDX-License-Identifier: BSD-3-Clause
 *
 * bits.h: strings of bits, of which bit i is bit i mod 8 of byte i div 8.
 */
#ifndef FASTDROP_BITS_H
#define FASTDROP_BITS_H

#include <stddef.h>
#include <stdint.h>

#include "compiler.h"

enum {
    BITS_SLACK = 8,     /* bytes that what writes here may overwrite behind the last bit */
    MOST_REPEATED = 64, /* the longest runs of repeat_bits() */
};

/* A string that is only read. */
typedef struct {
    const uint8_t *bytes;
    size_t size; /* in bytes */
} bit_string;

INLINE int bit_at(bit_string from, size_t i) { return from.bytes[i / 8] >> i % 8 & 1; }

/* 64 bits from bit `first` on; what lies behind the string is 0. */
INLINE uint64_t word_at(bit_string from, size_t first)
{
    const uint8_t *p = from.bytes + first / 8;
    const size_t left = from.size - first / 8;
    const unsigned skipped = (unsigned)(first % 8);
    uint8_t bytes[9] = {0};
    if (left < sizeof bytes) {
        memcpy(bytes, p, left);
        p = bytes;
    }
    return load_le64(p) >> skipped | (uint64_t)p[8] << 1 << (63 - skipped);
}

/* The first n bits of a word, of which there are 64. */
INLINE uint64_t first_bits(uint64_t word, size_t n) { return n < 64 ? word & ((UINT64_C(1) << n) - 1) : word; }

/* Put n <= 64 bits of a word at bit `at`. */
INLINE void put_word(uint8_t *to, size_t at, uint64_t word, size_t n)
{
    const unsigned odd = (unsigned)(at % 8);
    uint8_t *const p = to + at / 8;
    const uint64_t before = *p & ((1u << odd) - 1);
    store_le64(p, before | word << odd);
    if (odd + n > 64) {
        p[8] = (uint8_t)(word >> (64 - odd));
    }
}

/* Put n bits at bit `at`, from bit `first` of another string on. */
INLINE void put_bits(uint8_t *to, size_t at, bit_string from, size_t first, size_t n)
{
    const unsigned odd = (unsigned)(at % 8);
    uint8_t *p = to + at / 8;
    uint64_t before = *p & ((1u << odd) - 1);
    const unsigned skipped = (unsigned)(first % 8);
    const uint8_t *q = from.bytes + first / 8;
    for (; n >= 64 && first + 128 <= 8 * from.size; n -= 64, first += 64, p += 8, q += 8) {
        const uint64_t word = load_le64(q) >> skipped | (uint64_t)q[8] << 1 << (63 - skipped);
        store_le64(p, before | word << odd);
        before = word >> 1 >> (63 - odd); /* in two steps, because a shift by 64 is none */
    }
    for (; n >= 64; n -= 64, first += 64, p += 8) {
        const uint64_t word = word_at(from, first);
        store_le64(p, before | word << odd);
        before = word >> 1 >> (63 - odd);
    }
    if (n > 0) {
        const uint64_t word = word_at(from, first);
        store_le64(p, before | word << odd);
        if (odd + n > 64) {
            p[8] = (uint8_t)(word >> (64 - odd));
        }
    } else if (odd > 0) {
        *p = (uint8_t)before;
    }
}

/* The same with n equal bits. */
INLINE void put_same(uint8_t *to, size_t at, int bit, size_t n)
{
    const uint64_t same = bit ? ~UINT64_C(0) : 0;
    const unsigned odd = (unsigned)(at % 8);
    uint8_t *p = to + at / 8;
    store_le64(p, (*p & ((1u << odd) - 1)) | same << odd);
    for (uint8_t *const end = to + (at + n + 7) / 8; (p += 8) < end;) {
        store_le64(p, same);
    }
}

/* The same with every stride-th bit of another string, forwards or backwards. */
INLINE void put_every(uint8_t *to, size_t at, bit_string from, size_t first, int64_t stride, size_t n)
{
    for (size_t done = 0; done < n; done += 64) {
        const size_t some = n - done < 64 ? n - done : 64;
        uint64_t word = 0;
        for (size_t i = 0; i < some; ++i) {
            word |= (uint64_t)bit_at(from, first) << i;
            first += (size_t)stride;
        }
        put_word(to, at + done, word, some);
    }
}

/* How to write bits several times each: what becomes of every group of so many bits. */
typedef struct {
    unsigned length, group;
    uint64_t of_group[256];
} repetition;

/* For so many bits, of which each is to be written `length` times: at most MOST_REPEATED. */
INLINE void prepare_repetition(repetition *r, size_t n, unsigned length)
{
    const uint64_t ones = length < 64 ? (UINT64_C(1) << length) - 1 : ~UINT64_C(0);
    r->length = length;
    r->group = n < 1024 ? 4 : 8; /* for few bits the larger table takes longer than it saves */
    /* What a group becomes are whole bytes, or there is room in a word for the 7 bits before them. */
    while (r->group > 1 && r->group * length > (r->group * length % 8 == 0 ? 64 : 57)) {
        r->group /= 2;
    }
    r->of_group[0] = 0;
    for (unsigned group = 1; group < 1u << r->group; ++group) {
        r->of_group[group] = r->of_group[group & (group - 1)] | ones << ctz64(group) * length;
    }
}

/* Write each of n bits so many times, from the beginning of a string on. */
INLINE void repeat_bits(uint8_t *to, const repetition *r, bit_string from, size_t first, size_t n)
{
    const unsigned group = r->group, width = group * r->length;
    const uint64_t in_group = (1u << group) - 1;
    uint64_t before = 0; /* bits of the byte that is written next */
    unsigned odd = 0;    /* how many */
    for (size_t done = 0; done < n; done += 64) {
        uint64_t word = word_at(from, first + done);
        const size_t some = n - done < 64 ? n - done : 64;
        if (width == 32) { /* which is half a word: one store for two groups */
            for (size_t i = 0; i < some; i += 2 * group, word >>= 2 * group, to += 8) {
                store_le64(to, r->of_group[word & in_group] | r->of_group[word >> group & in_group] << 32);
            }
            continue;
        }
        if (width % 8 == 0) {
            for (size_t i = 0; i < some; i += group, word >>= group, to += width / 8) {
                store_le64(to, r->of_group[word & in_group]);
            }
            continue;
        }
        for (size_t i = 0; i < some; i += group, word >>= group) {
            const uint64_t same = r->of_group[word & in_group], both = before | same << odd;
            const unsigned filled = odd + width;
            store_le64(to, both);
            to += filled / 8;
            before = filled < 64 ? both >> filled / 8 * 8 : same >> 1 >> (63 - odd);
            odd = filled % 8;
        }
    }
    if (odd > 0) {
        *to = (uint8_t)before;
    }
}

/* Eight bits as eight bytes, each 0 or 1. */
INLINE uint64_t bools_of(uint8_t bits)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t one_each = bits * ones & UINT64_C(0x8040201008040201); /* bit i in byte i */
    return (one_each + 0x7F * ones) >> 7 & ones;
}

#endif
