#include "core/receives.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"

/* A message that came before a receive for it was posted. In a list, oldest first. */
struct tpv_early {
    tpv_early_t *next;
    tpv_group_t *group; /* the receive that was posted for it meanwhile; NULL: none yet */
    unsigned member;
    bool whole;
    size_t size;
    char data[];
};

void tpv_receives_start(tpv_receives_t *receives, tpv_comm_t *comm, tpv_tell_t tell_sender) {
    receives->comm = comm;
    receives->tell = tell_sender;
    receives->free_groups = UINT32_MAX;
    receives->early_end = &receives->early;
    for (unsigned i = 0; i < TPV_GROUPS_MAX; i++) {
        receives->groups[i].base.comm = comm;
        receives->groups[i].base.events = receives->groups[i].events;
        receives->groups[i].index = (uint8_t)i;
    }
}

void tpv_receives_free(tpv_receives_t *receives) {
    for (tpv_early_t *early = receives->early, *next; early; early = next) {
        next = early->next;
        free(early);
    }
}

/* Groups are done out of order only where tags differ; the queue then closes the gap. */
static void remove_group(tpv_receives_t *receives, const tpv_group_t *group) {
    uint32_t at = receives->head;
    while (receives->queue[at % TPV_GROUPS_MAX] != group->index)
        at++;
    for (; at != receives->head; at--)
        receives->queue[at % TPV_GROUPS_MAX] = receives->queue[(at - 1) % TPV_GROUPS_MAX];
    receives->head++;
}

static void finish(tpv_receives_t *receives, tpv_group_t *group, unsigned member, size_t size) {
    group->members[member].size = size;
    if (--group->undone == 0) remove_group(receives, group);
}

static void notify(tpv_receives_t *receives, int32_t tag, uint64_t count) {
    for (unsigned i = 0; i < receives->notice_count; i++) {
        if (receives->notices[i].tag != tag) continue;
        receives->notices[i].count += count;
        return;
    }
    receives->notices[receives->notice_count++] = (tpv_notice_t){.magic = TPV_NOTICE_MAGIC, .tag = tag, .count = count};
}

static void begin_noticing(tpv_receives_t *receives) {
    receives->noticing = true;
    notify(receives, receives->first_tag, receives->first_count);
}

/* The sender learns of a receive that waits for a message. One that an early message fills was never waited for, so it
 * is told along with the next: the sender may have closed the comm by then, and its host would answer with a reset. */
static void tell(tpv_receives_t *receives, int32_t tag, bool filled) {
    if (!receives->any) receives->first_tag = tag;
    receives->any = true;
    if (!receives->noticing) {
        if (tag == receives->first_tag) {
            receives->first_count++;
            return;
        }
        begin_noticing(receives);
    }
    if (filled) {
        receives->untold++;
        return;
    }
    uint64_t count = 1;
    if (receives->early_any && tag == receives->early_tag) {
        count += receives->untold;
        receives->untold = 0;
    }
    notify(receives, tag, count);
}

/* The oldest early message with `tag` that no receive has. */
static tpv_early_t *find_early(const tpv_receives_t *receives, int32_t tag) {
    if (!receives->early || tag != receives->early_tag) return NULL;
    tpv_early_t *early = receives->early;
    while (early && early->group)
        early = early->next;
    return early;
}

/* A whole early message goes to its receive. */
static ncclResult_t deliver(tpv_receives_t *receives, tpv_early_t *early) {
    tpv_early_t **link = &receives->early;
    while (*link != early)
        link = &(*link)->next;
    const tpv_receive_t *receive = &early->group->members[early->member];
    if (early->size > receive->size) return ncclInvalidUsage;
    if (early->size) memcpy(receive->data, early->data, early->size);
    finish(receives, early->group, early->member, early->size);
    *link = early->next;
    if (!early->next) receives->early_end = link;
    receives->early_bytes -= early->size;
    free(early);
    return ncclSuccess;
}

static ncclResult_t post_member(tpv_receives_t *receives, tpv_group_t *group, unsigned member) {
    int32_t tag = group->members[member].tag;
    tpv_early_t *early = find_early(receives, tag);
    tell(receives, tag, early != NULL);
    if (!early) return ncclSuccess;
    early->group = group;
    early->member = member;
    group->unmatched &= (uint8_t) ~(1u << member);
    return early->whole ? deliver(receives, early) : ncclSuccess;
}

static ncclResult_t post(tpv_receives_t *receives, int count, void **data, const size_t *sizes, const int *tags,
                         tpv_group_t **posted) {
    *posted = NULL;
    if (!receives->free_groups || receives->notice_count) return ncclSuccess;
    unsigned index = (unsigned)__builtin_ctz(receives->free_groups);
    receives->free_groups &= receives->free_groups - 1;
    receives->queue[receives->tail++ % TPV_GROUPS_MAX] = (uint8_t)index;
    tpv_group_t *group = &receives->groups[index];
    group->count = group->undone = (uint8_t)count;
    group->unmatched = (uint8_t)((1u << count) - 1);
    for (int i = 0; i < count; i++)
        group->members[i] = (tpv_receive_t){.data = data[i], .size = sizes[i], .tag = tags[i]};
    for (int i = 0; i < count; i++) {
        ncclResult_t result = post_member(receives, group, (unsigned)i);
        if (result != ncclSuccess) return result;
    }
    *posted = group;
    return ncclSuccess;
}

ncclResult_t tpv_receives_post(tpv_receives_t *receives, int count, void **data, const size_t *sizes, const int *tags,
                               tpv_group_t **posted) {
    tpv_receives_tell(receives);
    ncclResult_t result = post(receives, count, data, sizes, tags, posted);
    tpv_receives_tell(receives);
    return result;
}

/* The oldest receive with `tag` that has no message; its group's index, -1 when there is none. */
static int find_receive(const tpv_receives_t *receives, int32_t tag, unsigned *member) {
    for (uint32_t at = receives->head; at != receives->tail; at++) {
        int index = receives->queue[at % TPV_GROUPS_MAX];
        const tpv_group_t *group = &receives->groups[index];
        for (unsigned left = group->unmatched; left; left &= left - 1) {
            *member = (unsigned)__builtin_ctz(left);
            if (group->members[*member].tag == tag) return index;
        }
    }
    return -1;
}

bool tpv_receives_open(const tpv_receives_t *receives) {
    for (uint32_t at = receives->head; at != receives->tail; at++)
        if (receives->groups[receives->queue[at % TPV_GROUPS_MAX]].unmatched) return true;
    return false;
}

void tpv_receives_unwanted(tpv_receives_t *receives) {
    if (!receives->noticing) begin_noticing(receives);
}

bool tpv_receives_wants(const tpv_receives_t *receives, int32_t tag) {
    unsigned member;
    return find_receive(receives, tag, &member) >= 0;
}

static ncclResult_t begin_early(tpv_receives_t *receives, int32_t tag, size_t size, tpv_incoming_t *incoming) {
    if (!receives->noticing) begin_noticing(receives);
    if (receives->early_any && tag != receives->early_tag) return ncclRemoteError;
    if (size > TPV_EARLY_BYTES_MAX - receives->early_bytes) return ncclRemoteError;
    tpv_early_t *early = malloc(sizeof *early + size);
    if (!early) {
        TPV_NET_WARN("no memory for a message of %zu bytes that came before its receive was posted", size);
        return ncclSystemError;
    }
    *early = (tpv_early_t){.size = size};
    *receives->early_end = early;
    receives->early_end = &early->next;
    receives->early_bytes += size;
    receives->early_tag = tag;
    receives->early_any = true;
    *incoming = (tpv_incoming_t){.data = early->data, .size = size, .early = early};
    return ncclSuccess;
}

ncclResult_t tpv_receives_begin(tpv_receives_t *receives, int32_t tag, size_t size, tpv_incoming_t *incoming) {
    *incoming = (tpv_incoming_t){.size = size};
    int index = find_receive(receives, tag, &incoming->member);
    if (index < 0) return begin_early(receives, tag, size, incoming);
    incoming->group = &receives->groups[index];
    const tpv_receive_t *receive = &incoming->group->members[incoming->member];
    if (size > receive->size) {
        incoming->size = receive->size;
        return ncclInvalidUsage;
    }
    incoming->group->unmatched &= (uint8_t) ~(1u << incoming->member);
    incoming->data = receive->data;
    return ncclSuccess;
}

ncclResult_t tpv_receives_end(tpv_receives_t *receives, const tpv_incoming_t *incoming) {
    if (incoming->group) {
        finish(receives, incoming->group, incoming->member, incoming->size);
        return ncclSuccess;
    }
    incoming->early->whole = true;
    return incoming->early->group ? deliver(receives, incoming->early) : ncclSuccess;
}

void tpv_receives_give_back(tpv_receives_t *receives, tpv_group_t *group, int *sizes) {
    for (unsigned i = 0; sizes && i < group->count; i++)
        sizes[i] = (int)group->members[i].size;
    receives->free_groups |= UINT32_C(1) << group->index;
}
