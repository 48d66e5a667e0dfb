/* The handshake. The sender proves itself by what only it can have: a memfd with an id and a place in memory with a
 * nonce, both of which came over the connection. The id is of this comm alone; the nonce is the process's. The receiver
 * proves by reading them that the kernel lets it. */
#include "local/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/params.h"
#include "local/host.h"

#define SHARE_ONLY 2 /* of TPVIEW_NET_LOCAL */
/* Threads of the peer that may have ended one after the other while its memory is read once. A peer can have more
 * come and go for ever. */
#define TASKS_MAX 64

/* What the sender says of itself, as it goes over the connection. */
typedef struct {
    uint8_t boot_id[TPV_ID_BYTES];
    uint64_t pid_namespace;
    uint32_t pid;
    int32_t fd; /* of the segment's place */
    uint64_t nonce_address;
    uint8_t nonce[TPV_ID_BYTES];
    uint8_t segment_id[TPV_ID_BYTES];
    uint64_t segment_device, segment_inode;
} offer_t;
_Static_assert(sizeof(offer_t) == 88, "no padding: it goes on the wire as it is");

/* What the receiver says. */
typedef struct {
    uint32_t pid;
    uint8_t mode; /* a tpv_local_mode_t */
    uint8_t reserved[3];
} answer_t;
_Static_assert(sizeof(answer_t) == 8, "no padding: it goes on the wire as it is");

static tpv_end_t *make_end(void) {
    tpv_end_t *end = calloc(1, sizeof *end);
    if (!end) return NULL;
    end->segment.fd = -1;
    end->peer.alive = -1;
    return end;
}

void tpv_local_drop(tpv_end_t *end) {
    if (!end) return;
    tpv_local_peer_forget(&end->peer);
    tpv_local_segment_close(&end->segment);
    free(end);
}

bool tpv_local_offer(tpv_device_t *device, const uint8_t *peer, tpv_message_t *message, tpv_end_t **end) {
    (void)device;
    const tpv_local_host_t *host = tpv_local_host();
    if (!host || memcmp(peer, host->boot_id, sizeof host->boot_id) != 0) return false;
    const uint8_t *nonce = tpv_local_nonce();
    tpv_end_t *made = nonce ? make_end() : NULL;
    tpv_local_place_t place;
    if (!made || !tpv_local_segment_make(&made->segment) || !tpv_local_segment_place(&made->segment, &place)) {
        TPV_NET_INFO("no shared memory for a peer on this host (%s): going over the network stack", strerror(errno));
        tpv_local_drop(made);
        return false;
    }
    offer_t offer = {.pid_namespace = host->pid_namespace,
                     .pid = (uint32_t)getpid(),
                     .fd = place.fd,
                     .nonce_address = (uintptr_t)nonce,
                     .segment_device = place.device,
                     .segment_inode = place.inode};
    memcpy(offer.boot_id, host->boot_id, sizeof offer.boot_id);
    memcpy(offer.nonce, nonce, sizeof offer.nonce);
    memcpy(offer.segment_id, place.id, sizeof offer.segment_id);
    message->size = sizeof offer;
    memcpy(message->bytes, &offer, sizeof offer);
    *end = made;
    return true;
}

bool tpv_local_taken(tpv_end_t *end, const tpv_message_t *message) {
    answer_t answer;
    if (message->size != sizeof answer) return false;
    memcpy(&answer, message->bytes, sizeof answer);
    if ((answer.mode != TPV_LOCAL_PULL && answer.mode != TPV_LOCAL_SHARE) || !answer.pid || answer.pid > INT32_MAX)
        return false;
    end->mode = (tpv_local_mode_t)answer.mode;
    tpv_local_peer_watch(&end->peer, (int)answer.pid);
    return true;
}

ssize_t tpv_local_pull(tpv_end_t *end, struct iovec *local, struct iovec *remote, unsigned count) {
    uint8_t nonce[TPV_ID_BYTES];
    ssize_t got;
    local[0] = (struct iovec){nonce, sizeof nonce};
    remote[0] = (struct iovec){(void *)(uintptr_t)end->nonce_address, sizeof nonce};
    /* A thread that has ended has no memory, but others of its process may; while one is looked for, it may end too. */
    for (int tries = 1;
         (got = process_vm_readv(end->peer.task, local, count + 1, remote, count + 1, 0)) < 0 && errno == ESRCH;
         tries++) {
        if (tries < TASKS_MAX && tpv_local_peer_find_task(&end->peer)) continue;
        errno = ESRCH; /* looking for one may have set another */
        break;
    }
    if (got < 0 && errno != EFAULT) return -1;
    if (got < (ssize_t)sizeof nonce || memcmp(nonce, end->nonce, sizeof nonce) != 0) {
        errno = ESRCH;
        return -1;
    }
    return got - (ssize_t)sizeof nonce;
}

static tpv_local_mode_t choose_mode(tpv_end_t *end) {
    struct iovec local[1], remote[1];
    if (tpv_net_param_int(TPV_NET_PARAM_LOCAL) == SHARE_ONLY) return TPV_LOCAL_SHARE;
    if (tpv_local_pull(end, local, remote, 0) == 0) return TPV_LOCAL_PULL;
    TPV_NET_INFO("the memory of process %d cannot be read (process_vm_readv: %s): its data will be copied twice",
                 end->peer.pid, strerror(errno));
    return TPV_LOCAL_SHARE;
}

static const char *why_not(const tpv_local_host_t *host, const offer_t *offer) {
    if (memcmp(offer->boot_id, host->boot_id, sizeof host->boot_id) != 0) return "it is on another host";
    if (offer->pid_namespace != host->pid_namespace) return "it is in another pid namespace";
    if (offer->pid == 0 || offer->pid > INT32_MAX || offer->fd < 0) return "what it says of itself makes no sense";
    return NULL;
}

/* NULL with *why. */
static tpv_end_t *take(const offer_t *offer, const char **why) {
    tpv_end_t *end = make_end();
    *why = "out of memory";
    if (!end) return NULL;
    end->nonce_address = offer->nonce_address;
    memcpy(end->nonce, offer->nonce, sizeof end->nonce);
    tpv_local_place_t place = {.device = offer->segment_device, .inode = offer->segment_inode, .fd = offer->fd};
    memcpy(place.id, offer->segment_id, sizeof place.id);
    /* Before the segment is opened, which proves that the process id is the peer's. */
    tpv_local_peer_watch(&end->peer, (int)offer->pid);
    *why = "it is a process of another user";
    if (tpv_local_peer_same_user(&end->peer) && tpv_local_segment_open(&end->peer, &place, &end->segment, why)) {
        end->mode = choose_mode(end);
        return end;
    }
    tpv_local_drop(end);
    return NULL;
}

bool tpv_local_take(tpv_device_t *device, const tpv_message_t *message, tpv_message_t *reply, tpv_end_t **end) {
    (void)device;
    offer_t offer;
    const tpv_local_host_t *host = tpv_local_host();
    if (!host || message->size != sizeof offer) return false;
    memcpy(&offer, message->bytes, sizeof offer);
    const char *why = why_not(host, &offer);
    if (!why) *end = take(&offer, &why);
    if (!*end) {
        TPV_NET_INFO("process %u wanted to be a peer on this host; going over the network stack: %s", offer.pid, why);
        return false;
    }
    const answer_t answer = {.pid = (uint32_t)getpid(), .mode = (uint8_t)(*end)->mode};
    reply->size = sizeof answer;
    memcpy(reply->bytes, &answer, sizeof answer);
    return true;
}
