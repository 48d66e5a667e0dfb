#include "setup/strangers.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/params.h"
#include "core/socket.h"

/* A rightful peer speaks as soon as the connection stands. One that was silent for so long may have to make room: it
 * finds its connection closed before it has spoken, and comes again. */
#define PATIENCE_NS (100 * TPV_NS_PER_MS)
/* Taken from the kernel in one call. */
#define BATCH 64

void tpv_strangers_forget(tpv_strangers_t *strangers, unsigned index) {
    strangers->all[index] = strangers->all[--strangers->count];
}

void tpv_strangers_drop(tpv_strangers_t *strangers, unsigned index, const char *why) {
    char text[TPV_ADDRESS_TEXT];
    uint64_t before = atomic_fetch_add_explicit(&strangers->device->stats.strangers, 1, memory_order_relaxed);
    /* One warning for each listener: a scanner must not fill the log. */
    if (!strangers->warned)
        TPV_NET_WARN("dropped a connection from %s (%s): %s; it is stranger %" PRIu64,
                     tpv_address_print(&strangers->all[index].peer, text), strangers->device->name, why, before + 1);
    strangers->warned = true;
    tpv_socket_close(strangers->all[index].fd, true);
    tpv_strangers_forget(strangers, index);
}

/* A connection at a listening socket, or bytes of a stranger. */
static bool something_waits(int fd) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) > 0;
}

/* False when all still have a right to be heard: they are new, or what they said has not been read yet, as it is when
 * this side's caller was away for a while. */
static bool drop_oldest(tpv_strangers_t *strangers, int64_t now, const char *why) {
    unsigned oldest = strangers->count;
    for (unsigned i = 0; i < strangers->count; i++) {
        const tpv_stranger_t *stranger = &strangers->all[i];
        if (now - stranger->since < PATIENCE_NS || something_waits(stranger->fd)) continue;
        if (oldest == strangers->count || stranger->since < strangers->all[oldest].since) oldest = i;
    }
    if (oldest == strangers->count) return false;
    tpv_strangers_drop(strangers, oldest, why);
    return true;
}

static bool have_place(tpv_strangers_t *strangers, int fd, int64_t now) {
    if (strangers->count < TPV_STRANGERS_MAX) return true;
    return something_waits(fd) && drop_oldest(strangers, now, "it sent no whole hello and others are waiting");
}

/* Out of descriptors or memory: what is silent here goes first, and the rest stays with the kernel. */
static void starve(tpv_strangers_t *strangers, int error_number, int64_t now) {
    if (!strangers->starved)
        TPV_NET_WARN("accept on %s: %s: trying again later", strangers->device->name, strerror(error_number));
    strangers->starved = true;
    (void)drop_oldest(strangers, now, "it sent no whole hello and its descriptor is needed");
}

ncclResult_t tpv_strangers_let_in(tpv_strangers_t *strangers, int fd, int64_t now) {
    for (int i = 0; i < BATCH && have_place(strangers, fd, now); i++) {
        tpv_stranger_t *next = &strangers->all[strangers->count];
        socklen_t length = sizeof next->peer;
        int accepted = accept4(fd, &next->peer.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (accepted >= 0) {
            next->fd = accepted;
            next->got = 0;
            next->since = now;
            strangers->count++;
            continue;
        }
        if (errno == EAGAIN) return ncclSuccess;
        switch (tpv_socket_verdict(errno)) {
        case TPV_VERDICT_LATER:
            if (errno == EINTR) continue;
            starve(strangers, errno, now);
            return ncclSuccess;
        case TPV_VERDICT_ANOTHER:
            /* accept(2): Linux hands errors of the new connection over here. They mean one stranger less. */
            if (errno != EINVAL) continue;
            break;
        default:
            break;
        }
        TPV_NET_WARN("accept on %s: %s", strangers->device->name, strerror(errno));
        return ncclSystemError;
    }
    return ncclSuccess;
}

/* How much there is to read before an answer is due. */
static size_t expected_bytes(const tpv_stranger_t *stranger) {
    const tpv_hello_t *hello = &stranger->greeting.hello;
    return stranger->got < sizeof *hello ? sizeof *hello : sizeof *hello + hello->offer_bytes;
}

/* What is wrong with what has come; NULL: nothing so far. */
static const char *judge(const tpv_strangers_t *strangers, const tpv_stranger_t *stranger) {
    const tpv_hello_t *hello = &stranger->greeting.hello;
    if (!tpv_hello_begins(hello, stranger->got)) return "what it sent is no hello of this plugin";
    if (stranger->got >= sizeof *hello && !tpv_hello_proves(hello, strangers->id))
        return "it does not know this listener's id";
    return NULL;
}

bool tpv_strangers_hear(tpv_strangers_t *strangers, unsigned index, int64_t now, bool *gone) {
    tpv_stranger_t *stranger = &strangers->all[index];
    const char *why = NULL;
    *gone = false;
    for (;;) {
        size_t wanted = expected_bytes(stranger) - stranger->got;
        ssize_t got = recv(stranger->fd, (char *)&stranger->greeting + stranger->got, wanted, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) break;
        if (got < 0) why = strerror(errno);
        if (got == 0) why = "it closed before its hello was whole";
        if (got > 0) {
            stranger->got += (size_t)got;
            why = judge(strangers, stranger);
        }
        if (why) break;
        if (stranger->got >= sizeof stranger->greeting.hello && stranger->got == expected_bytes(stranger)) return true;
    }
    if (!why && now - stranger->since > tpv_net_param_int(TPV_NET_PARAM_CONNECT_TIMEOUT) * TPV_NS_PER_SECOND)
        why = "it sent no whole hello in time (TPVIEW_NET_CONNECT_TIMEOUT)";
    *gone = why != NULL;
    if (why) tpv_strangers_drop(strangers, index, why);
    return false;
}
