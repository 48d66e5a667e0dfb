#include "tcp/workers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/fork.h"
#include "core/log.h"

#define THREADS_MAX 16

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t left; /* a seat that is being left has no worker any more */
    unsigned fork_generation;
    int epoll, stop; /* `stop`: an eventfd that ends the threads */
    unsigned thread_count;
    pthread_t threads[THREADS_MAX];
    unsigned taken; /* seats that are not left. Under the setup lock. */
    /* Under `lock`. */
    unsigned capacity;
    tpv_tcp_seat_t **seats; /* `capacity` places, NULL where nobody sits */
    uint64_t generation;    /* of the next seat */
} pool_t;

/* All but the constant part is under the pool's lock. */
struct tpv_tcp_seat {
    pool_t *pool;
    /* What epoll knows it by, for an event may arrive after the seat is gone: place in the lower half, generation in
     * the upper one, which begins at 1. 0 is `stop`. */
    uint64_t id;
    int fd;
    tpv_tcp_work_t work;
    void *argument;
    bool known;    /* to epoll: from the first wake on, which would otherwise report errors to a seat that sleeps */
    unsigned busy; /* workers on it */
};

/* Under the setup lock. */
static pool_t *current;

/* Under the pool's lock, as all below but the ends of a pool. NULL: gone. */
static tpv_tcp_seat_t *find(const pool_t *pool, uint64_t id) {
    tpv_tcp_seat_t *seat = pool->seats[(uint32_t)id];
    return seat && seat->id == id ? seat : NULL;
}

static void arm(tpv_tcp_seat_t *seat, unsigned events) {
    struct epoll_event event = {.events = events | EPOLLONESHOT, .data.u64 = seat->id};
    (void)epoll_ctl(seat->pool->epoll, seat->known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, seat->fd, &event);
    seat->known = true;
}

static bool sit(pool_t *pool, tpv_tcp_seat_t *seat) {
    unsigned place = 0;
    while (place < pool->capacity && pool->seats[place])
        place++;
    if (place == pool->capacity) {
        unsigned capacity = pool->capacity ? 2 * pool->capacity : 16;
        tpv_tcp_seat_t **grown = realloc(pool->seats, capacity * sizeof(*grown));
        if (!grown) return false;
        memset(grown + pool->capacity, 0, (capacity - pool->capacity) * sizeof(*grown));
        pool->seats = grown;
        pool->capacity = capacity;
    }
    seat->id = ++pool->generation << 32 | place;
    pool->seats[place] = seat;
    pool->taken++;
    return true;
}

static void *run(void *argument) {
    pool_t *pool = argument;
    for (;;) {
        struct epoll_event event;
        int count = epoll_wait(pool->epoll, &event, 1, -1);
        if (count < 0 && errno != EINTR) return NULL;
        if (count < 1) continue;
        if (event.data.u64 == 0) return NULL;
        pthread_mutex_lock(&pool->lock);
        tpv_tcp_seat_t *seat = find(pool, event.data.u64);
        if (seat) seat->busy++;
        pthread_mutex_unlock(&pool->lock);
        if (!seat) continue;
        unsigned events = seat->work(seat->argument);
        pthread_mutex_lock(&pool->lock);
        if (events && find(pool, event.data.u64) == seat) arm(seat, events);
        if (--seat->busy == 0) pthread_cond_broadcast(&pool->left);
        pthread_mutex_unlock(&pool->lock);
    }
}

/* Signals are for the application's threads. */
static bool start_thread(pool_t *pool) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&pool->threads[pool->thread_count], NULL, run, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        TPV_NET_INFO("no helper thread for TCP: %s", strerror(error));
        return false;
    }
    pthread_setname_np(pool->threads[pool->thread_count++], "tpv-net-tcp");
    return true;
}

static void destroy(pool_t *pool) {
    uint64_t one = 1;
    if (pool->thread_count) (void)!write(pool->stop, &one, sizeof one);
    for (unsigned i = 0; i < pool->thread_count; i++)
        pthread_join(pool->threads[i], NULL);
    if (pool->epoll >= 0) close(pool->epoll);
    if (pool->stop >= 0) close(pool->stop);
    pthread_cond_destroy(&pool->left);
    pthread_mutex_destroy(&pool->lock);
    free(pool->seats);
    free(pool);
}

static pool_t *create(void) {
    pool_t *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->left, NULL);
    pool->fork_generation = tpv_fork_generation();
    pool->epoll = epoll_create1(EPOLL_CLOEXEC);
    pool->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    if (pool->epoll >= 0 && pool->stop >= 0 && epoll_ctl(pool->epoll, EPOLL_CTL_ADD, pool->stop, &event) == 0)
        return pool;
    TPV_NET_INFO("no helper threads for TCP: %s", strerror(errno));
    destroy(pool);
    return NULL;
}

tpv_tcp_seat_t *tpv_tcp_seat_take(int fd, unsigned threads, tpv_tcp_work_t work, void *argument) {
    if (current && current->fork_generation != tpv_fork_generation()) {
        /* The parent's. Its lock may have been held when the child was made, so only the descriptors are given up. */
        close(current->epoll);
        close(current->stop);
        current = NULL;
    }
    if (!current) current = create();
    if (!current) return NULL;
    pool_t *pool = current;
    if (threads > THREADS_MAX) threads = THREADS_MAX;
    while (pool->thread_count < threads && start_thread(pool)) {
    }
    tpv_tcp_seat_t *seat = pool->thread_count ? malloc(sizeof *seat) : NULL;
    bool seated = false;
    if (seat) {
        *seat = (tpv_tcp_seat_t){.pool = pool, .fd = fd, .work = work, .argument = argument};
        pthread_mutex_lock(&pool->lock);
        seated = sit(pool, seat);
        pthread_mutex_unlock(&pool->lock);
    }
    if (seated) return seat;
    free(seat);
    if (!pool->taken) {
        current = NULL;
        destroy(pool);
    }
    return NULL;
}

void tpv_tcp_seat_wake(tpv_tcp_seat_t *seat, unsigned events) {
    pthread_mutex_lock(&seat->pool->lock);
    arm(seat, events);
    pthread_mutex_unlock(&seat->pool->lock);
}

/* No more events, and nobody is on it. */
static void get_up(pool_t *pool, tpv_tcp_seat_t *seat) {
    pthread_mutex_lock(&pool->lock);
    pool->seats[(uint32_t)seat->id] = NULL;
    if (seat->known) (void)epoll_ctl(pool->epoll, EPOLL_CTL_DEL, seat->fd, NULL);
    while (seat->busy)
        pthread_cond_wait(&pool->left, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    free(seat);
}

void tpv_tcp_seat_leave(tpv_tcp_seat_t *seat) {
    pool_t *pool = seat->pool;
    if (pool->fork_generation != tpv_fork_generation()) {
        free(seat);
        return;
    }
    /* A worker may be in a page fault for a while: the setup lock is not held over that, nor while threads end. */
    get_up(pool, seat);
    tpv_setup_lock();
    bool last = --pool->taken == 0;
    if (last && current == pool) current = NULL;
    tpv_setup_unlock();
    if (last) destroy(pool);
}
