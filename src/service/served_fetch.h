/*
 * One fetch at the source, from the admitted request to its end.
 *
 * The HTTP side makes it, hands it to the mover and keeps one reference; the mover keeps another. While the mover
 * works, the HTTP connection is suspended; its outcome resumes it. The fetch then waits, with its comms open, for the
 * receiver's acknowledgement or the loss of the control connection.
 */
#ifndef SERVICE_SERVED_FETCH_H
#define SERVICE_SERVED_FETCH_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/error.h"
#include "service/feeder.h"
#include "service/request.h"

typedef struct tpv_served_fetch tpv_served_fetch_t;

typedef enum tpv_fetch_state {
    TPV_FETCH_QUEUED,
    TPV_FETCH_SENDING,
    TPV_FETCH_SILENT,  /* could not connect elsewhere; says so when `silence` is over */
    TPV_FETCH_SENT,    /* every message is with the plugin; awaits the acknowledgement */
    TPV_FETCH_STOPPING /* ended; a pool thread may still work for it */
} tpv_fetch_state_t;

struct tpv_served_fetch {
    /* Set before the mover sees it, read-only after. */
    tpv_request_t request;
    tpv_entry_t *entry;
    tpv_store_t *store;
    tpv_stored_t *stored; /* in use until the mover has stopped */
    tpv_stream_t stream;
    int64_t arrived;                         /* when its request was complete; deadlines count from there */
    int64_t deadline;                        /* base/clock.h */
    int descriptor;                          /* the control connection's, watched while it is suspended */
    void (*answer)(tpv_served_fetch_t *job); /* called once by the mover when `outcome` is set */
    void *connection;
    char view_id[TPV_ID_CHARS];
    tpv_lease_t lease;
    bool reused;    /* the export was there already */
    bool elsewhere; /* the data goes to a host that is not the control connection's */

    int64_t next_look; /* of who prepares it, then the mover's */

    /* The mover's alone. */
    tpv_fetch_state_t state;
    uint64_t staging; /* reserved of the budget */
    tpv_feeder_t *feeder;
    tpv_sender_t *sender;
    int64_t silence; /* until when nothing is told of connecting elsewhere */
    int64_t begin, next_renewal;
    int64_t expires; /* the lease, unless bytes move; never while it waits for its turn */
    tpv_served_fetch_t *next;

    /* Written by the mover before `answered` is stored (release), read by the HTTP side after loading it (acquire). */
    tpv_status_t outcome;
    char message[TPV_ERROR_MAX];
    tpv_stream_counts_t sent;
    tpv_feeder_counts_t fed;
    atomic_bool answered;

    atomic_bool ended; /* set (release) by the HTTP side: acknowledged, or the control connection is gone */
    atomic_uint references;
};

#endif
