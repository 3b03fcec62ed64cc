/* SPDX-License-Identifier: BSD-3-Clause
 *
 * threads.h: what operating systems spell differently of threads, locks and clocks. It is included first, because it
 * says which of their names it needs.
 */
#ifndef FASTDROP_THREADS_H
#define FASTDROP_THREADS_H

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include <stdint.h>

#ifdef _WIN32
#include <process.h>
#include <windows.h>

typedef SRWLOCK lock;
typedef CONDITION_VARIABLE condition;
#define UNLOCKED SRWLOCK_INIT
#define NOBODY_WAITS CONDITION_VARIABLE_INIT
#define THREAD unsigned __stdcall

static inline void acquire(lock *l) { AcquireSRWLockExclusive(l); }

static inline void release(lock *l) { ReleaseSRWLockExclusive(l); }

static inline void wait_for(condition *c, lock *l) { SleepConditionVariableSRW(c, l, INFINITE, 0); }

static inline void wake_one(condition *c) { WakeConditionVariable(c); }

static inline void wake_all(condition *c) { WakeAllConditionVariable(c); }

static inline void yield(void) { SwitchToThread(); }

/* A thread that ends with the process; returns whether there could be one. */
static inline int start_thread(unsigned(__stdcall *function)(void *))
{
    enum { STACK = 1 << 19 };
    const uintptr_t thread = _beginthreadex(NULL, STACK, function, NULL, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (thread != 0) {
        CloseHandle((HANDLE)thread);
    }
    return thread != 0;
}

static inline int call_in_forked_children(void (*function)(void))
{
    (void)function;
    return 1;
}

/* Nanoseconds on a clock that nobody sets. */
static inline uint64_t nanoseconds(void)
{
    LARGE_INTEGER ticks, each_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&each_second);
    return (uint64_t)((double)ticks.QuadPart / (double)each_second.QuadPart * 1e9);
}
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

typedef pthread_mutex_t lock;
typedef pthread_cond_t condition;
#define UNLOCKED PTHREAD_MUTEX_INITIALIZER
#define NOBODY_WAITS PTHREAD_COND_INITIALIZER
#define THREAD void *

static inline void acquire(lock *l) { pthread_mutex_lock(l); }

static inline void release(lock *l) { pthread_mutex_unlock(l); }

static inline void wait_for(condition *c, lock *l) { pthread_cond_wait(c, l); }

static inline void wake_one(condition *c) { pthread_cond_signal(c); }

static inline void wake_all(condition *c) { pthread_cond_broadcast(c); }

static inline void yield(void) { sched_yield(); }

/* A thread that ends with the process; returns whether there could be one.
 *
 * It leaves signals to the threads of the program, but for those by which it would itself report a fault. Its stack is
 * of the size that macOS gives to a thread by itself, many times what kernels and NumPy's iterators need. */
static inline int start_thread(void *(*function)(void *))
{
    enum { STACK = 1 << 19 };
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t blocked, before;
    if (pthread_attr_init(&attributes) != 0) {
        return 0;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof faults / sizeof faults[0]; ++i) {
        sigdelset(&blocked, faults[i]);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    const int failed = pthread_create(&thread, &attributes, function, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}

static inline int call_in_forked_children(void (*function)(void)) { return pthread_atfork(NULL, NULL, function) == 0; }

/* Nanoseconds on a clock that nobody sets. */
static inline uint64_t nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}
#endif

/* What a debugger and a list of threads show. */
static inline void name_this_thread(void)
{
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "fastdrop");
#elif defined(__APPLE__)
    pthread_setname_np("fastdrop");
#endif
}

/* The number of the CPU that the calling thread is on, or -1 where that takes long or there is no way to leave it. */
static inline int this_cpu(void)
{
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
}

/* The CPUs that a thread may use, and those of them that it does use while it keeps off one. */
typedef struct {
#ifdef __linux__
    cpu_set_t all, others;
#endif
    int is_off;
} affinity;

/* Keep off a CPU from now on, if there is another one that the thread may use. */
static inline affinity keep_off(int cpu)
{
    affinity a = {.is_off = 0};
#ifdef __linux__
    if (cpu >= 0 && sched_getaffinity(0, sizeof a.all, &a.all) == 0 && CPU_ISSET((size_t)cpu, &a.all)) {
        a.others = a.all;
        CPU_CLR((size_t)cpu, &a.others);
        a.is_off = CPU_COUNT(&a.others) > 0 && sched_setaffinity(0, sizeof a.others, &a.others) == 0;
    }
#else
    (void)cpu;
#endif
    return a;
}

/* Use all again, unless somebody else has said meanwhile which. */
static inline void keep_off_no_more(const affinity *a)
{
#ifdef __linux__
    cpu_set_t now;
    if (a->is_off && sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &a->others)) {
        sched_setaffinity(0, sizeof a->all, &a->all);
    }
#else
    (void)a;
#endif
}

/* How many CPUs the calling thread may use, or 0 where that is not known. */
static inline int cpus_of_this_thread(void)
{
#ifdef __linux__
    cpu_set_t all;
    return sched_getaffinity(0, sizeof all, &all) == 0 ? CPU_COUNT(&all) : 0;
#else
    return 0;
#endif
}

/* A hint to the CPU within a loop that looks at memory until another thread changes it. */
static inline void relax(void)
{
#ifdef _WIN32
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

#endif
