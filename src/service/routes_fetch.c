#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "service/preparation.h"
#include "service/routes.h"

static void end_fetch(tpv_service_t *service, tpv_served_fetch_t *job) {
    atomic_store_explicit(&job->ended, true, memory_order_release);
    tpv_mover_wake(service->mover);
    tpv_served_fetch_release(job);
}

/* On the mover's thread, or the one that prepared in vain. */
static void on_outcome(tpv_served_fetch_t *job) {
    tpv_exchange_resume(job->connection);
}

void tpv_route_fetch_begin(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_served_fetch_t *job = calloc(1, sizeof *job);
    if (!job) {
        tpv_route_fail(service, exchange, tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a fetch"));
        return;
    }
    atomic_init(&job->references, 2); /* the connection's and the mover's */
    job->arrived = tpv_clock_ns();
    job->deadline = job->expires = TPV_DEADLINE_NEVER;
    job->descriptor = tpv_exchange_descriptor(exchange);
    job->connection = exchange;
    job->answer = on_outcome;
    tpv_served_fetch_t *before = tpv_exchange_attach(exchange, job);
    if (before) end_fetch(service, before); /* one fetch for each connection */
    tpv_exchange_set_user(exchange, job);
    tpv_exchange_suspend(exchange);
    tpv_preparation_start(service, exchange, job);
}

void tpv_route_fetch_ended(tpv_service_t *service, tpv_exchange_t *exchange) {
    tpv_served_fetch_t *job = tpv_exchange_user(exchange);
    /* The resume came after the outcome was stored. */
    atomic_load_explicit(&job->answered, memory_order_acquire);
    if (job->outcome != TPV_OK) {
        tpv_metrics_refused(&service->metrics);
        tpv_exchange_fail(exchange, job->outcome, job->message);
        return;
    }
    tpv_route_answer(service, exchange,
                     json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "fetch_id", job->request.fetch_id_text,
                               "artifact", job->entry->label, "view_id", job->view_id, "export",
                               job->reused && !job->fed.waited ? "warm" : "cold", "bytes", (json_int_t)job->sent.bytes,
                               "wire_bytes", (json_int_t)job->sent.wire, "chunks", (json_int_t)job->sent.chunks));
}

/* The end of a lease that is not this connection's, or is over, changes nothing: its own connection's end ends it. */
void tpv_route_lease_end(tpv_service_t *service, tpv_exchange_t *exchange, const char *id) {
    tpv_served_fetch_t *job = tpv_exchange_attach(exchange, NULL);
    bool ended = job && strcmp(job->request.fetch_id_text, id) == 0;
    if (ended)
        end_fetch(service, job);
    else if (job)
        tpv_exchange_attach(exchange, job);
    tpv_route_answer(service, exchange, json_pack("{s:b}", "ended", ended));
}

bool tpv_route_fetch_goes_on(const tpv_served_fetch_t *job) {
    return atomic_load_explicit(&job->references, memory_order_relaxed) > 1; /* one is the connection's */
}

void tpv_route_fetch_lost(tpv_service_t *service, tpv_served_fetch_t *job) {
    end_fetch(service, job);
}
