/* The routes of the control API, one function each. They answer, fail or suspend the exchange. */
#ifndef SERVICE_ROUTES_H
#define SERVICE_ROUTES_H

#include <jansson.h>

#include "service/service.h"

/* Count and log the thread's present error, and answer with it. */
void tpv_route_fail(tpv_service_t *service, tpv_exchange_t *exchange, tpv_status_t status);
/* Answer with a JSON value, which is dropped; NULL: out of memory. */
void tpv_route_answer(tpv_service_t *service, tpv_exchange_t *exchange, json_t *root);

/* routes_artifact.c */
void tpv_route_artifact_list(tpv_service_t *service, tpv_exchange_t *exchange);
void tpv_route_artifact_manifest(tpv_service_t *service, tpv_exchange_t *exchange, const char *rest);
void tpv_route_artifact_publish(tpv_service_t *service, tpv_exchange_t *exchange);
void tpv_route_artifact_published(tpv_service_t *service, tpv_exchange_t *exchange);
void tpv_route_artifact_retire(tpv_service_t *service, tpv_exchange_t *exchange, const char *label);

/* routes_fetch.c */
void tpv_route_fetch_begin(tpv_service_t *service, tpv_exchange_t *exchange);
void tpv_route_fetch_ended(tpv_service_t *service, tpv_exchange_t *exchange);
void tpv_route_lease_end(tpv_service_t *service, tpv_exchange_t *exchange, const char *id);
/* Whether the mover still has `job`. */
bool tpv_route_fetch_goes_on(const tpv_served_fetch_t *job);
/* The connection that `job` came by has closed. */
void tpv_route_fetch_lost(tpv_service_t *service, tpv_served_fetch_t *job);

#endif
