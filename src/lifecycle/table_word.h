/*
 * Access to the words of the shared table. Everything that two processes may touch at the same time is a 64-bit C11
 * atomic and goes through here, with one of these orders:
 *
 *   load   acquire   what the writer stored before its release is seen
 *   store  release   what this process stored before is seen by who loads the value
 *   cas    acq_rel   on success both; on failure acquire, and *expected gets the present value
 *
 * No step needs sequential consistency: every decision is taken by a CAS on the one word that it depends on, never by
 * comparing the order of stores to two words.
 *
 * TPV_SHARED_STEP is where a test that explores interleavings takes control (built with TPV_MODEL); otherwise it is
 * nothing.
 */
#ifndef LIFECYCLE_TABLE_WORD_H
#define LIFECYCLE_TABLE_WORD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

void tpv_model_step(void); /* defined by that test */
#ifdef TPV_MODEL
#define TPV_SHARED_STEP() tpv_model_step()
#else
#define TPV_SHARED_STEP() ((void)0)
#endif

typedef _Atomic uint64_t tpv_word_t;

_Static_assert(sizeof(tpv_word_t) == 8 && ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "futexes wait on the low half of a word");

static inline uint64_t tpv_word_load(const tpv_word_t *word) {
    TPV_SHARED_STEP();
    return atomic_load_explicit((tpv_word_t *)word, memory_order_acquire);
}

static inline void tpv_word_store(tpv_word_t *word, uint64_t value) {
    TPV_SHARED_STEP();
    atomic_store_explicit(word, value, memory_order_release);
}

static inline bool tpv_word_cas(tpv_word_t *word, uint64_t *expected, uint64_t value) {
    TPV_SHARED_STEP();
    return atomic_compare_exchange_strong_explicit(word, expected, value, memory_order_acq_rel, memory_order_acquire);
}

/* A counter that nobody decides by: relaxed. */
static inline void tpv_word_add(tpv_word_t *word, uint64_t value) {
    atomic_fetch_add_explicit(word, value, memory_order_relaxed);
}

/*
 * Records of several words. They are written only by the process that holds a free slot, after it gave the slot a new
 * generation; a reader copies them, then looks at the generation again. Word by word with release and acquire: who
 * reads any word of the new record sees the new generation as well.
 */
static inline void tpv_words_store(tpv_word_t *words, const void *from, size_t bytes) {
    TPV_SHARED_STEP();
    for (size_t i = 0; i < bytes / 8; i++) {
        uint64_t value;
        memcpy(&value, (const char *)from + 8 * i, 8);
        atomic_store_explicit(&words[i], value, memory_order_release);
    }
}

static inline void tpv_words_load(void *to, const tpv_word_t *words, size_t bytes) {
    TPV_SHARED_STEP();
    for (size_t i = 0; i < bytes / 8; i++) {
        uint64_t value = atomic_load_explicit((tpv_word_t *)&words[i], memory_order_acquire);
        memcpy((char *)to + 8 * i, &value, 8);
    }
}

#endif
