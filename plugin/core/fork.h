/* A forked child shares its parent's sockets but must not move data on them: what is made before a fork carries another
 * generation than what the child makes. */
#ifndef CORE_FORK_H
#define CORE_FORK_H

#include <stdatomic.h>

extern _Atomic unsigned tpv_fork_generation_word;

/* How many forks lie between the first user of the plugin and this process. Costs one load. */
static inline unsigned tpv_fork_generation(void) {
    return atomic_load_explicit(&tpv_fork_generation_word, memory_order_relaxed);
}

/* Begin to watch for forks; further calls do nothing. */
void tpv_fork_watch(void);

/* The lock of all state of the process that is not on a comm's data path (device table, connects under way). It is held
 * over a fork, so that a child never finds it taken by a thread that it does not have. Not recursive. */
void tpv_setup_lock(void);
void tpv_setup_unlock(void);

#endif
