/* One request for bytes of a view to one service, its data comms and the sink that takes the chunks, on the caller's
 * thread. transfer.h has what is made of attempts. */
#ifndef CLIENT_ATTEMPT_H
#define CLIENT_ATTEMPT_H

#include "base/ranges.h"
#include "client/http.h"
#include "client/pace.h"
#include "client/sink.h"

/* What a failed attempt says of the next one. */
typedef enum tpv_attempt_end {
    TPV_ATTEMPT_DONE,
    TPV_ATTEMPT_BROKEN,  /* a comm, a connection or bytes on their way: the same service may do better */
    TPV_ATTEMPT_REFUSED, /* the service's own word: it will not do better */
    TPV_ATTEMPT_FINAL    /* nothing that a service has to do with: the sink, the caller, the deadline */
} tpv_attempt_end_t;

typedef struct tpv_attempt {
    /* What is asked for. */
    const tpv_artifact_t *artifact;
    const tpv_view_t *view;
    const tpv_fetch_options_t *options;
    int64_t deadline;    /* base/clock.h; options->deadline_s counts for nothing here */
    int64_t patience_ns; /* after that long without a byte it is broken */
    tpv_sink_t *sink;    /* has begun */
    tpv_ranges_t *have;  /* dense bytes that the sink has; the rest is asked for, and at least one chunk */

    tpv_pace_t *pace; /* of verified chunks */

    /* How it went. */
    tpv_attempt_end_t end;
    uint64_t wire_bytes, chunks;
    char fetch_id[33];
    char artifact_label[128], export_kind[8]; /* as in tpv_fetch_result_t; once the service has answered */
} tpv_attempt_t;

/* Errors as tpv_fetch, and those of the sink. What has arrived is in *have, whatever is returned; nothing is when the
 * service says that it sent another view. Once all is there, what the service says of the end of its lease is waited
 * for no longer than TPVIEW_SOURCE_TIMEOUT. */
tpv_status_t tpv_attempt_run(tpv_attempt_t *attempt, tpv_http_t *http);

#endif
