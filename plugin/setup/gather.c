#include "setup/gather.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/params.h"
#include "core/socket.h"

/* A peer that has gone had sent every hello before: what it sent is here soon or never. */
#define GONE_NS (2 * TPV_NS_PER_SECOND)

static tpv_gathering_t *begin(tpv_gathering_t **list, const tpv_greeting_t *greeting, const tpv_address_t *peer,
                              int64_t now) {
    tpv_gathering_t *made = malloc(sizeof *made);
    if (!made) return NULL;
    *made = (tpv_gathering_t){
        .next = *list, .count = greeting->hello.connections, .since = now, .peer = *peer, .greeting = *greeting};
    for (unsigned i = 0; i < TPV_CONNECTIONS_MAX; i++)
        made->fds[i] = -1;
    *list = made;
    return made;
}

tpv_gathering_t *tpv_gathering_add(tpv_gathering_t **list, const tpv_greeting_t *greeting, int fd,
                                   const tpv_address_t *peer, int64_t now, const char **why) {
    const tpv_hello_t *hello = &greeting->hello;
    tpv_gathering_t *at = *list;
    while (at && memcmp(at->greeting.hello.comm, hello->comm, sizeof hello->comm) != 0)
        at = at->next;
    if (!at) at = begin(list, greeting, peer, now);
    *why = "out of memory";
    if (!at) return NULL;
    *why = "it is of a comm with another number of connections";
    if (hello->connections != at->count) return NULL;
    *why = "its comm has that connection already";
    if (at->fds[hello->index] >= 0) return NULL;
    if (hello->index == 0) at->greeting = *greeting;
    at->fds[hello->index] = fd;
    at->present++;
    return at;
}

void tpv_gathering_take(tpv_gathering_t **list, const tpv_gathering_t *gathering) {
    while (*list != gathering)
        list = &(*list)->next;
    *list = gathering->next;
}

void tpv_gathering_free(tpv_gathering_t *gathering, bool own) {
    for (unsigned i = 0; i < gathering->count; i++)
        if (gathering->fds[i] >= 0) tpv_socket_close(gathering->fds[i], own);
    free(gathering);
}

const char *tpv_gathering_given_up(const tpv_gathering_t *gathering, int64_t now) {
    bool gone = false;
    for (unsigned i = 0; i < gathering->count && !gone; i++)
        gone = gathering->fds[i] >= 0 && tpv_socket_ended(gathering->fds[i]);
    if (gone && now - gathering->since >= GONE_NS) return "its peer went away";
    if (now - gathering->since < tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT) * TPV_NS_PER_SECOND) return NULL;
    return "not all of its connections came in time (TPVIEW_NET_CONNECT_TIMEOUT)";
}
