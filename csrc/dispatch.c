/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dispatch.c: which instruction sets this build holds, and which of them this machine can run.
 *
 * A new instruction set is a file of primitives, and a declaration and a row here.
 */
#include "fastdrop.h"

#ifdef FD_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

extern const fd_kernels fd_kernels_portable, fd_kernels_sse2, fd_kernels_avx2, fd_kernels_avx512, fd_kernels_neon;

#ifdef FD_X86
typedef struct {
    unsigned a, b, c, d;
} registers;

static registers cpuid(unsigned leaf)
{
    registers r = {0, 0, 0, 0};
#ifdef _MSC_VER
    int out[4];
    __cpuid(out, 0);
    if ((unsigned)out[0] >= leaf) {
        __cpuidex(out, (int)leaf, 0);
        r = (registers){(unsigned)out[0], (unsigned)out[1], (unsigned)out[2], (unsigned)out[3]};
    }
#else
    __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d);
#endif
    return r;
}

/* The register states that the operating system saves, 0 if it cannot be asked: a CPU that has AVX-512 under a
 * system that does not save its registers must not use it. */
static uint64_t saved_states(void)
{
    const unsigned osxsave = 1u << 27;
    if (!(cpuid(1).c & osxsave)) {
        return 0;
    }
#ifdef _MSC_VER
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
#endif
}

static int all_set(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

static int has_avx2(void)
{
    const unsigned avx = 1u << 28, f16c = 1u << 29, bmi = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    const uint64_t xmm_ymm = 0x6;
    return all_set(saved_states(), xmm_ymm) && all_set(cpuid(1).c, avx | f16c) &&
           all_set(cpuid(7).b, bmi | avx2 | bmi2);
}

static int has_avx512(void)
{
    const unsigned f = 1u << 16, dq = 1u << 17, cd = 1u << 28, bw = 1u << 30, vl = 1u << 31, popcnt = 1u << 23;
    const uint64_t opmask_zmm = 0xE0;
    return has_avx2() && all_set(saved_states(), opmask_zmm) && all_set(cpuid(1).c, popcnt) &&
           all_set(cpuid(7).b, f | dq | cd | bw | vl);
}
#endif

static int always(void) { return 1; }

/* From the plainest to the fastest. */
/* clang-format off */
static const struct {
    const fd_kernels *kernels;
    int (*supported)(void);
} ladder[] = {
    {&fd_kernels_portable, always},
#ifdef FD_X86
    {&fd_kernels_sse2, always},
    {&fd_kernels_avx2, has_avx2},
    {&fd_kernels_avx512, has_avx512},
#endif
#ifdef FD_ARM64
    {&fd_kernels_neon, always},
#endif
};
/* clang-format on */

enum { RUNGS = sizeof ladder / sizeof ladder[0] };

const fd_kernels *fd_built(size_t i) { return i < RUNGS ? ladder[i].kernels : NULL; }

int fd_supported(size_t i) { return i < RUNGS && ladder[i].supported(); }
