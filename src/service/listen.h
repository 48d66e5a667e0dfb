/* Sockets that the control API listens on: non-blocking, close-on-exec, the caller's to close. */
#ifndef SERVICE_LISTEN_H
#define SERVICE_LISTEN_H

#include <stdbool.h>

#include "tpview/status.h"

/* What is wrong with an address by itself, before anything is opened: TPV_ERR_ARGUMENT and TPV_ERR_PERMISSION as the
 * calls below. */
tpv_status_t tpv_listen_check_unix(const char *path);
tpv_status_t tpv_listen_check_tcp(const char *listen_at, bool may_be_open);

/* A Unix socket of mode 0600 at `path`, and the lock beside it ("PATH.lock"), which lets one service at a time have the
 * path. A socket whose owner is dead is replaced, a live one is TPV_ERR_REFUSED; what is no socket, or a path that is
 * too long, TPV_ERR_ARGUMENT; TPV_ERR_SYSTEM. *lock is to be given to tpv_listen_unlock. */
tpv_status_t tpv_listen_unix(const char *path, int *descriptor, int *lock);
/* Remove the socket and its lock from the file system, and close the lock. */
void tpv_listen_unlock(const char *path, int lock);

#define TPV_LISTEN_MOST 2 /* sockets of one HOST:PORT: one for each family */

/* TCP at "HOST:PORT", port 0: any. A HOST that stands for IPv4 and IPv6 addresses, such as localhost, is listened to at
 * one of each, IPv4 first, at the same port; a family that this host does not have is left out. Beyond loopback only if
 * it `may_be_open` to other hosts: TPV_ERR_PERMISSION. TPV_ERR_ARGUMENT for another form or an unknown host;
 * TPV_ERR_SYSTEM. */
tpv_status_t tpv_listen_tcp(const char *listen_at, bool may_be_open, int descriptors[TPV_LISTEN_MOST], unsigned *count);

#endif
