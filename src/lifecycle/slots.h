/*
 * Slots that are found by key, at most one live slot for each key, without a lock.
 *
 * Two processes that want the same new key must agree on one slot. Each key hashes to an arbiter, a word that names the
 * latest slot created under it. Creating a slot is: read the arbiter; finish what it names; look for the key; take a
 * free slot and write the key into it; CAS the arbiter from what was read to {slot, its word}. The CAS fails if anybody
 * created a slot under this arbiter since, so two of them never create the same key. It also is the point from which
 * the slot counts as created: whoever reads the arbiter next moves the slot out of FREE if its creator has not (or
 * died).
 *
 * A free slot is taken by a CAS on its actor word, from nobody or from a dead process. In the second case the version
 * in the state word is raised first, so that a creation that the dead one may have announced is void.
 */
#ifndef LIFECYCLE_SLOTS_H
#define LIFECYCLE_SLOTS_H

#include "lifecycle/layout.h"
#include "tpview/status.h"

struct tpv_table;

typedef struct tpv_slots {
    unsigned char *base;
    size_t stride;
    uint32_t count;
    uint64_t version_mask; /* of the state word; FREE words have nothing above bit 31 */
    tpv_word_t *arbiters;  /* `count` of them */
    tpv_word_t *used;
} tpv_slots_t;

/* The state word of a slot whose creation is complete: TPV_EXPORT_PENDING and TPV_LEASE_OPENING. */
#define TPV_SLOT_CREATED 1u

typedef struct tpv_slot_key {
    uint64_t hash;
    /* Whether slot `head`, whose hash is right and whose word is `word`, is a live one of this key. */
    bool (*matches)(const tpv_slot_head_t *head, uint64_t word, const void *key);
    /* Write the key and what else belongs to a new slot; the generation has been set. */
    void (*fill)(tpv_slot_head_t *head, const void *key);
    const void *key;
} tpv_slot_key_t;

static inline tpv_slot_head_t *tpv_slots_at(const tpv_slots_t *slots, uint32_t index) {
    return (tpv_slot_head_t *)(void *)(slots->base + (size_t)index * slots->stride);
}

/* How many slots, from 0 on, a scan must look at. */
static inline uint32_t tpv_slots_used(const tpv_slots_t *slots) {
    return (uint32_t)tpv_word_load(slots->used);
}

/*
 * Find the live slot of a key or create one. *created tells which; then this process is the slot's actor and must call
 * tpv_slot_release when the slot has left its first state for good. TPV_ERR_NO_SPACE without a free slot, no message;
 * TPV_ERR_SYSTEM when this process cannot tell its own start time.
 */
tpv_status_t tpv_slots_claim(const struct tpv_table *table, const tpv_slots_t *slots, const tpv_slot_key_t *key,
                             uint32_t *slot, uint64_t *generation, bool *created);

/* Give up being the actor. Only for the actor itself. */
static inline void tpv_slot_release(tpv_slot_head_t *head) {
    tpv_word_store(&head->actor, 0);
}

/* Free a FREE slot from an actor that died, so that nothing of it is left. */
void tpv_slot_forget_dead(const struct tpv_table *table, const tpv_slots_t *slots, tpv_slot_head_t *head);

#endif
