#include "core/fork.h"

#include <pthread.h>

_Atomic unsigned tpv_fork_generation_word;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t setup = PTHREAD_MUTEX_INITIALIZER;

void tpv_setup_lock(void) {
    pthread_mutex_lock(&setup);
}

void tpv_setup_unlock(void) {
    pthread_mutex_unlock(&setup);
}

static void in_child(void) {
    atomic_fetch_add_explicit(&tpv_fork_generation_word, 1, memory_order_relaxed);
    tpv_setup_unlock();
}

static void watch(void) {
    pthread_atfork(tpv_setup_lock, tpv_setup_unlock, in_child);
}

void tpv_fork_watch(void) {
    pthread_once(&once, watch);
}
