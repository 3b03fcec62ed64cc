/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client.h: the core that runs in this process, as another compiled module finds it.
 *
 * A client that has C of its own, such as the module of fastdrop.jax, draws with the kernels, the threads and the
 * settings of the core that Python has loaded, and not with a second copy of them. It includes this header, links with
 * nothing, and is given the one fd_client by the capsule `client` of fastdrop._core, whose name is FD_CLIENT_NAME.
 */
#ifndef FASTDROP_CLIENT_H
#define FASTDROP_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "fastdrop.h"
#include "pool.h"

#define FD_CLIENT_NAME "fastdrop.client"

/* Changes with every change of this struct, and of those of fastdrop.h. */
enum { FD_CLIENT_VERSION = 1 };

/* None of the functions needs Python's lock. Any number of threads may call them at once. */
typedef struct fd_client {
    size_t size; /* of this struct */
    int version;

    /* The kernels that run at present; NULL while the reference in NumPy does. */
    const fd_kernels *(*running)(void);

    /* fd_walk() of fastdrop.h. */
    void (*walk)(const fd_job *job, int64_t first, size_t n, const fd_operands *operands);

    /* Work on n elements in parts, by as many threads as pay and are allowed: at most `asked`; where that is 0, what
     * fastdrop.set_num_threads() has said; and where nothing has been said, the CPUs that the calling thread may use,
     * of which the process has bought the time of `cpus`. See fd_share() of pool.h. */
    void (*share)(fd_part *part, void *context, int64_t n, int asked, int cpus);
} fd_client;

#endif
