/*
 * New connections at a listener. One is a stranger until its greeting has proved that it knows the handle's id. A few
 * strangers are heard side by side, so none of them can hold up a rightful peer; when more knock, the one that has been
 * silent for longest makes room. Belongs to the one thread that accepts.
 */
#ifndef SETUP_STRANGERS_H
#define SETUP_STRANGERS_H

#include "core/device.h"
#include "setup/greeting.h"

/* A process may have hundreds of listeners, and each may be knocked at by a scanner. */
#define TPV_STRANGERS_MAX 8

typedef struct {
    int fd;
    size_t got;
    int64_t since;
    tpv_address_t peer;
    tpv_greeting_t greeting;
} tpv_stranger_t;

typedef struct {
    tpv_device_t *device;
    uint8_t id[TPV_ID_BYTES]; /* that they have to know */
    unsigned count;
    bool warned, starved; /* told of a stranger, or of a lack of descriptors */
    tpv_stranger_t all[TPV_STRANGERS_MAX];
} tpv_strangers_t;

/* Take what the kernel has from one listening socket. ncclSystemError, logged: the socket is no good. */
ncclResult_t tpv_strangers_let_in(tpv_strangers_t *strangers, int fd, int64_t now);

/* Read from the one at `index`. True when its greeting is whole and right; *gone: it was dropped, and another one has
 * its place. */
bool tpv_strangers_hear(tpv_strangers_t *strangers, unsigned index, int64_t now, bool *gone);

/* Its connection has another owner now. */
void tpv_strangers_forget(tpv_strangers_t *strangers, unsigned index);

/* Close its connection and say why. */
void tpv_strangers_drop(tpv_strangers_t *strangers, unsigned index, const char *why);

#endif
