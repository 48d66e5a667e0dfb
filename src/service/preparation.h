/*
 * From the body of a request to a fetch that the mover can start: parsed, checked, compiled, with its export and its
 * lease. That may take seconds for a long spec, so threads of their own do it; and long ones, one at a time, keep none
 * of those that are short waiting.
 */
#ifndef SERVICE_PREPARATION_H
#define SERVICE_PREPARATION_H

#include "service/service.h"

#define TPV_PREPARATION_LONG ((size_t)512 << 10) /* bytes of a request from which on it is a long one */
#define TPV_PREPARATION_THREADS 2                /* for those that are short */

/* Prepare `fetch`, whose exchange is suspended, and hand it to the mover; what cannot be is answered with its error.
 * From an HTTP thread; never blocks. */
void tpv_preparation_start(tpv_service_t *service, tpv_exchange_t *exchange, tpv_served_fetch_t *fetch);

#endif
