#include "tcp/gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/params.h"

tpv_tcp_gathering_t *tpv_tcp_gathering_begin(tpv_tcp_gathering_t **list, const tpv_tcp_hello_t *hello, int fd,
                                             const tpv_address_t *peer, int64_t now) {
    tpv_tcp_gathering_t *made = malloc(sizeof *made);
    if (!made) {
        TPV_NET_WARN("out of memory");
        return NULL;
    }
    *made = (tpv_tcp_gathering_t){.next = *list, .lane_count = hello->lanes, .present = 1, .since = now, .peer = *peer};
    memcpy(made->comm, hello->comm, sizeof made->comm);
    for (unsigned i = 0; i < TPV_TCP_LANES_MAX; i++)
        made->fds[i] = -1;
    made->fds[0] = fd;
    *list = made;
    return made;
}

tpv_tcp_gathering_t *tpv_tcp_gathering_add(tpv_tcp_gathering_t *list, const tpv_tcp_hello_t *hello, int fd) {
    while (list && memcmp(list->comm, hello->comm, sizeof list->comm) != 0)
        list = list->next;
    if (!list || hello->lanes != list->lane_count || list->fds[hello->index] >= 0) return NULL;
    list->fds[hello->index] = fd;
    list->present++;
    return list;
}

void tpv_tcp_gathering_take(tpv_tcp_gathering_t **list, const tpv_tcp_gathering_t *gathering) {
    while (*list != gathering)
        list = &(*list)->next;
    *list = gathering->next;
}

void tpv_tcp_gathering_free(tpv_tcp_gathering_t *gathering) {
    for (unsigned i = 0; i < gathering->lane_count; i++)
        if (gathering->fds[i] >= 0) close(gathering->fds[i]);
    free(gathering);
}

const char *tpv_tcp_gathering_given_up(const tpv_tcp_gathering_t *gathering, int64_t now) {
    char byte;
    ssize_t got = recv(gathering->fds[0], &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && errno != EAGAIN && errno != EINTR) return "its peer went away";
    int64_t waited = (now - gathering->since) / TPV_NS_PER_SECOND;
    /* A peer may have sent everything and closed; its other connections are then on their way. */
    if (got == 0 && waited >= tpv_net_param_int(TPV_NET_PARAM_HANDSHAKE_TIMEOUT)) return "its peer went away";
    if (waited < tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT)) return NULL;
    return "not all of its connections came in time (TPVIEW_NET_CONNECT_TIMEOUT)";
}
