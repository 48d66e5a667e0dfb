/* A rank of tpview_perf: a process of its own that does one trial after the other, as it is told over a socket. */
#ifndef TOOLS_PERF_RANK_H
#define TOOLS_PERF_RANK_H

#include "base/error.h"
#include "tools/perf/sized_view.h"

typedef enum {
    TPV_TRIAL_STREAM, /* as many bytes over one comm of the plugin: no framing, no digests */
    TPV_TRIAL_WARM,   /* a fetch of a view that the service has ready */
    TPV_TRIAL_COLD,   /* of one that it has never seen */
    TPV_TRIAL_UPDATE, /* of a version that is new: its index, the plan and the fetch */
    TPV_TRIAL_WHOLE,  /* the canonical way: all of every tensor that the view needs, cut here */
    TPV_TRIAL_KINDS
} tpv_trial_kind_t;

typedef struct tpv_trial_order {
    tpv_trial_kind_t kind;
    uint64_t size;      /* of the view, about; 0: all of it */
    unsigned number;    /* of the trial in this run, so that cold views differ */
    bool check;         /* compare the bytes with those of the canonical way; not for a stream */
    char artifact[256]; /* NAME@VERSION of an update */
} tpv_trial_order_t;

/* What is sent back. Times in seconds. */
typedef struct tpv_trial {
    tpv_status_t status;
    char message[TPV_ERROR_MAX]; /* unless TPV_OK */
    double seconds;
    double first_seconds, gap_p99_seconds; /* to the first verified chunk; between two of them. 0: not known */
    uint64_t outputs, elements, bytes, wire_bytes;
    uint64_t wrong;        /* elements, of a trial that is checked */
    uint64_t memory_bytes; /* what the process took at most beside the view's own memory */
    bool warm;             /* the source had it ready */
    char type[16];         /* dtype, or "mixed" */
} tpv_trial_t;

typedef struct tpv_rank_setup {
    const char *address, *artifact;
    tpv_source_options_t connection;
    tpv_plan_options_t plan;
    tpv_fetch_options_t fetch; /* chunk_bytes is not 0 */
    tpv_cut_t cut;
} tpv_rank_setup_t;

/* "stream", "warm", ... Static storage. */
const char *tpv_trial_name(tpv_trial_kind_t kind);

/* Do what comes over `orders` until it ends. The first answer comes unasked: whether the rank is ready. */
void tpv_rank_serve(const tpv_rank_setup_t *setup, int orders);

#endif
