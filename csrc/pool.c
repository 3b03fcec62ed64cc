/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pool.c: the threads that help with large arrays.
 *
 * A caller posts a job, works on it from the front, and withdraws it; helpers that come in time work on it from the
 * back. So, call after call, each finds in its own caches what it has worked on before. Who comes late finds the job
 * gone, and nobody has waited for it.
 *
 * The lock is held for a few instructions at a time. Whoever forks may do so while another thread holds it: a child
 * begins with a pool as new.
 *
 * A thread that sleeps is expensive to wake. Measured in a virtual machine on Zen 4, a wake takes 7 to 15 us of the
 * caller's time, and the thread runs 20 to 80 us later; one that looks whether there is work finds it within 1 us. So a
 * helper looks for SPIN before it sleeps, about as long as its sleep would cost. Meanwhile it yields its CPU to every
 * thread that wants it.
 */
#include "threads.h"

#include <fenv.h>
#include <stddef.h>

#include "pool.h"
#include "shared_state.h"

enum {
    SPIN = 100000, /* nanoseconds */
    LOOKS = 32,    /* between two looks at the clock, which take as long as all of these, about 1 us */
    TURNS = 16,    /* of these, between two times that the CPU is offered to others, which takes as long as one */
    WOKEN = 2,     /* sleepers that one thread wakes; these wake others */
    HALF = 32,     /* bits of job.taken */
};

typedef struct job {
    fd_part *part;
    void *context;
    int64_t size, chunk;
    uint64_t count;    /* chunks, fewer than 2^32 */
    uint64_t taken;    /* from the front in its lower half, from the back in its upper */
    uint64_t at_work;  /* helpers */
    fenv_t arithmetic; /* the caller's: how it rounds, and what it does with denormals */
    int seats;         /* for helpers that have not come yet */
    int joined;        /* helpers that have */
    struct job *next;
} job;

/* What stands behind the lock is changed and read by its holder; the other numbers are atomic. */
static struct pool {
    lock lock;
    condition posted, left;
    job *jobs; /* those with seats */
    int threads, asleep;
    int called;           /* sleepers that are to wake up */
    uint64_t seats;       /* of all jobs */
    uint64_t at_work;     /* helpers */
    uint64_t waiting;     /* callers that sleep until their helpers are done */
    uint64_t callers_cpu; /* of the last job */
    uint64_t ended;       /* when the last job did, in nanoseconds */
} pool = {.lock = UNLOCKED, .posted = NOBODY_WAITS, .left = NOBODY_WAITS};

static const uint64_t minus_one = ~UINT64_C(0);

/* The number of a chunk that nobody else gets, or count where there are no more. */
static uint64_t take(job *j, int from_front)
{
    for (;;) {
        const uint64_t taken = fd_load(&j->taken);
        const uint64_t front = taken & ((UINT64_C(1) << HALF) - 1), back = taken >> HALF;
        if (front + back >= j->count) {
            return j->count;
        }
        if (fd_replace(&j->taken, taken, taken + (from_front ? 1 : UINT64_C(1) << HALF))) {
            return from_front ? front : j->count - 1 - back;
        }
    }
}

static void work(job *j, int worker)
{
    for (uint64_t number; (number = take(j, worker == 0)) != j->count;) {
        const int64_t first = (int64_t)number * j->chunk, left = j->size - first;
        j->part(j->context, worker, first, left < j->chunk ? left : j->chunk);
    }
}

/* Call sleepers for seats that nobody is awake for, as many as one thread is to wake: with the lock. They are woken when
 * it is released. */
static int call_sleepers(void)
{
    const int seats = (int)fd_load(&pool.seats), awake = pool.threads - pool.asleep - (int)fd_load(&pool.at_work);
    int n = seats - awake;
    n = n < pool.asleep ? n : pool.asleep;
    n = n < WOKEN ? n : WOKEN;
    n = n > 0 ? n : 0;
    pool.asleep -= n;
    pool.called += n;
    return n;
}

static void wake(int sleepers)
{
    for (int i = 0; i < sleepers; ++i) {
        wake_one(&pool.posted);
    }
}

/* Take a seat. Returns NULL where there is none. */
static job *join(int *worker)
{
    int called = 0;
    acquire(&pool.lock);
    job *const j = pool.jobs;
    if (j != NULL) {
        *worker = ++j->joined;
        fd_fetch_add(&j->at_work, 1);
        fd_fetch_add(&pool.at_work, 1);
        fd_fetch_add(&pool.seats, minus_one);
        if (--j->seats == 0) {
            pool.jobs = j->next;
        }
        called = call_sleepers();
    }
    release(&pool.lock);
    wake(called);
    return j;
}

/* A scheduler may put a thread that is woken on the CPU of who has woken it, where it runs when that one is done, or
 * after some milliseconds. Linux does so in some virtual machines, and leaves it there: two threads then take longer than
 * one, for minutes. So a helper leaves that CPU where it finds itself there, and keeps off it while it sleeps. */
static int callers_cpu(void) { return (int)(int64_t)fd_load(&pool.callers_cpu); }

static void leave_callers_cpu(void)
{
    const int cpu = this_cpu();
    if (cpu >= 0 && cpu == callers_cpu()) {
        const affinity a = keep_off(cpu);
        keep_off_no_more(&a);
    }
}

/* Sleep until called. */
static void sleep_well(void)
{
    const affinity a = keep_off(callers_cpu());
    acquire(&pool.lock);
    if (pool.jobs == NULL) {
        ++pool.asleep;
        while (pool.called == 0) {
            wait_for(&pool.posted, &pool.lock);
        }
        --pool.called;
    }
    release(&pool.lock);
    keep_off_no_more(&a);
}

static job *next_job(int *worker)
{
    for (;;) {
        const uint64_t began = nanoseconds();
        for (int turns = 1; nanoseconds() - began < SPIN; ++turns) {
            leave_callers_cpu();
            for (int looks = 0; looks < LOOKS; ++looks) {
                job *const j = fd_load(&pool.seats) > 0 ? join(worker) : NULL;
                if (j != NULL) {
                    return j;
                }
                relax();
            }
            if (turns % TURNS == 0) {
                yield();
            }
        }
        sleep_well();
    }
}

static THREAD help(void *unused)
{
    (void)unused;
    name_this_thread();
    for (;;) {
        int worker;
        job *const j = next_job(&worker);
        fesetenv(&j->arithmetic);
        work(j, worker);
        fd_fetch_add(&pool.at_work, minus_one);
        /* After this there may be no job any more. */
        const int is_last = fd_fetch_add(&j->at_work, minus_one) == 1;
        if (is_last && fd_load(&pool.waiting) > 0) {
            acquire(&pool.lock);
            wake_all(&pool.left);
            release(&pool.lock);
        }
    }
    return 0;
}

static void post(job *j)
{
    fegetenv(&j->arithmetic);
    fd_store(&pool.callers_cpu, (uint64_t)this_cpu());
    acquire(&pool.lock);
    const int missing = j->seats - pool.threads;
    if (missing > 0) {
        pool.threads += missing;
    }
    j->next = pool.jobs;
    pool.jobs = j;
    fd_fetch_add(&pool.seats, (uint64_t)j->seats);
    const int called = call_sleepers();
    release(&pool.lock);
    wake(called);
    for (int started = 0; started < missing; ++started) {
        if (!start_thread(help)) {
            acquire(&pool.lock);
            pool.threads -= missing - started;
            release(&pool.lock);
            break;
        }
    }
}

static void withdraw(job *j)
{
    acquire(&pool.lock);
    if (j->seats > 0) {
        job **at = &pool.jobs;
        while (*at != j) {
            at = &(*at)->next;
        }
        *at = j->next;
        fd_fetch_add(&pool.seats, minus_one * (uint64_t)j->seats);
    }
    release(&pool.lock);
}

/* Helpers are on their last chunk: to sleep would take longer than that, unless one has lost its CPU. */
static void wait_for_helpers(job *j)
{
    const uint64_t began = nanoseconds();
    while (fd_load(&j->at_work) > 0 && nanoseconds() - began < SPIN) {
        for (int looks = 0; looks < LOOKS && fd_load(&j->at_work) > 0; ++looks) {
            relax();
        }
        yield();
    }
    if (fd_load(&j->at_work) > 0) {
        acquire(&pool.lock);
        fd_fetch_add(&pool.waiting, 1);
        while (fd_load(&j->at_work) > 0) {
            wait_for(&pool.left, &pool.lock);
        }
        fd_fetch_add(&pool.waiting, minus_one);
        release(&pool.lock);
    }
}

void fd_share(fd_part *part, void *context, int64_t size, int64_t chunk, int threads)
{
    job j = {.part = part, .context = context, .size = size, .chunk = chunk};
    j.count = (uint64_t)(size / chunk + (size % chunk != 0));
    if (threads > 1 && j.count > 1 && j.count >> HALF == 0) {
        j.seats = (uint64_t)threads < j.count ? threads - 1 : (int)j.count - 1;
        post(&j);
        work(&j, 0);
        withdraw(&j);
        wait_for_helpers(&j);
    } else {
        part(context, 0, 0, size);
    }
    fd_store(&pool.ended, nanoseconds());
}

int fd_has_just_shared(void) { return nanoseconds() - fd_load(&pool.ended) < SPIN; }

int fd_usable_cpus(void) { return cpus_of_this_thread(); }

/* In a forked child no thread is there but the one that forked. */
static void begin_anew(void) { pool = (struct pool){.lock = UNLOCKED, .posted = NOBODY_WAITS, .left = NOBODY_WAITS}; }

int fd_prepare_pool(void) { return call_in_forked_children(begin_anew); }
