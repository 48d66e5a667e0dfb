#include "lifecycle/slots.h"

#include "base/error.h"
#include "lifecycle/table.h"
#include "lifecycle/words.h"

#define NO_SLOT UINT32_MAX

/* An arbiter: {slot + 1, the low half of the FREE word that the slot had}. */
static uint64_t announcement(uint32_t slot, uint64_t free_word) {
    return (uint64_t)(slot + 1) << 32 | free_word;
}

/* What follows a FREE word, in the given state. */
static uint64_t after_free(const tpv_slots_t *slots, uint64_t free_word, uint64_t state) {
    return ((free_word + TPV_WORD_VERSION_ONE) & slots->version_mask) | state;
}

static bool is_free(uint64_t word) {
    return (word & TPV_WORD_STATE_MASK) == 0;
}

/* Complete the creation that an arbiter announces. The CAS fails when that was done before or is void. */
static void complete(const tpv_slots_t *slots, uint64_t announced) {
    uint32_t slot = (uint32_t)(announced >> 32) - 1;
    uint64_t free_word = announced & UINT32_MAX;
    if (slot >= slots->count) return;
    tpv_word_cas(&tpv_slots_at(slots, slot)->word, &free_word, after_free(slots, free_word, TPV_SLOT_CREATED));
}

static bool find(const tpv_slots_t *slots, const tpv_slot_key_t *key, uint32_t *slot, uint64_t *generation) {
    uint32_t used = tpv_slots_used(slots);
    for (uint32_t i = 0; i < used; i++) {
        const tpv_slot_head_t *head = tpv_slots_at(slots, i);
        uint64_t word = tpv_word_load(&head->word);
        if (is_free(word)) continue;
        uint64_t first = tpv_word_load(&head->generation);
        if (tpv_word_load(&head->key_hash) != key->hash || !key->matches(head, word, key->key)) continue;
        /* The key belongs to this generation if that did not change while it was read. */
        if (tpv_word_load(&head->generation) != first) continue;
        *slot = i;
        *generation = first;
        return true;
    }
    return false;
}

/* Become the actor of a FREE slot. */
static bool take(const tpv_table_t *table, const tpv_slots_t *slots, tpv_slot_head_t *head, uint64_t self) {
    if (!is_free(tpv_word_load(&head->word))) return false;
    uint64_t actor = tpv_word_load(&head->actor);
    if (actor != 0) {
        if (table->alive(actor)) return false;
        uint64_t word = tpv_word_load(&head->word);
        if (!is_free(word) || tpv_word_load(&head->actor) != actor) return false;
        if (!tpv_word_cas(&head->word, &word, after_free(slots, word, 0))) return false;
    }
    if (!tpv_word_cas(&head->actor, &actor, self)) return false;
    if (is_free(tpv_word_load(&head->word))) return true;
    /* Somebody used the slot and let go of it between the two looks. */
    tpv_slot_release(head);
    return false;
}

static uint32_t take_any(const tpv_table_t *table, const tpv_slots_t *slots, uint64_t self) {
    for (uint32_t i = 0; i < slots->count; i++) {
        /* Scans must see the slot before it can be anything but FREE. */
        uint64_t used = tpv_word_load(slots->used);
        while (used <= i && !tpv_word_cas(slots->used, &used, i + 1)) {
        }
        if (take(table, slots, tpv_slots_at(slots, i), self)) return i;
    }
    return NO_SLOT;
}

tpv_status_t tpv_slots_claim(const struct tpv_table *table, const tpv_slots_t *slots, const tpv_slot_key_t *key,
                             uint32_t *slot, uint64_t *generation, bool *created) {
    uint64_t self = table->self();
    if (self == 0) return tpv_error_set(TPV_ERR_SYSTEM, "the start time of this process cannot be read from /proc");
    tpv_word_t *arbiter = &slots->arbiters[key->hash % slots->count];
    uint32_t mine = NO_SLOT;
    tpv_slot_head_t *head = NULL;
    for (;;) {
        uint64_t announced = tpv_word_load(arbiter);
        if (announced) complete(slots, announced);
        *created = false;
        if (find(slots, key, slot, generation)) {
            if (head) tpv_slot_release(head);
            return TPV_OK;
        }
        if (!head) {
            mine = take_any(table, slots, self);
            if (mine == NO_SLOT) return TPV_ERR_NO_SPACE;
            head = tpv_slots_at(slots, mine);
            /* The generation comes first: who sees anything of the new key sees that the old one is gone. */
            tpv_word_store(&head->generation, tpv_word_load(&head->generation) + 1);
            tpv_word_store(&head->key_hash, key->hash);
            key->fill(head, key->key);
        }
        uint64_t word = tpv_word_load(&head->word);
        if (!tpv_word_cas(arbiter, &announced, announcement(mine, word))) continue;
        if (tpv_word_cas(&head->word, &word, after_free(slots, word, TPV_SLOT_CREATED)) || !is_free(word)) break;
        /* Still FREE, in a later version: somebody took us for the dead actor before us. Announce again. */
    }
    *slot = mine;
    *generation = tpv_word_load(&head->generation);
    *created = true;
    return TPV_OK;
}

void tpv_slot_forget_dead(const struct tpv_table *table, const tpv_slots_t *slots, tpv_slot_head_t *head) {
    uint64_t actor = tpv_word_load(&head->actor);
    if (actor == 0 || table->alive(actor)) return;
    if (take(table, slots, head, table->self())) tpv_slot_release(head);
}
