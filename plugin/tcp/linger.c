#include "tcp/linger.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/clock.h"
#include "core/fork.h"
#include "core/params.h"
#include "core/socket.h"

typedef struct lingering {
    struct lingering *next;
    int fd;
    unsigned fork_generation;
    int64_t since;
} lingering_t;

/* Under the setup lock. */
static lingering_t *list;

/* Calls in a row; a peer can send without end. */
#define RECVS_MAX 64

/* Whether it may be closed: all is delivered, or nobody is there any more. */
static bool settled(int fd) {
    char notices[256];
    ssize_t got = 1;
    for (int i = 0; i < RECVS_MAX && (got > 0 || (got < 0 && errno == EINTR)); i++)
        got = recv(fd, notices, sizeof notices, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return true;
    if (got > 0) return false; /* closed with bytes unread, the peer would see a reset and not the end */
    int undelivered = 0;
    return ioctl(fd, SIOCOUTQ, &undelivered) != 0 || undelivered == 0;
}

bool tpv_tcp_linger(int fd) {
    if (settled(fd)) return false;
    lingering_t *made = malloc(sizeof *made);
    if (!made) return false;
    (void)shutdown(fd, SHUT_WR);
    tpv_setup_lock();
    *made = (lingering_t){.next = list, .fd = fd, .fork_generation = tpv_fork_generation(), .since = tpv_clock_ns()};
    list = made;
    tpv_setup_unlock();
    return true;
}

void tpv_tcp_linger_sweep(void) {
    int64_t patience = tpv_net_param_int(TPV_NET_PARAM_PEER_TIMEOUT) * TPV_NS_PER_SECOND,
            now = list ? tpv_clock_ns() : 0;
    for (lingering_t **link = &list; *link;) {
        lingering_t *entry = *link;
        if (entry->fork_generation == tpv_fork_generation() && now - entry->since < patience && !settled(entry->fd)) {
            link = &entry->next;
            continue;
        }
        *link = entry->next;
        tpv_socket_close(entry->fd, entry->fork_generation == tpv_fork_generation());
        free(entry);
    }
}
