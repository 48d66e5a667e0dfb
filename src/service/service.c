#include "service/service.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/params.h"
#include "lifecycle/sweep.h"
#include "service/api.h"
#include "service/listen.h"
#include "service/preparation.h"
#include "service/publisher.h"
#include "tpview/fetch.h"

#define REFUSAL_S 2.0
#define DEFAULT_BUDGET ((uint64_t)1 << 30) /* where nothing tells how much there is */
#define LEAST_BUDGET ((uint64_t)16 << 20)

/* Half of what may be taken now: the page cache of the artifacts wants the rest. */
static uint64_t default_budget(void) {
    uint64_t available = tpv_memory_available("");
    if (available == UINT64_MAX) return DEFAULT_BUDGET;
    return available / 2 > LEAST_BUDGET ? available / 2 : LEAST_BUDGET;
}

/* What is too long to represent never comes. */
static int64_t nanoseconds(double seconds) {
    double ns = seconds * (double)TPV_NS_PER_SECOND;
    return ns < (double)TPV_DEADLINE_NEVER ? (int64_t)ns : TPV_DEADLINE_NEVER;
}

/* A power of two: what ranks take that take shorter chunks are halves of it. */
static uint32_t chunk_bytes(void) {
    uint64_t bytes = TPV_MIN_CHUNK;
    while (2 * bytes <= (uint64_t)tpv_param_int(TPV_PARAM_CHUNK_BYTES))
        bytes *= 2;
    return (uint32_t)bytes;
}

static tpv_status_t open_store(tpv_service_t *service) {
    const tpv_service_options_t *options = &service->options;
    TPV_TRY(tpv_table_open(NULL, TPV_OPEN_CREATE, &service->table));
    tpv_table_sweep(service->table, NULL); /* what a service that died here has left */
    service->budget = options->budget ? options->budget : default_budget();
    tpv_store_options_t store = {.table = service->table,
                                 .metrics = &service->metrics,
                                 .chunk_bytes = chunk_bytes(),
                                 .budget = service->budget,
                                 .ttl_ns = nanoseconds(options->export_ttl_s)};
    return tpv_store_open(&store, &service->store);
}

static tpv_status_t open_mover(tpv_service_t *service) {
    tpv_mover_options_t mover = {.net = service->net,
                                 .pool = service->pool,
                                 .table = service->table,
                                 .store = service->store,
                                 .metrics = &service->metrics,
                                 .lease_ttl_ns = nanoseconds(service->options.lease_ttl_s)};
    return tpv_mover_open(&mover, &service->mover);
}

static bool may_be_open(const tpv_service_options_t *options) {
    return options->token || options->admin_token || (options->tls && options->tls->ca) || options->insecure;
}

static tpv_status_t open_http(tpv_service_t *service) {
    const tpv_service_options_t *options = &service->options;
    tpv_http_options_t http = {.unix_path = options->unix_path,
                               .listen = options->listen,
                               .token = options->token,
                               .admin_token = options->admin_token,
                               .may_be_open = may_be_open(options),
                               .tls = options->tls,
                               .idle_s = options->idle_s,
                               .most_served = options->max_fetches,
                               .handler = tpv_api_handler(service)};
    return tpv_http_server_open(&http, &service->http);
}

tpv_status_t tpv_service_check(const tpv_service_options_t *options) {
    if (options->unix_path) TPV_TRY(tpv_listen_check_unix(options->unix_path));
    if (options->listen) TPV_TRY(tpv_listen_check_tcp(options->listen, may_be_open(options)));
    return TPV_OK;
}

tpv_status_t tpv_service_open(const tpv_service_options_t *options, tpv_entry_t *const *entries, size_t count,
                              tpv_service_t **service) {
    tpv_service_t *s = calloc(1, sizeof *s);
    if (!s) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the service");
    s->options = *options;
    tpv_catalog_init(&s->catalog);
    pthread_mutex_init(&s->publisher.mutex, NULL);
    tpv_status_t status = TPV_OK;
    for (size_t i = 0; i < count && status == TPV_OK; i++)
        status = tpv_catalog_offer(&s->catalog, entries[i]);
    if (status == TPV_OK) status = tpv_net_open(options->net, &s->net);
    if (status == TPV_OK) status = tpv_pool_open(options->threads, &s->pool);
    if (status == TPV_OK) status = tpv_pool_open(TPV_PREPARATION_THREADS, &s->preparations);
    if (status == TPV_OK) status = tpv_pool_open(1, &s->long_preparations);
    if (status == TPV_OK) status = open_store(s);
    if (status == TPV_OK) status = open_mover(s);
    if (status == TPV_OK) status = open_http(s);
    if (status != TPV_OK) {
        tpv_service_close(s);
        return status;
    }
    *service = s;
    return TPV_OK;
}

tpv_status_t tpv_service_publish(tpv_service_t *service, tpv_entry_t *entry) {
    TPV_TRY(tpv_catalog_offer(&service->catalog, entry));
    tpv_store_supersede(service->store, entry);
    tpv_mover_wake(service->mover);
    return TPV_OK;
}

tpv_status_t tpv_service_retire(tpv_service_t *service, const char *label) {
    tpv_entry_t *entry = tpv_catalog_withdraw(&service->catalog, label);
    if (!entry) {
        tpv_status_t status = tpv_catalog_lacks(&service->catalog, label);
        return strchr(label, '@') ? status : tpv_error_prefix(status, "retiring needs NAME@VERSION");
    }
    tpv_store_withdraw(service->store, entry);
    tpv_entry_release(entry);
    tpv_mover_wake(service->mover);
    return TPV_OK;
}

/* libmicrohttpd tells nobody when the last answer is out, so this looks every millisecond. */
static void wait_answered(const tpv_http_server_t *http, int64_t deadline) {
    while (tpv_http_server_pending(http) > 0 && !tpv_deadline_passed(deadline))
        nanosleep(&(struct timespec){.tv_nsec = TPV_NS_PER_MS}, NULL);
}

void tpv_service_stop(tpv_service_t *service, double drain_s) {
    atomic_store_explicit(&service->closing, true, memory_order_relaxed);
    tpv_http_server_quiesce(service->http);
    tpv_publisher_stop(service);
    if (!tpv_mover_wait_drained(service->mover, tpv_deadline_in(drain_s))) {
        tpv_mover_refuse_all(service->mover);
        tpv_mover_wait_idle(service->mover, tpv_deadline_in(REFUSAL_S));
    }
    wait_answered(service->http, tpv_deadline_in(REFUSAL_S));
}

void tpv_service_hurry(tpv_service_t *service) {
    tpv_mover_refuse_all(service->mover);
}

void tpv_service_close(tpv_service_t *service) {
    if (!service) return;
    atomic_store_explicit(&service->closing, true, memory_order_relaxed);
    tpv_mover_stop(service->mover);
    /* No exchange may be suspended when the server is closed: what is being prepared still is refused first. */
    if (service->mover) tpv_mover_wait_idle(service->mover, TPV_DEADLINE_NEVER);
    tpv_pool_close(service->preparations);
    tpv_pool_close(service->long_preparations);
    tpv_http_server_close(service->http); /* connections that close here still wake the mover */
    tpv_mover_close(service->mover);
    tpv_store_close(service->store);
    tpv_table_close(service->table);
    tpv_pool_close(service->pool);
    tpv_net_close(service->net);
    tpv_catalog_clear(&service->catalog);
    pthread_mutex_destroy(&service->publisher.mutex);
    free(service);
}
