/* SPDX-License-Identifier: BSD-3-Clause
 *
 * shared_state.h: the numbers that threads change side by side: a stream's call number, and the chunks of an array.
 *
 * They belong to the callers of the core, which keeps no state itself. Nothing here needs a lock, so that a thread that
 * is stopped at any point, or is not there after a fork, holds up nobody.
 */
#ifndef FASTDROP_SHARED_STATE_H
#define FASTDROP_SHARED_STATE_H

#include <stdint.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <time.h>
#endif

/* C11's <stdatomic.h> is an experiment in MSVC. All of these are sequentially consistent. */
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>

static inline uint64_t fd_load(const uint64_t *p)
{
    return (uint64_t)_InterlockedCompareExchange64((volatile __int64 *)(uintptr_t)p, 0, 0);
}

static inline void fd_store(uint64_t *p, uint64_t value)
{
    _InterlockedExchange64((volatile __int64 *)p, (__int64)value);
}

static inline uint64_t fd_fetch_add(uint64_t *p, uint64_t n)
{
    return (uint64_t)_InterlockedExchangeAdd64((volatile __int64 *)p, (__int64)n);
}

static inline int fd_replace(uint64_t *p, uint64_t expected, uint64_t value)
{
    const __int64 before = _InterlockedCompareExchange64((volatile __int64 *)p, (__int64)value, (__int64)expected);
    return (uint64_t)before == expected;
}
#else
static inline uint64_t fd_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }

static inline void fd_store(uint64_t *p, uint64_t value) { __atomic_store_n(p, value, __ATOMIC_SEQ_CST); }

static inline uint64_t fd_fetch_add(uint64_t *p, uint64_t n) { return __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST); }

static inline int fd_replace(uint64_t *p, uint64_t expected, uint64_t value)
{
    return __atomic_compare_exchange_n(p, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#endif

/* A key, and the call number that the next draw takes. Whoever sets both makes `version` odd meanwhile; only one may do
 * so at a time. */
typedef struct fd_stream {
    uint64_t version, key, call;
} fd_stream;

enum { FD_CALL_BITS = 56 };

static inline void fd_set_stream(fd_stream *stream, uint64_t key, uint64_t call)
{
    fd_fetch_add(&stream->version, 1);
    fd_store(&stream->key, key);
    fd_store(&stream->call, call);
    fd_fetch_add(&stream->version, 1);
}

static inline void fd_get_stream(const fd_stream *stream, uint64_t *key, uint64_t *call)
{
    uint64_t version;
    do {
        version = fd_load(&stream->version);
        *key = fd_load(&stream->key);
        *call = fd_load(&stream->call);
    } while (version % 2 != 0 || fd_load(&stream->version) != version);
}

/* Use up a call number, which nobody else gets, or return 0 where none is left. A number that is taken while another
 * thread sets the stream may be of either key: it is left unused. */
static inline int fd_next_draw(fd_stream *stream, uint64_t *key, uint64_t *call)
{
    for (;;) {
        const uint64_t version = fd_load(&stream->version);
        fd_get_stream(stream, key, call);
        if (*call >> FD_CALL_BITS != 0) {
            return 0;
        }
        if (fd_replace(&stream->call, *call, *call + 1) && fd_load(&stream->version) == version) {
            return 1;
        }
    }
}

/* `count` chunks of an array, each of which one thread takes, from the front or from the back. */
typedef struct fd_chunks {
    uint64_t count, taken, from_front, from_back, finished;
} fd_chunks;

/* The number of a chunk that nobody else gets, or count where there are no more. */
static inline uint64_t fd_take_chunk(fd_chunks *chunks, int from_front)
{
    if (fd_fetch_add(&chunks->taken, 1) >= chunks->count) {
        return chunks->count;
    }
    return from_front ? fd_fetch_add(&chunks->from_front, 1) : chunks->count - 1 - fd_fetch_add(&chunks->from_back, 1);
}

static inline void fd_finish_chunk(fd_chunks *chunks) { fd_fetch_add(&chunks->finished, 1); }

/* Give out no more, and wait until those that were taken are finished. The others are on their last chunk: to be woken
 * when they are done takes as long as many of those, so this looks again and again, and sleeps only where a thread has
 * lost its processor. */
static inline void fd_close_chunks(fd_chunks *chunks)
{
    enum { LOOKS = 10000, NANOSECONDS = 50000 };
    const uint64_t taken = fd_fetch_add(&chunks->taken, chunks->count);
    const uint64_t due = taken < chunks->count ? taken : chunks->count;
    for (unsigned looks = 0; fd_load(&chunks->finished) < due; ++looks) {
        if (looks >= LOOKS) {
#ifdef _WIN32
            Sleep(0);
#else
            const struct timespec pause = {0, NANOSECONDS};
            nanosleep(&pause, NULL);
#endif
        }
    }
}

#endif
