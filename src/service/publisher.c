#include "service/publisher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

typedef struct {
    tpv_service_t *service;
    tpv_exchange_t *exchange;
    bool quotes; /* an error may say what is in a file: the client may read it anyhow */
    /* The thread's until it resumes the exchange, then the HTTP side's. */
    tpv_entry_t *entry;
    tpv_status_t status;
    char message[TPV_ERROR_MAX];
} publication_t;

static bool unless_closing(void *user, uint64_t done, uint64_t total) {
    (void)done;
    (void)total;
    return !atomic_load_explicit(&((tpv_service_t *)user)->closing, memory_order_relaxed);
}

/* A message about a file may quote it: a name, a number, a few bytes. That is not for everybody who may name a file. */
static void note_failure(publication_t *publication) {
    memcpy(publication->message, tpv_error_message(), sizeof publication->message);
    if (publication->quotes || publication->status == TPV_ERR_REFUSED || publication->status == TPV_ERR_CANCELLED)
        return;
    TPV_WARN("publishing %s: %s", publication->entry->label, publication->message);
    snprintf(
        publication->message, sizeof publication->message,
        "artifact %s cannot be published: its files cannot be read as a checkpoint; the service's log has the reason",
        publication->entry->label);
}

static void *publish(void *argument) {
    publication_t *publication = argument;
    tpv_service_t *service = publication->service;
    publication->status = tpv_entry_open(publication->entry, service->options.threads, unless_closing, service);
    if (publication->status == TPV_OK) publication->status = tpv_service_publish(service, publication->entry);
    if (publication->status != TPV_OK) note_failure(publication);
    /* Before the answer: whoever has read it may publish the next one. */
    pthread_mutex_lock(&service->publisher.mutex);
    service->publisher.busy = false;
    pthread_mutex_unlock(&service->publisher.mutex);
    tpv_exchange_resume(publication->exchange);
    return NULL;
}

/* Under the mutex: a thread that has ended is joined before its place is taken again. */
static void join_last(tpv_service_t *service) {
    if (service->publisher.started) pthread_join(service->publisher.thread, NULL);
    service->publisher.started = false;
}

static tpv_status_t start_thread(tpv_service_t *service, publication_t *publication) {
    if (atomic_load_explicit(&service->closing, memory_order_relaxed))
        return tpv_error_set(TPV_ERR_REFUSED, "the service is shutting down");
    if (service->publisher.busy)
        return tpv_error_set(TPV_ERR_REFUSED, "another artifact is being published: try again when that is done");
    join_last(service);
    tpv_exchange_set_user(publication->exchange, publication);
    tpv_exchange_suspend(publication->exchange);
    int error = pthread_create(&service->publisher.thread, NULL, publish, publication);
    if (error) {
        publication->status = tpv_error_set_errno(TPV_ERR_SYSTEM, error, "cannot start a thread");
        memcpy(publication->message, tpv_error_message(), sizeof publication->message);
        tpv_exchange_resume(publication->exchange);
        return TPV_OK; /* the resumed exchange tells */
    }
    service->publisher.started = service->publisher.busy = true;
    return TPV_OK;
}

tpv_status_t tpv_publisher_start(tpv_service_t *service, tpv_exchange_t *exchange, const char *definition) {
    publication_t *publication = calloc(1, sizeof *publication);
    if (!publication) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to publish %s", definition);
    publication->service = service;
    publication->exchange = exchange;
    publication->quotes = !tpv_exchange_peer(exchange);
    tpv_status_t status = tpv_entry_create(definition, &publication->entry);
    if (status == TPV_OK && !publication->quotes)
        status = tpv_entry_confine(publication->entry, service->options.publish_roots);
    if (status == TPV_OK) status = tpv_catalog_check_free(&service->catalog, publication->entry->label);
    if (status == TPV_OK) {
        pthread_mutex_lock(&service->publisher.mutex);
        status = start_thread(service, publication);
        pthread_mutex_unlock(&service->publisher.mutex);
    }
    if (status != TPV_OK) {
        tpv_entry_release(publication->entry);
        free(publication);
    }
    return status;
}

tpv_status_t tpv_publisher_finish(tpv_exchange_t *exchange, tpv_entry_t **entry) {
    publication_t *publication = tpv_exchange_user(exchange);
    tpv_status_t status = publication->status;
    *entry = publication->entry;
    if (status != TPV_OK) tpv_error_set(status, "%s", publication->message);
    free(publication);
    return status;
}

void tpv_publisher_stop(tpv_service_t *service) {
    pthread_mutex_lock(&service->publisher.mutex);
    pthread_t thread = service->publisher.thread;
    bool started = service->publisher.started;
    service->publisher.started = false;
    pthread_mutex_unlock(&service->publisher.mutex);
    if (started) pthread_join(thread, NULL);
}
