/* The Unix socket at which the programs of one user meet when no address is given. */
#ifndef BASE_DEFAULT_SOCKET_H
#define BASE_DEFAULT_SOCKET_H

#include <stdbool.h>

#include "tpview/status.h"

#define TPV_SOCKET_PATH_MAX 108 /* of sockaddr_un, unix(7) */

/*
 * $XDG_RUNTIME_DIR/tpviewd.sock, or /tmp/tpview-UID/tpviewd.sock where that is not set; UID is the effective one. The
 * folder must belong to this user, and nobody else may write to it: a service that somebody else has put there is never
 * met. With `make` the folder in /tmp is made when it is missing, mode 0700; without, a missing one is no error.
 * TPV_ERR_PERMISSION, TPV_ERR_ARGUMENT for an XDG_RUNTIME_DIR that is too long, TPV_ERR_SYSTEM.
 */
tpv_status_t tpv_default_socket(bool make, char path[TPV_SOCKET_PATH_MAX]);

#endif
