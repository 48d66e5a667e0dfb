/* The view-export service: artifacts, control API, mover and lease table put together. */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

#include "service/http_server.h"
#include "service/mover.h"
#include "service/reach.h"

typedef struct tpv_service_options {
    const char *unix_path, *listen, *token, *admin_token;
    const tpv_tls_files_t *tls; /* as in http_server.h */
    bool insecure;
    const char *const *publish_roots; /* ends with NULL: below which TCP clients may publish; NULL: nowhere */
    const tpv_networks_t *allow_net;  /* where ranks may ask for their data, beside their own address */
    const char *net;                  /* plugin; NULL: NCCL_NET_PLUGIN, else tpview */
    unsigned threads;
    unsigned max_fetches;
    double idle_s;       /* of a control connection */
    double lease_ttl_s;  /* without movement */
    uint64_t budget;     /* bytes of export cache and staging; 0: a fraction of free memory */
    double export_ttl_s; /* from the last data movement */
} tpv_service_options_t;

typedef struct tpv_service {
    tpv_service_options_t options;
    tpv_catalog_t catalog;
    tpv_net_t *net;
    tpv_pool_t *pool;
    tpv_pool_t *preparations, *long_preparations;
    tpv_table_t *table;
    tpv_store_t *store;
    uint64_t budget;
    tpv_metrics_t metrics;
    tpv_mover_t *mover;
    tpv_http_server_t *http;
    struct {
        pthread_mutex_t mutex;
        pthread_t thread; /* under mutex, if started */
        bool started;     /* under mutex: to be joined */
        bool busy;        /* under mutex: still at work */
    } publisher;
    atomic_bool closing; /* relaxed: no new fetches once it is seen */
} tpv_service_t;

/* What is wrong with the options by themselves, before anything is opened: TPV_ERR_ARGUMENT, TPV_ERR_PERMISSION (an
 * address that other hosts can reach, without token, certificates of clients or `insecure`). Of tokens and the files of
 * TLS, only whether there are any counts. */
tpv_status_t tpv_service_check(const tpv_service_options_t *options);

/* Load the plugin, open the lease table, offer `entries` and serve. What `options` names outlives the service. Errors
 * of each part. The caller owns *service. */
tpv_status_t tpv_service_open(const tpv_service_options_t *options, tpv_entry_t *const *entries, size_t count,
                              tpv_service_t **service);

/* Offer one more artifact, or stop offering one. Any thread. TPV_ERR_ARGUMENT when the label is taken,
 * TPV_ERR_NOT_FOUND. */
tpv_status_t tpv_service_publish(tpv_service_t *service, tpv_entry_t *entry);
tpv_status_t tpv_service_retire(tpv_service_t *service, const char *label);

/* Refuse new fetches, let those in flight finish for `drain_s` seconds, refuse the rest. tpv_service_close is next. */
void tpv_service_stop(tpv_service_t *service, double drain_s);
/* A tpv_service_stop that is under way waits for no fetch any more. Any thread, until tpv_service_close. */
void tpv_service_hurry(tpv_service_t *service);
/* Close everything at once. NULL is allowed. */
void tpv_service_close(tpv_service_t *service);

#endif
