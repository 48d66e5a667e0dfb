/*
 * Which addresses a rank may send this service to. A fetch request carries net handles, and a handle says where to
 * connect: without a bound, whoever may fetch could have the service knock at any door that it can reach.
 *
 * A handle of our own plugin is read (docs/plugin.md has its layout). A handle of another plugin is opaque: where it
 * leads is between that plugin and the rank.
 */
#ifndef SERVICE_REACH_H
#define SERVICE_REACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "tpview/status.h"

/* Networks, as "ADDRESS/BITS" or "ADDRESS". */
typedef struct tpv_networks {
    struct {
        uint8_t bytes[16]; /* IPv4 as IPv4-mapped IPv6 */
        unsigned bits;
    } * list;
    size_t count;
} tpv_networks_t;

/* TPV_ERR_ARGUMENT for another form, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_networks_add(tpv_networks_t *networks, const char *text);
void tpv_networks_clear(tpv_networks_t *networks);

/*
 * Leave in the `count` handles of NCCL_NET_HANDLE_MAXSIZE bytes only the addresses that a rank at `peer`, which is
 * where its control connection comes from, may have: those that are `peer` or lie in one of `allowed`; without any of
 * those (or NULL), in a network of the interface of this host that has `peer` in one of its networks, or be this host's
 * own when `peer` is. Does nothing to handles of another net plugin than ours. *elsewhere: some address that is left is
 * not `peer`. TPV_ERR_PERMISSION when a handle has none left: names one and the remedy. TPV_ERR_FORMAT.
 */
tpv_status_t tpv_reach_confine(const char *net, uint8_t *handles, size_t count, const struct sockaddr *peer,
                               const tpv_networks_t *allowed, bool *elsewhere);

#endif
