/* The handshake. The sender proves itself by what only it can have: a memfd and a place in memory, both with the nonce
 * that came over the connection. The receiver proves by reading them that the kernel lets it. */
#include "local/link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/log.h"
#include "core/params.h"

#define SHARE_ONLY 2 /* of TPVIEW_NET_LOCAL */

static tpv_local_link_t *make_link(void) {
    tpv_local_link_t *link = calloc(1, sizeof *link);
    if (!link) return NULL;
    link->segment.fd = -1;
    link->peer_alive = -1;
    return link;
}

void tpv_local_link_free(tpv_local_link_t *link) {
    if (!link) return;
    if (link->peer_alive >= 0) close(link->peer_alive);
    tpv_local_segment_close(&link->segment);
    free(link);
}

/* Without it, the end of the connection alone tells of the peer's death, which a forked child of the peer can delay. */
static void watch_peer(tpv_local_link_t *link) {
    link->peer_alive = (int)syscall(SYS_pidfd_open, link->peer, 0);
}

tpv_local_link_t *tpv_local_offer(const uint8_t *peer, tpv_local_offer_t *offer) {
    const tpv_local_host_t *host = tpv_local_host();
    if (!host || memcmp(peer, host->boot_id, sizeof host->boot_id) != 0) return NULL;
    const uint8_t *nonce = tpv_local_nonce();
    tpv_local_link_t *link = nonce ? make_link() : NULL;
    if (!link || !tpv_local_segment_make(nonce, &link->segment)) {
        TPV_NET_INFO("no shared memory for a peer on this host (%s): going over the network stack", strerror(errno));
        tpv_local_link_free(link);
        return NULL;
    }
    *offer = (tpv_local_offer_t){.pid_namespace = host->pid_namespace,
                                 .pid = (uint32_t)getpid(),
                                 .fd = link->segment.fd,
                                 .nonce_address = (uintptr_t)nonce};
    memcpy(offer->boot_id, host->boot_id, sizeof offer->boot_id);
    memcpy(offer->nonce, nonce, sizeof offer->nonce);
    return link;
}

void tpv_local_offer_taken(tpv_local_link_t *link, tpv_local_mode_t mode, int pid) {
    link->mode = mode;
    link->peer = pid;
    watch_peer(link);
}

ssize_t tpv_local_pull(const tpv_local_link_t *link, struct iovec *local, struct iovec *remote, unsigned count) {
    uint8_t nonce[TPV_LOCAL_ID_BYTES];
    local[0] = (struct iovec){nonce, sizeof nonce};
    remote[0] = (struct iovec){(void *)(uintptr_t)link->nonce_address, sizeof nonce};
    ssize_t got = process_vm_readv(link->peer, local, count + 1, remote, count + 1, 0);
    if (got < 0 && errno != EFAULT) return -1;
    if (got < (ssize_t)sizeof nonce || memcmp(nonce, link->nonce, sizeof nonce) != 0) {
        errno = ESRCH;
        return -1;
    }
    return got - (ssize_t)sizeof nonce;
}

static tpv_local_mode_t choose_mode(const tpv_local_link_t *link) {
    struct iovec local[1], remote[1];
    if (tpv_net_param_int(TPV_NET_PARAM_LOCAL) == SHARE_ONLY) return TPV_LOCAL_SHARE;
    if (tpv_local_pull(link, local, remote, 0) == 0) return TPV_LOCAL_PULL;
    TPV_NET_INFO("the memory of process %d cannot be read (process_vm_readv: %s): its data will be copied twice",
                 link->peer, strerror(errno));
    return TPV_LOCAL_SHARE;
}

static const char *why_not(const tpv_local_offer_t *offer) {
    const tpv_local_host_t *host = tpv_local_host();
    if (!host) return "the same-host transport is off here (TPVIEW_NET_LOCAL)";
    if (memcmp(offer->boot_id, host->boot_id, sizeof host->boot_id) != 0) return "it is on another host";
    if (offer->pid_namespace != host->pid_namespace) return "it is in another pid namespace";
    if (offer->pid == 0 || offer->pid > INT32_MAX || offer->fd < 0) return "what it says of itself makes no sense";
    return NULL;
}

tpv_local_link_t *tpv_local_take(const tpv_local_offer_t *offer, tpv_local_mode_t *mode) {
    *mode = TPV_LOCAL_DECLINED;
    const char *why = why_not(offer);
    tpv_local_link_t *link = why ? NULL : make_link();
    if (link) {
        link->peer = (int)offer->pid;
        link->nonce_address = offer->nonce_address;
        memcpy(link->nonce, offer->nonce, sizeof link->nonce);
        /* Before the segment is opened, which proves that the process id is the peer's. */
        watch_peer(link);
        if (tpv_local_segment_open(link->peer, offer->fd, offer->nonce, &link->segment, &why)) {
            *mode = link->mode = choose_mode(link);
            return link;
        }
        tpv_local_link_free(link);
    }
    TPV_NET_INFO("process %u wanted to be a peer on this host; going over the network stack: %s", offer->pid,
                 why ? why : "out of memory");
    return NULL;
}
