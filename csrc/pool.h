/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pool.h: an array shared by several threads.
 *
 * It stands apart from the core, whose kernels keep no state: a pool of threads is nothing but state. It knows nothing
 * of kernels or of Python, and the core can be used without it.
 */
#ifndef FASTDROP_POOL_H
#define FASTDROP_POOL_H

#include <stdint.h>

/* Work on the elements first .. first+n-1. The caller of fd_share() is worker 0, its helpers are workers 1 and up, and
 * each of them works in one thread. */
typedef void fd_part(void *context, int worker, int64_t first, int64_t n);

/* To be called once before the others; returns 0 where there is no memory. */
int fd_prepare_pool(void);

/* Work on `size` elements in chunks of `chunk`, by the calling thread and at most threads-1 helpers. It fails never: in
 * want of helpers the caller does the work itself. When it returns, all is done and no helper is in it any more.
 *
 * Any number of threads may call this at once, a helper in its work too, and the work may do what it likes but for one
 * thing: in a fork()ed child it must not return to its caller. */
void fd_share(fd_part *part, void *context, int64_t size, int64_t chunk, int threads);

/* Whether the last fd_share() is so short ago that helpers are still awake, or would be if it had called any. */
int fd_has_just_shared(void);

/* How many CPUs the calling thread may use, or 0 where that is not known. */
int fd_usable_cpus(void);

#endif
