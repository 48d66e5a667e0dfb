/* One connection being made, from a device of this host. */
#ifndef SETUP_DIAL_H
#define SETUP_DIAL_H

#include <stdbool.h>

#include "core/interface.h"

/* How much of the device a connection is tied to, tried in this order. */
typedef enum {
    TPV_TIE_DEVICE,  /* its packets leave by the device (SO_BINDTODEVICE): where routing would choose another one */
    TPV_TIE_ADDRESS, /* they have the device's address */
    TPV_TIE_NONE     /* routing decides */
} tpv_tie_t;

/* The strictest tie that means anything for a way to `target`. */
tpv_tie_t tpv_dial_tie(const tpv_interface_t *interface, const tpv_address_t *target);

/* Begin to connect. The socket; -1 with errno. */
int tpv_dial(const tpv_interface_t *interface, tpv_tie_t tie, const tpv_address_t *target, int traffic_class);

/* Whether it stands or has failed; *error_number says which. */
bool tpv_dial_settled(int fd, int *error_number);

#endif
