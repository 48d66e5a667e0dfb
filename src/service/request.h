/* POST /v1/fetch: its JSON, parsed strictly. docs/control-api.md has the fields. */
#ifndef SERVICE_REQUEST_H
#define SERVICE_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/id.h"
#include "base/ranges.h"
#include "tpview/artifact.h"

#define TPV_REQUEST_MAX (64u << 20)

typedef struct tpv_request {
    uint8_t fetch_id[TPV_ID_BYTES];
    char fetch_id_text[TPV_ID_TEXT];
    char artifact_id[TPV_ID_CHARS];
    char view_id[TPV_ID_CHARS]; /* what the rank takes the view for; empty: it did not say */
    char net[64];
    char host[72];
    int32_t pid;
    uint32_t tp_rank, tp_size;
    uint32_t comms;
    uint32_t max_chunk_bytes; /* the longest chunk that the rank takes */
    int64_t deadline_ms;      /* 0: none */
    uint8_t *handles;         /* comms times NCCL_NET_HANDLE_MAXSIZE bytes */
    tpv_range_t *ranges;      /* as in tpv_stream_t; whether they lie inside of the view has yet to be checked */
    uint32_t range_count;
    const char *view; /* the spec's JSON text, in what was parsed; its syntax has yet to be checked */
    size_t view_length;
} tpv_request_t;

/* No tree is made of the view, whose text may be long. TPV_ERR_FORMAT names the field, what it has and what was
 * expected; TPV_ERR_NO_MEMORY. *request must be cleared with tpv_request_clear in either case. */
tpv_status_t tpv_request_parse(const char *json, size_t length, tpv_request_t *request);
void tpv_request_clear(tpv_request_t *request);

#endif
