/*
 * Fetching: a rank asks a view-export service (tpviewd) for its view and receives the dense form straight into memory
 * of its own, through the receive comms of an NCCL net plugin.
 *
 * A source may have several services that serve the same artifacts. A fetch that loses one goes on at the same or the
 * next and asks only for the bytes that it lacks: what is verified stays. All have to be of one artifact_id and one
 * view_id: nothing is ever put together of two versions.
 *
 * Deadlines are relative seconds, taken from the call on; every wait inside ends with them, and TPV_ERR_DEADLINE is
 * final. After any error the destination's content is undefined and the lease at the source has been given back (or
 * will be, when the source notices that we are gone).
 *
 * Threads: a tpv_source_t serves one call at a time; use one for each thread.
 */
#ifndef TPVIEW_FETCH_H
#define TPVIEW_FETCH_H

#include "tpview/view.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TPV_MAX_SOURCES 16
#define TPV_MAX_COMMS 64
#define TPV_MIN_CHUNK 4096u
#define TPV_MAX_CHUNK (64u << 20)
#define TPV_MAX_WORKERS 1024
#define TPV_WORKERS_NONE (-1)

typedef struct tpv_source tpv_source_t;

/* Who we are and whom we trust. The paths name PEM files, read when the source is opened; the last three are for
 * https:// alone. */
typedef struct tpv_source_options {
    const char *token;    /* bearer token; NULL: none */
    const char *tls_ca;   /* the only authorities that may have signed the service's certificate; NULL: those that this
                             host trusts */
    const char *tls_cert; /* our certificate and what leads to its authority, for a service that asks; NULL: none */
    const char *tls_key;  /* its private key, which only its owner can read */
    bool any_uid;         /* unix: whoever listens there is trusted, not this user and root alone */
} tpv_source_options_t;

/*
 * Name a service: `address` is "unix:PATH", "HOST:PORT" ("[v6]:PORT"), or "https://HOST:PORT" for TLS; NULL is the
 * Unix socket at which this user's tpviewd is by default, $XDG_RUNTIME_DIR/tpviewd.sock or
 * /tmp/tpview-UID/tpviewd.sock. `options` may be NULL. Nothing is sent yet. TPV_ERR_ARGUMENT for another form and for
 * TLS options without https://; for the files of TLS TPV_ERR_NOT_FOUND, TPV_ERR_PERMISSION, TPV_ERR_FORMAT and
 * TPV_ERR_SYSTEM; TPV_ERR_PERMISSION when the folder of the default socket is not this user's alone;
 * TPV_ERR_UNSUPPORTED, TPV_ERR_NO_MEMORY. The caller owns *source.
 */
TPV_API tpv_status_t tpv_source_open(const char *address, const tpv_source_options_t *options, tpv_source_t **source);
/*
 * Name one more service, to be asked when those named before it cannot give what is wanted. Errors as tpv_source_open,
 * and TPV_ERR_ARGUMENT for one more than TPV_MAX_SOURCES, and for NULL.
 */
TPV_API tpv_status_t tpv_source_add(tpv_source_t *source, const char *address, const tpv_source_options_t *options);
/* NULL is allowed. Ends leases that are still held through it. */
TPV_API void tpv_source_close(tpv_source_t *source);

/* GET a read-only path of the control API (docs/control-api.md), such as "/v1/artifacts", from the first service that
 * answers it well; one that is silent is left for the next after TPVIEW_SOURCE_TIMEOUT. The caller frees *json.
 * TPV_ERR_PEER when nobody answers there, TPV_ERR_PERMISSION (by the service, or by us when its certificate or the user
 * that listens on its Unix socket is not to be trusted; nothing is sent then), TPV_ERR_NOT_FOUND, TPV_ERR_PROTOCOL,
 * TPV_ERR_DEADLINE, TPV_ERR_SYSTEM when this process has no file descriptor left, TPV_ERR_NO_MEMORY. */
TPV_API tpv_status_t tpv_source_get(tpv_source_t *source, const char *path, double deadline_s, char **json);

/* The index of artifact "NAME" (its newest version at the first service that has one) or "NAME@VERSION". Errors as
 * tpv_source_get, and TPV_ERR_FORMAT for a bad manifest. The caller owns *artifact. */
TPV_API tpv_status_t tpv_source_artifact(tpv_source_t *source, const char *name, double deadline_s,
                                         tpv_artifact_t **artifact);

/*
 * Have the running service offer "NAME@VERSION=DIR" as well; DIR is a path on its host. Returns when it has computed
 * the digest and offers it. Older versions stay on offer, but their cached exports are the first to go.
 * TPV_ERR_ARGUMENT for a label that is taken and for a source of several services, TPV_ERR_PERMISSION when the service
 * trusts only its Unix socket or a token, what tpv_artifact_open returns there, and errors as tpv_source_get.
 */
TPV_API tpv_status_t tpv_source_publish(tpv_source_t *source, const char *definition, double deadline_s);

/* Have the service stop offering "NAME@VERSION". Fetches in flight end as usual, then its exports are freed; it never
 * comes back but by a new publish. TPV_ERR_ARGUMENT for a source of several services, TPV_ERR_NOT_FOUND,
 * TPV_ERR_PERMISSION, and errors as tpv_source_get. */
TPV_API tpv_status_t tpv_source_retire(tpv_source_t *source, const char *label, double deadline_s);

typedef struct tpv_fetch_options {
    const char *net;      /* net plugin: a name or a path; NULL: NCCL_NET_PLUGIN, else tpview */
    uint32_t comms;       /* 1 to TPV_MAX_COMMS; 0: TPVIEW_COMMS */
    uint64_t chunk_bytes; /* longest chunk to take, TPV_MIN_CHUNK to TPV_MAX_CHUNK; 0: TPVIEW_CHUNK_BYTES */
    int32_t workers;      /* threads that compare digests, copy and write, beside the caller's, which only receives: 1
                             to TPV_MAX_WORKERS; TPV_WORKERS_NONE: the caller's does all; 0: TPVIEW_WORKERS */
    bool no_digests;      /* do not compare chunk digests */
    bool no_sync;         /* a file is not written to the disk before it gets its name: see tpv_fetch_file */
    bool no_fallback;     /* fail when the source cannot cut or hold the view, instead of fetching whole tensors */
    uint32_t tp_rank;     /* told to the source for its lease table */
    uint32_t tp_size;
    double deadline_s; /* for the whole fetch; 0 and less: none */
    tpv_progress_t progress;
    void *progress_user;
} tpv_fetch_options_t;

/* What one service of a source gave to a fetch. */
typedef struct tpv_fetch_share {
    uint64_t bytes;      /* verified */
    uint64_t wire_bytes; /* all that came as messages: chunks, trailers, greetings */
    uint32_t attempts;   /* how often it was asked */
} tpv_fetch_share_t;

typedef struct tpv_fetch_result {
    uint64_t needed_bytes; /* the dense form */
    uint64_t wire_bytes;   /* all that came as messages, of all services */
    uint64_t chunks;
    double seconds;         /* from the call to the last verified byte */
    double first_seconds;   /* to the first verified chunk; 0 where there is none */
    double gap_p99_seconds; /* from one verified chunk to the next, in 99 of 100 cases at most; 0 with less than two
                               chunks and when whole tensors were fetched */
    char fetch_id[33];      /* 32 hex digits */
    char artifact[128];     /* NAME@VERSION, as the source calls it */
    char export_kind[8];    /* "cold", or "warm" when the source had nothing to gather */
    bool digests_checked;
    bool canonical; /* whole tensors were fetched and cut here; export_kind is "whole" */
    uint32_t source_count;
    tpv_fetch_share_t sources[TPV_MAX_SOURCES]; /* in the order in which the services were named */
} tpv_fetch_result_t;

/*
 * Fetch `view` of `artifact` (an index that tpv_source_artifact gave, or an open artifact with the same artifact_id)
 * into `destination`, which has room for the dense form. The memory must stay valid during the call only. On success
 * the source has been told to end the lease, and does so at once.
 *
 * Bytes that differ from what was sent, a comm or a service that died: what is missing is asked for again, as long as
 * there is a service that gave a byte when it was last asked, or was not asked since; a service that said no is not
 * asked again. A service from which no byte came for TPVIEW_SOURCE_TIMEOUT seconds is left while there is another one.
 *
 * Errors, with what each service was asked in vain for last: TPV_ERR_DIGEST for bytes that differ from what the source
 * sent, TPV_ERR_PEER for a source or comm that died, TPV_ERR_DEADLINE, TPV_ERR_NET, TPV_ERR_REFUSED,
 * TPV_ERR_NOT_FOUND, TPV_ERR_CANCELLED, and what the source reports of its side.
 */
TPV_API tpv_status_t tpv_fetch(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                               const tpv_fetch_options_t *options, void *destination, tpv_fetch_result_t *result);

/* Where one output of a view goes: memory of an engine, such as a parameter or a slice of one. */
typedef struct tpv_destination {
    void *data;                    /* of the element with all indices 0 */
    int64_t strides[TPV_MAX_DIMS]; /* for each dim of the output, in elements; may be negative */
} tpv_destination_t;

/*
 * tpv_fetch into tensors as an engine has laid them out: `destinations` has one for each output, in the view's order.
 * Only the elements' own bytes are written, while chunks arrive: after an error some have new values. The destinations
 * must not overlap. TPV_ERR_ARGUMENT for a missing destination, for stride 0 in a dim longer than 1, and for strides
 * that are not dense where elements are smaller than a byte. When the source refuses the view, memory for all of it is
 * taken on the way.
 */
TPV_API tpv_status_t tpv_fetch_tensors(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                       const tpv_fetch_options_t *options, const tpv_destination_t *destinations,
                                       tpv_fetch_result_t *result);

/*
 * tpv_fetch into a new safetensors file. Verified chunks are written to `path` + ".partial"; an error removes that.
 * When all are there, the file is written to the disk, gets its name, and the name is written to the disk: a crash or a
 * power failure leaves what was there before or the whole file. With options->no_sync the kernel writes it later, and a
 * power failure (not the death of a process) may leave a file of the right length with wrong bytes. TPV_ERR_NO_SPACE
 * before anything is asked for when the disk has no room, where the file system can tell. TPV_ERR_ARGUMENT when `path`
 * is there and no regular file, TPV_ERR_REFUSED while another process writes the same file. When the source refuses the
 * view, memory for all of it is taken on the way.
 */
TPV_API tpv_status_t tpv_fetch_file(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                    const tpv_fetch_options_t *options, const char *path, tpv_fetch_result_t *result);

/*
 * Cut `view` of the local `artifact` and compare it with the safetensors file at `path`: names, dtypes, shapes and
 * every byte. TPV_ERR_DIGEST names the first difference (tensor and element); TPV_ERR_FORMAT, TPV_ERR_SYSTEM.
 */
TPV_API tpv_status_t tpv_verify_file(const tpv_artifact_t *artifact, const tpv_view_t *view, const char *path,
                                     tpv_progress_t progress, void *user);

#ifdef __cplusplus
}
#endif
#endif
