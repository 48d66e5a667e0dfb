#include "service/service.h"

#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "lifecycle/sweep.h"
#include "service/api.h"

#define REFUSAL_S 2.0

tpv_status_t tpv_service_open(const tpv_service_options_t *options, tpv_catalog_t *catalog, tpv_service_t **service) {
    tpv_service_t *s = calloc(1, sizeof *s);
    if (!s) {
        tpv_catalog_clear(catalog);
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the service");
    }
    s->options = *options;
    s->catalog = *catalog;
    *catalog = (tpv_catalog_t){0};
    tpv_status_t status = tpv_net_open(options->net, &s->net);
    if (status == TPV_OK) status = tpv_pool_open(options->threads, &s->pool);
    if (status == TPV_OK) status = tpv_table_open(NULL, TPV_OPEN_CREATE, &s->table);
    if (status == TPV_OK) {
        tpv_table_sweep(s->table, NULL); /* what a service that died here has left */
        tpv_exports_init(&s->exports, s->table);
        tpv_mover_options_t mover = {.net = s->net,
                                     .pool = s->pool,
                                     .table = s->table,
                                     .metrics = &s->metrics,
                                     .lease_ttl_ns = (int64_t)(options->lease_ttl_s * (double)TPV_NS_PER_SECOND)};
        status = tpv_mover_open(&mover, &s->mover);
    }
    if (status == TPV_OK) {
        tpv_http_options_t http = {.unix_path = options->unix_path,
                                   .listen = options->listen,
                                   .token = options->token,
                                   .insecure = options->insecure,
                                   .handler = tpv_api_handler(s)};
        status = tpv_http_server_open(&http, &s->http);
    }
    if (status != TPV_OK) {
        tpv_service_close(s, 0);
        return status;
    }
    *service = s;
    return TPV_OK;
}

/* libmicrohttpd tells nobody when the last answer is out, so this looks every millisecond. */
static void wait_answered(const tpv_http_server_t *http, int64_t deadline) {
    while (tpv_http_server_pending(http) > 0 && !tpv_deadline_passed(deadline))
        nanosleep(&(struct timespec){.tv_nsec = TPV_NS_PER_MS}, NULL);
}

void tpv_service_close(tpv_service_t *service, double drain_s) {
    if (!service) return;
    atomic_store_explicit(&service->closing, true, memory_order_relaxed);
    if (service->http) {
        tpv_http_server_quiesce(service->http);
        if (!tpv_mover_wait_idle(service->mover, tpv_deadline_in(drain_s))) {
            tpv_mover_refuse_all(service->mover);
            tpv_mover_wait_idle(service->mover, tpv_deadline_in(REFUSAL_S));
        }
        wait_answered(service->http, tpv_deadline_in(REFUSAL_S));
    }
    tpv_mover_stop(service->mover);
    tpv_http_server_close(service->http); /* connections that close here still wake the mover */
    tpv_mover_close(service->mover);
    tpv_exports_clear(&service->exports);
    tpv_table_close(service->table);
    tpv_pool_close(service->pool);
    tpv_net_close(service->net);
    tpv_catalog_clear(&service->catalog);
    free(service);
}
