/* What the kernel's routing table says of a way. */
#ifndef SETUP_ROUTE_H
#define SETUP_ROUTE_H

#include <stdbool.h>

#include "core/address.h"

/* Whether packets from `source` to `target` would leave through another interface than `index`, although there is a
 * way through that one: two interfaces in one subnet. False when the kernel does not say, or `target` is of this host.
 */
bool tpv_route_strays(const tpv_address_t *source, const tpv_address_t *target, unsigned index);

#endif
