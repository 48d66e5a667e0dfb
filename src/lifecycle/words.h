/*
 * The state words of export and lease slots. One CAS on a state word is one transition; docs/lifecycle.md has them all.
 *
 * Export word, low half first:
 *   bits  0-2   state
 *   bits  3-31  version, one more with every CAS: a word never comes back with other meaning. Futexes wait on this
 * half. bits 32-46  active: leases counted bits 47-62  step: the lease that was counted last, and which way (below); 0
 * for none
 *
 * Why the step. Beginning a lease changes two words, the export's (active + 1) and the lease's (OPENING to GRANTED),
 * and a process may die in between. The step tells in the same CAS whose count it was, and before another step takes
 * its place the lease's word must have followed. So at every instant
 *
 *   active = GRANTED + ATTACHED + REVOKED + ENDING leases of the export
 *            + 1 if the step says "begun" of a lease that is still OPENING
 *            - 1 if the step says "ended" of a lease that is still ENDING
 *
 * Lease word:
 *   bits  0-2   state
 *   bits  3-26  version, one more with every change of the state
 *   bits 27-63  deadline in milliseconds of CLOCK_MONOTONIC; part of the word so that a renewal and an expiry cannot
 * both succeed
 */
#ifndef LIFECYCLE_WORDS_H
#define LIFECYCLE_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "tpview/lease.h"

#define TPV_WORD_STATE_MASK UINT64_C(7)
#define TPV_WORD_VERSION_ONE UINT64_C(8)

/* ---- exports ---- */
#define TPV_EXPORT_VERSION_MASK UINT64_C(0xfffffff8)
#define TPV_EXPORT_ACTIVE_SHIFT 32
#define TPV_EXPORT_ACTIVE_MAX 0x7fffu
#define TPV_EXPORT_STEP_SHIFT 47
#define TPV_STEP_ENDED 0x8000u

static inline tpv_export_state_t tpv_export_word_state(uint64_t word) {
    return (tpv_export_state_t)(word & TPV_WORD_STATE_MASK);
}

static inline uint32_t tpv_export_word_active(uint64_t word) {
    return (uint32_t)(word >> TPV_EXPORT_ACTIVE_SHIFT) & TPV_EXPORT_ACTIVE_MAX;
}

/* 0, or tpv_step_begun / tpv_step_ended of a lease slot. */
static inline uint32_t tpv_export_word_step(uint64_t word) {
    return (uint32_t)(word >> TPV_EXPORT_STEP_SHIFT) & 0xffffu;
}

/* The word that follows `word` with these values and the next version. */
static inline uint64_t tpv_export_word_next(uint64_t word, tpv_export_state_t state, uint32_t active, uint32_t step) {
    uint64_t version = ((word & TPV_EXPORT_VERSION_MASK) + TPV_WORD_VERSION_ONE) & TPV_EXPORT_VERSION_MASK;
    return (uint64_t)state | version | (uint64_t)active << TPV_EXPORT_ACTIVE_SHIFT |
           (uint64_t)step << TPV_EXPORT_STEP_SHIFT;
}

/* The same leases, another state. */
static inline uint64_t tpv_export_word_to(uint64_t word, tpv_export_state_t state) {
    return tpv_export_word_next(word, state, tpv_export_word_active(word), tpv_export_word_step(word));
}

static inline uint32_t tpv_step_begun(uint32_t lease_slot) {
    return lease_slot + 1;
}

static inline uint32_t tpv_step_ended(uint32_t lease_slot) {
    return (lease_slot + 1) | TPV_STEP_ENDED;
}

static inline uint32_t tpv_step_lease(uint32_t step) {
    return (step & ~TPV_STEP_ENDED) - 1;
}

/* ---- leases ---- */
#define TPV_LEASE_VERSION_MASK UINT64_C(0x7fffff8)
#define TPV_LEASE_DEADLINE_SHIFT 27
#define TPV_LEASE_DEADLINE_MAX ((INT64_C(1) << 37) - 1) /* milliseconds: 4.3 years after boot, and "never" */

static inline tpv_lease_state_t tpv_lease_word_state(uint64_t word) {
    return (tpv_lease_state_t)(word & TPV_WORD_STATE_MASK);
}

static inline int64_t tpv_lease_word_deadline_ms(uint64_t word) {
    return (int64_t)(word >> TPV_LEASE_DEADLINE_SHIFT);
}

/* The same state and version, another deadline. */
static inline uint64_t tpv_lease_word_renew(uint64_t word, int64_t deadline_ms) {
    uint64_t below = (UINT64_C(1) << TPV_LEASE_DEADLINE_SHIFT) - 1;
    return (word & below) | (uint64_t)deadline_ms << TPV_LEASE_DEADLINE_SHIFT;
}

/* Another state, the next version, this deadline. */
static inline uint64_t tpv_lease_word_next(uint64_t word, tpv_lease_state_t state, int64_t deadline_ms) {
    uint64_t version = ((word & TPV_LEASE_VERSION_MASK) + TPV_WORD_VERSION_ONE) & TPV_LEASE_VERSION_MASK;
    return (uint64_t)state | version | (uint64_t)deadline_ms << TPV_LEASE_DEADLINE_SHIFT;
}

/* Another state, the same deadline. */
static inline uint64_t tpv_lease_word_to(uint64_t word, tpv_lease_state_t state) {
    return tpv_lease_word_next(word, state, state == TPV_LEASE_FREE ? 0 : tpv_lease_word_deadline_ms(word));
}

/* Held by somebody: what may be ended or revoked. */
static inline bool tpv_lease_is_held(tpv_lease_state_t state) {
    return state == TPV_LEASE_GRANTED || state == TPV_LEASE_ATTACHED || state == TPV_LEASE_REVOKED;
}

#endif
