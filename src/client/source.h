#ifndef CLIENT_SOURCE_H
#define CLIENT_SOURCE_H

#include "client/http.h"
#include "tpview/fetch.h"

struct tpv_source {
    tpv_http_t *services[TPV_MAX_SOURCES]; /* in the order of their naming */
    unsigned count, present;               /* the one that was asked last is the first to be asked next */
};

/* How long to wait for a service that may be left for another one. */
int64_t tpv_source_patience_ns(void);

#endif
