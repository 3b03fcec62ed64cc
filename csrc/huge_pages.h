/* SPDX-License-Identifier: BSD-3-Clause
 *
 * huge_pages.h: new memory in pages of megabytes where the system has them on request, as Linux does by default.
 *
 * To touch a new page of 4 KiB costs as much as to drop from all its elements several times over.
 */
#ifndef FASTDROP_HUGE_PAGES_H
#define FASTDROP_HUGE_PAGES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

/* Ask for huge pages for n bytes that somebody has just allocated. What the system makes of it changes no byte. */
static inline void want_huge_pages(void *memory, size_t n)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const size_t page = 4096, skipped = (page - (uintptr_t)memory % page) % page;
    if (n > skipped) {
        (void)madvise((char *)memory + skipped, (n - skipped) / page * page, MADV_HUGEPAGE);
    }
#else
    (void)memory;
    (void)n;
#endif
}

#endif
