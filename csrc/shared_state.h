/* SPDX-License-Identifier: BSD-3-Clause
 *
 * shared_state.h: the numbers that threads change side by side, such as a stream's call number.
 *
 * They belong to the callers of the core, which keeps no state itself. Nothing here needs a lock, so that a thread that
 * is stopped at any point, or is not there after a fork, holds up nobody.
 */
#ifndef FASTDROP_SHARED_STATE_H
#define FASTDROP_SHARED_STATE_H

#include <stdint.h>

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

/* Take back the last draw, unless there was another since; nobody may set the stream meanwhile. */
static inline void fd_undo_draw(fd_stream *stream, uint64_t key, uint64_t call)
{
    if (fd_load(&stream->key) == key) {
        fd_replace(&stream->call, call + 1, call);
    }
}

#endif
