/* Publishing on a running service: one thread at a time opens an artifact and computes its digest, and offers it. */
#ifndef SERVICE_PUBLISHER_H
#define SERVICE_PUBLISHER_H

#include "service/service.h"

/* Begin to publish `definition` (NAME@VERSION=DIR) for `exchange`, which is suspended and resumed when it is over.
 * TPV_ERR_ARGUMENT for another form or a label that is taken; TPV_ERR_REFUSED while another one is under way or the
 * service closes; TPV_ERR_SYSTEM, TPV_ERR_NO_MEMORY. */
tpv_status_t tpv_publisher_start(tpv_service_t *service, tpv_exchange_t *exchange, const char *definition);
/* In the resumed exchange: how it ended. The caller holds *entry. */
tpv_status_t tpv_publisher_finish(tpv_exchange_t *exchange, tpv_entry_t **entry);
/* Break off what is under way (the service is closing) and wait for its thread. */
void tpv_publisher_stop(tpv_service_t *service);

#endif
